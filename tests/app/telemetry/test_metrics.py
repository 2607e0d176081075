"""What Prometheus sees of a real server, after requests whose number is known."""

import os
import signal
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from prometheus_client import exposition
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from app.configuration.settings import Settings
from app.telemetry.metrics import Metrics, ModelState
from app.timing import Interval
from bundle.reader import open_bundle
from tests.support.pictures import encoded, scene
from tests.support.processes import workers
from tests.support.servers import Server, crossvit_serve
from tests.support.waiting import wait_until

JPEG = encoded(scene(800, 600), "JPEG")
MODEL = "crossvit_tiny"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def counted(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("counted") / "log"
    options = ["--engine", "onnxruntime", "--precision", "f32", "--decoders", "1"]
    with crossvit_serve(log, "--bundle", str(bundle), *options) as started:
        started.wait_until_ready()
        yield started


@pytest.fixture
def caller(counted: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=counted.url, timeout=60) as client:
        yield client


def parsed(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(client: httpx.Client) -> Samples:
    return parsed(client.get("/metrics").text)


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((f"crossvit_{name}", frozenset(labels.items())), 0)


def rises(before: Samples, after: Samples, name: str) -> dict[frozenset[tuple[str, str]], float]:
    return {
        labels: found - before.get((known, labels), 0)
        for (known, labels), found in after.items()
        if known == f"crossvit_{name}" and found != before.get((known, labels), 0)
    }


def labelled(*values: tuple[float, dict[str, str]]) -> dict[frozenset[tuple[str, str]], float]:
    return {frozenset(labels.items()): number for number, labels in values}


def rise_of(client: httpx.Client, name: str, act: Callable[[], object]) -> dict[frozenset[tuple[str, str]], float]:
    before = scrape(client)
    act()
    return rises(before, scrape(client), name)


def test_requests_are_counted_by_route_method_and_status(caller: httpx.Client) -> None:
    def act() -> None:
        for _ in range(3):
            assert caller.post("/classify", files={"file": JPEG}).status_code == 200
        assert caller.post("/classify", content=b"nothing").status_code == 415
        assert caller.get("/models").status_code == 200
        assert caller.get(f"/v2/models/{MODEL}/ready").status_code == 200
        assert caller.get("/v2/models/another/ready").status_code == 404

    classify, ready = {"route": "/classify", "method": "POST"}, {"route": "/v2/models/{name}/ready", "method": "GET"}
    assert rise_of(caller, "requests_total", act) == labelled(
        (3, classify | {"status": "200"}),
        (1, classify | {"status": "415"}),
        (1, {"route": "/models", "method": "GET", "status": "200"}),
        (1, ready | {"status": "200"}),
        (1, ready | {"status": "404"}),
        (1, {"route": "/metrics", "method": "GET", "status": "200"}),
    )


def test_values_that_clients_make_up_become_no_labels(caller: httpx.Client) -> None:
    def act() -> None:
        for number in range(5):
            caller.get(f"/made/up/{number}")
            caller.get(f"/v2/models/{number}")
            caller.get(f"/v2/models/v{number}/versions/m{number}")
            caller.post(f"/v2/repository/models/models{number}/unload")
            caller.get("/classify", params={"made": str(number)}, headers={f"X-Made-{number}": "up"})
        for method in ("PROPFIND", "PURGE", "DELETE", "HEAD", "TRACE"):
            caller.request(method, "/classify")
            caller.request(method, "/made-up")

    labels = [dict(found) for found in rise_of(caller, "requests_total", act) if ("route", "/metrics") not in found]
    assert {(found["route"], found["method"], found["status"]) for found in labels} == {
        ("other", "other", "404"),
        ("/classify", "other", "405"),
        ("/v2/models/{name}", "GET", "404"),
        ("/v2/models/{name}/versions/{version}", "GET", "404"),
        ("/v2/repository/models/{name}/unload", "POST", "403"),
    }
    assert "another" not in caller.get("/metrics").text


def test_histograms_have_each_image_and_each_engine_call(caller: httpx.Client) -> None:
    before = scrape(caller)
    spent = [caller.post("/classify", files={"file": JPEG}).json()["timing_ms"] for _ in range(3)]
    caller.post("/classify/batch", files=[("files", JPEG), ("files", JPEG), ("files", b"no image")])
    after = scrape(caller)

    def rise(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert rise("request_seconds_count", route="/classify") == 3
    assert rise("request_seconds_sum", route="/classify") >= sum(timing["total"] for timing in spent) / 1000
    for stage in ("queue", "decode"):
        assert rise(f"{stage}_seconds_count", model=MODEL) == 5
        assert rise(f"{stage}_seconds_sum", model=MODEL) >= sum(timing[stage] for timing in spent) / 1000 - 1e-4
    calls = rise("inference_seconds_count", model=MODEL)
    assert calls in (4, 5)  # the batch's images come from one decoder: together or one after the other
    assert rise("batch_images_count", model=MODEL) == calls
    assert rise("batch_images_sum", model=MODEL) == 5
    assert rise("batch_images_bucket", model=MODEL, le="1.0") == (3 if calls == 4 else 5)
    assert rise("inference_seconds_sum", model=MODEL) > sum(timing["inference"] for timing in spent) / 1000 - 1e-4


def test_times_fall_between_the_buckets_and_not_beside_them(caller: httpx.Client) -> None:
    caller.post("/classify", files={"file": JPEG})
    samples = scrape(caller)
    for name, labels in (
        ("request_seconds", {"route": "/classify"}),
        ("decode_seconds", {"model": MODEL}),
        ("inference_seconds", {"model": MODEL}),
    ):
        bounds = sorted(
            float(dict(found)["le"])
            for known, found in samples
            if known == f"crossvit_{name}_bucket" and found >= labels.items()
        )
        assert bounds[-1] == float("inf")
        assert bounds[-2] >= Settings.model_fields["request_seconds"].default
        assert all(later / earlier <= 3 for earlier, later in pairwise(bounds[:-1]))
        count = value(samples, f"{name}_count", **labels)
        below, within = (value(samples, f"{name}_bucket", le=str(bounds[at]), **labels) for at in (0, -2))
        assert name == "request_seconds" or below < count / 2  # many requests are refused at once
        assert within == count


@pytest.mark.parametrize(
    ("reason", "act"),
    [
        ("NotAnImage", lambda client: client.post("/classify", content=b"nothing")),
        ("NoImage", lambda client: client.post("/classify", content=b"")),
        ("TooLarge", lambda client: client.post("/classify", content=bytes(11_000_000))),
        ("UnknownModel", lambda client: client.post("/classify?model=x", content=JPEG)),
        ("BadImage", lambda client: client.post("/classify", content=JPEG[:1000])),
        ("BadParameter", lambda client: client.post("/classify?resolution=225", content=JPEG)),
        ("Forbidden", lambda client: client.post("/admin/reload")),
        ("NotAnImage", lambda client: client.post("/classify/batch", files=[("files", b"nothing"), ("files", JPEG)])),
        ("BadInference", lambda client: client.post(f"/v2/models/{MODEL}/infer", json={})),
        ("TooLate", lambda client: client.post("/classify", content=JPEG, headers={"X-Request-Timeout-Ms": "1"})),
    ],
)
def test_refusals_are_counted_by_reason(
    caller: httpx.Client, reason: str, act: Callable[[httpx.Client], object]
) -> None:
    assert rise_of(caller, "rejected_total", lambda: act(caller)) == labelled((1, {"reason": reason}))


def test_the_served_model_is_shown_by_gauges(caller: httpx.Client, bundle: Path) -> None:
    opened = open_bundle(bundle)
    samples = scrape(caller)
    info = {
        "model": MODEL,
        "variant": MODEL,
        "engine": "onnxruntime",
        "precision": "f32",
        "weights": opened.manifest.weights.id,
        "bundle": opened.hash,
    }
    assert value(samples, "model_info", **info) == 1
    assert value(samples, "model_ready", model=MODEL) == 1
    assert ("crossvit_queue_images", frozenset({("model", MODEL)})) in samples
    assert value(samples, "decoders") == 1
    assert samples["process_resident_memory_bytes", frozenset()] > 10_000_000


def test_restarts_are_counted_from_zero_on(counted: Server, caller: httpx.Client) -> None:
    before = scrape(caller)
    for name, labels in (("decoder_restarts_total", {}), ("engine_restarts_total", {"model": MODEL})):
        reasons = {dict(found)["reason"] for known, found in before if known == f"crossvit_{name}"}
        assert {"died", "hung", "failed"} < reasons
        assert all(value(before, name, reason=reason, **labels) == 0 for reason in reasons)
    for role in ("decoder", "engine"):
        (worker,) = workers(counted.process.pid, role)
        os.kill(worker, signal.SIGKILL)
    wait_until(lambda: rises(before, scrape(caller), "engine_restarts_total"))
    counted.wait_until_ready()
    assert caller.post("/classify", content=JPEG).status_code == 200
    after = scrape(caller)
    assert rises(before, after, "decoder_restarts_total") == labelled((1, {"reason": "ended"}))
    assert rises(before, after, "engine_restarts_total") == labelled((1, {"model": MODEL, "reason": "ended"}))
    assert value(after, "model_ready", model=MODEL) == 1


def test_openmetrics_is_spoken_where_it_is_asked_for(caller: httpx.Client) -> None:
    assert caller.get("/metrics").headers["Content-Type"].startswith("text/plain; version=")
    response = caller.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    names = {family.name for family in openmetrics(response.text)}  # type: ignore[no-untyped-call]
    assert {"crossvit_requests", "crossvit_model_info", "crossvit_batch_images"} < names


# Without a server


def test_gauges_are_asked_for_at_each_scrape() -> None:
    states = [ModelState("a", True, 3, {"engine": "x"}, {"y", "z"}), ModelState("b", False, 0, {})]
    metrics = Metrics(lambda: states)

    def now() -> Samples:
        return parsed(exposition.generate_latest(metrics.registry).decode())

    assert value(now(), "queue_images", model="a") == 3
    assert value(now(), "model_ready", model="a") == 1
    assert value(now(), "model_info", model="a", engine="x") == 1
    assert [value(now(), "engine_refused", model="a", engine=engine) for engine in "xyz"] == [0, 1, 1]
    assert ("crossvit_model_ready", frozenset({("model", "b")})) in now()
    assert not [labels for name, labels in now() if name == "crossvit_model_info" and ("model", "b") in labels]
    states[:] = [ModelState("b", True, 7, {"engine": "y"})]
    assert value(now(), "queue_images", model="b") == 7
    assert not [labels for _, labels in now() if ("model", "a") in labels]


def test_what_a_model_did_outlives_its_reload() -> None:
    metrics = Metrics(lambda: [])
    metrics.model("a").batch(3, Interval(1.0, 1.5))
    metrics.model("a").engine_restarted("hung")
    metrics.model("a").batch(5, Interval(2.0, 2.25))
    samples = parsed(exposition.generate_latest(metrics.registry).decode())
    assert value(samples, "batch_images_sum", model="a") == 8
    assert value(samples, "inference_seconds_sum", model="a") == 0.75
    assert value(samples, "engine_restarts_total", model="a", reason="hung") == 1
    assert {size: total.seconds for size, total in metrics.model("a").totals.batches.items()} == {3: 0.5, 5: 0.25}

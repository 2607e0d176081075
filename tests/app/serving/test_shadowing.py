"""A shadow beside the default model: a real server of two bundles, whose metrics say what the shadow was asked."""

import asyncio
import base64
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.errors import EngineFailed
from app.serving.answer_taps import AnsweredImages, RequestSample
from app.serving.shadowing import MOST_COPIES, Shadow
from app.telemetry.metrics import Metrics
from app.telemetry.shadow_metrics import ShadowMetrics
from app.timing import Interval
from tests.support.calibrations import calibrate_bundle, made_calibration
from tests.support.pictures import JPEG, encoded, scene
from tests.support.processes import workers
from tests.support.servers import Server, StartServer, crossvit_serve
from tests.support.waiting import wait_until

ROLES = ("engine current", "engine candidate")
ENGINE = ["--engine", "onnxruntime", "--precision", "f32", "--admin-keys", "boss-of-all"]


@pytest.fixture(scope="module")
def models(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles with the same weights; the scores of `candidate` are calibrated."""
    folder = tmp_path_factory.mktemp("shadow") / "models"
    shutil.copytree(bundle, folder / "current")
    shutil.copytree(bundle, folder / "candidate")
    copy = folder / "candidate"
    calibrate_bundle(copy, made_calibration(copy, 0.5), made_calibration(copy, 0.5, resolution=384))
    return folder


@pytest.fixture(scope="module")
def shadowed(models: Path) -> Iterator[Server]:
    options = [
        "--bundle",
        str(models),
        "--default-model",
        "current",
        "--shadow",
        "candidate",
        "--shadow-percent",
        "100",
    ]
    with crossvit_serve(models.parent / "log", *options, *ENGINE) as server:
        server.wait_until_ready(path="/readyz?model=candidate")
        yield server


def counted(server: Server) -> Counter[str]:
    """What the metrics have of the shadow, by outcome, "agreements" and "differences"."""
    found: Counter[str] = Counter()
    for line in httpx.get(f"{server.url}/metrics").text.splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("crossvit_shadow_images_total"):
            (outcome,) = re.findall('outcome="(\\w+)"', name)
            found[outcome] += int(float(value))
        elif name.startswith("crossvit_shadow_agreements_total"):
            found["agreements"] += int(float(value))
        elif name.startswith("crossvit_shadow_score_difference_sum"):
            found["differences"] += round(1e6 * float(value))
    return found


def test_every_way_of_asking_is_copied_and_compared(shadowed: Server) -> None:
    text = base64.b64encode(JPEG).decode()
    with httpx.Client(base_url=shadowed.url, timeout=60) as client:
        side = client.get("/models").json()["models"][0]["default_resolution"]
        pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
        files = [("files", ("a.jpg", JPEG))] * 2
        image = {"name": "image", "shape": [1, side, side, 3], "datatype": "UINT8", "data": pixels.reshape(-1).tolist()}
        encoded = {"name": "encoded", "shape": [2], "datatype": "BYTES", "data": [text, text]}
        requests: list[tuple[str, dict[str, Any], int]] = [
            ("/classify", {"content": JPEG}, 1),
            ("/classify?resolution=384", {"content": JPEG}, 1),
            ("/classify/batch", {"files": files}, 2),
            ("/v2/models/current/infer", {"json": {"inputs": [encoded]}}, 2),
            ("/v2/models/current/infer", {"json": {"inputs": [image]}}, 1),
            ("/", {"content": JPEG}, 1),
            ("/predictions/current", {"content": JPEG}, 1),
        ]
        for path, request, images in requests:
            before = counted(shadowed)
            response = client.post(path, **request)
            assert response.status_code == 200, response.text
            wait_until(lambda: counted(shadowed)["answered"] == before["answered"] + images)  # noqa: B023
            after = counted(shadowed)
            assert after["agreements"] == before["agreements"] + images  # the weights are the same
            assert after["differences"] > before["differences"]  # and the temperature is not
            assert (after["dropped"], after["failed"]) == (0, 0)
        assert client.post("/classify", content=JPEG).json()["model"]["name"] == "current"
        text = client.get("/metrics").text
    for name in ("queue_seconds", "inference_seconds"):  # autoscalers add these up: no copies
        assert f'crossvit_{name}_count{{model="candidate"}} 0.0' in text
    assert 'crossvit_shadow_inference_seconds_count{shadow="candidate"}' in text


def test_the_shadows_engine_has_the_lowest_priority_and_the_others_have_not(shadowed: Server) -> None:
    priorities = {role: os.getpriority(os.PRIO_PROCESS, workers(shadowed.pid, role)[0]) for role in ROLES}
    assert priorities == dict(zip(ROLES, (os.getpriority(os.PRIO_PROCESS, shadowed.pid), 19), strict=True))
    shadows = workers(shadowed.pid, ROLES[1])
    threads = [int(thread.name) for shadow in shadows for thread in Path(f"/proc/{shadow}/task").iterdir()]
    assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {19}


def test_requests_for_the_shadow_itself_are_not_copied_and_broken_images_neither(shadowed: Server) -> None:
    httpx.post(f"{shadowed.url}/classify?model=candidate", content=JPEG, timeout=60)
    httpx.post(f"{shadowed.url}/classify", content=JPEG[:999], timeout=60)
    before = counted(shadowed)
    httpx.post(f"{shadowed.url}/classify", content=JPEG, timeout=60)
    wait_until(lambda: counted(shadowed)["answered"] == before["answered"] + 1)
    assert 'crossvit_shadow_images_total{model="candidate"' not in httpx.get(f"{shadowed.url}/metrics").text


def test_a_reload_of_either_keeps_it_working(shadowed: Server, models: Path) -> None:
    calibrate_bundle(models / "current", made_calibration(models / "current", 0.9))
    with httpx.Client(base_url=shadowed.url, timeout=60, headers={"Authorization": "Bearer boss-of-all"}) as client:
        assert client.post("/v2/repository/models/candidate/unload").status_code == 200
        before = counted(shadowed)
        assert client.post("/classify", content=JPEG).status_code == 200
        wait_until(lambda: counted(shadowed)["failed"] == before["failed"] + 1)
        assert client.post("/admin/reload").json() == {"faults": []}
        client.post("/classify", content=JPEG)
        wait_until(lambda: counted(shadowed)["answered"] == before["answered"] + 1)


@pytest.mark.parametrize(
    ("shadow", "message"),
    [("nobody", "there is no such model; the models are"), ("current", "cannot be its own shadow")],
)
def test_a_shadow_that_cannot_be_is_refused_at_the_start(
    start_server: StartServer, models: Path, shadow: str, message: str
) -> None:
    server = start_server("--bundle", str(models), "--default-model", "current", "--shadow", shadow, *ENGINE)
    assert server.process.wait(60) == 2
    assert message in server.log_text()


# Dropping: which copies begin is decided without engines, so fakes stand in for the models.


class FakeModel:
    """Answers when `release` is set, or raises `error`."""

    def __init__(self, name: str, waiting: int = 0, error: Exception | None = None) -> None:
        manifest = SimpleNamespace(classes=2, default_resolution=224, activation="softmax")
        self.bundle = SimpleNamespace(name=name, manifest=manifest, resolutions=[224], hash=name)
        self.waiting = waiting
        self.error = error
        self.release = asyncio.Event()
        self.asked: list[int] = []  # images of each call

    def batch(self) -> int:
        return 4

    def resolution(self, _: int | None) -> int:
        return 224

    def in_use(self) -> Any:
        return nullcontext()

    async def classify_all(self, bodies: list[bytes], *_: object, **__: object) -> list[Any]:
        self.asked.append(len(bodies))
        await self.release.wait()
        if self.error is not None:
            raise self.error
        return [answer(2.0) for _ in bodies]


def answer(logit: float) -> Any:
    outputs = np.array([[logit, 0.0]] * 3, np.float32)
    return SimpleNamespace(outputs=outputs, resolution=224, calibration=None, inference=Interval(0.0, 0.1))


def copies(primary: Any, images: int = 1, size: int = 10) -> AnsweredImages:
    return AnsweredImages(primary, [b"x" * size] * images, [answer(1.0)] * images)


def shadow_of(primary: Any, candidate: Any) -> tuple[Shadow, Callable[[str], float]]:
    """A shadow of fakes, and what it has counted by outcome."""
    metrics = Metrics(list)
    shadow = Shadow(
        "candidate",
        lambda _: candidate,
        lambda: [primary, candidate],
        RequestSample(100),
        ShadowMetrics(metrics, "candidate"),
    )

    def value(outcome: str) -> float:
        labels = {"model": "primary", "shadow": "candidate", "outcome": outcome}
        return metrics.registry.get_sample_value("crossvit_shadow_images_total", labels) or 0.0

    return shadow, value


def test_copies_are_dropped_while_images_wait_and_beyond_what_may_be_under_way() -> None:
    async def main() -> None:
        primary, candidate = FakeModel("primary"), FakeModel("candidate")
        shadow, value = shadow_of(primary, candidate)
        primary.waiting = 1
        shadow.see(copies(primary))
        assert (value("dropped"), value("answered")) == (1, 0)
        primary.waiting = 0
        shadow.see(copies(primary, MOST_COPIES))
        shadow.see(copies(primary))
        assert value("dropped") == 2
        candidate.release.set()
        await asyncio.sleep(0.01)
        assert value("answered") == MOST_COPIES
        shadow.see(copies(primary, 2, 33 << 20))  # over 64 MiB
        assert value("dropped") == 4
        candidate.error = EngineFailed("it died")
        shadow.see(copies(primary))
        await asyncio.sleep(0.01)
        assert value("failed") == 1
        candidate.bundle.manifest.classes = 3
        shadow.see(copies(primary))
        assert value("failed") == 2

    asyncio.run(main())


def test_copies_have_their_turns_one_by_one_and_the_rest_are_dropped_once_a_request_waits() -> None:
    async def main() -> None:
        primary, candidate = FakeModel("primary"), FakeModel("candidate")
        shadow, value = shadow_of(primary, candidate)
        shadow.see(copies(primary, 20))
        await asyncio.sleep(0.01)
        shadow.see(copies(primary, 2))  # the first are under way, and drop no others
        assert (candidate.asked, value("dropped")) == ([1], 0)
        primary.waiting = 1
        candidate.release.set()
        await asyncio.sleep(0.01)
        assert (candidate.asked, value("answered"), value("dropped")) == ([1], 1, 21)

    asyncio.run(main())


def test_the_sample_is_the_share_that_was_asked_for() -> None:
    draws = iter([0.0, 0.099, 0.1, 0.5, 0.999])
    sample = RequestSample(10, lambda: next(draws))
    assert [sample.drawn() for _ in range(5)] == [True, True, False, False, False]
    assert RequestSample(100, lambda: 0.999999).drawn()
    assert not RequestSample(0, lambda: 0.0).drawn()


@pytest.mark.exhaustive
def test_copies_of_a_batch_of_large_pictures_refuse_no_request(models: Path, start_server: StartServer) -> None:
    beside = ["--default-model", "current", "--shadow", "candidate", "--shadow-percent", "100"]
    server = start_server("--bundle", str(models), *beside, "--max-queue-seconds", "1", "--decoders", "1", *ENGINE)
    server.wait_until_ready(path="/readyz?model=candidate")
    large = encoded(scene(250, 200).resize((5000, 4000), Image.Resampling.NEAREST))  # a small file, slow to decode
    with httpx.Client(base_url=server.url, timeout=120) as client:
        assert client.post("/classify/batch", files=[("files", large)] * 24).status_code == 200
        with ThreadPoolExecutor(2) as threads:  # of two, one waits, and the estimate is asked for
            small = list(threads.map(lambda _: client.post("/classify", content=JPEG).status_code, range(40)))
    assert set(small) == {200}
    assert counted(server)["failed"] == 0

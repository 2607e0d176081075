"""A real service of several instances, whose processes are killed, stopped, replaced and reloaded under load."""

import asyncio
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.changed_bundles import change_source
from tests.support.pictures import JPEG
from tests.support.processes import clients_of, family, instances, workers
from tests.support.raw_http import connect
from tests.support.servers import Server, StartServer, crossvit_serve, free_port
from tests.support.waiting import until, wait_until

ENGINE = ("--engine", "onnxruntime", "--precision", "f32")
ADMIN, ANN = "admin-0123456789", "ann-0123456789"
HEADERS = {"X-API-Key": ADMIN}  # of most clients: admin keys have no rate limit
RATE = 20
COUNT = 2
QUEUE = 8  # of both instances together


@pytest.fixture(scope="module")
def pair(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two instances of a copy of the bundle."""
    folder = tmp_path_factory.mktemp("pair")
    served = shutil.copytree(bundle, folder / "served")
    options = ["--bundle", str(served), *ENGINE, "--instances", str(COUNT), "--decoders", str(COUNT)]
    options += ["--grace-seconds", "1", "--engine-seconds", "1", "--max-queue", str(QUEUE), "--max-images", "4"]
    options += ["--api-keys", f"ann:{ANN}", "--admin-keys", f"root:{ADMIN}", "--rate-limit", f"{RATE}/minute"]
    with crossvit_serve(folder / "log", *options) as server:
        server.wait_until_ready()
        yield server


@pytest.fixture(autouse=True)
def whole(pair: Server) -> None:
    """Every test begins with two instances that are ready."""
    wait_until(lambda: ready_instances(pair) == COUNT)


def ask(server: Server, path: str, method: str = "GET", key: str = ADMIN, **more: object) -> httpx.Response:
    return httpx.request(method, f"{server.url}{path}", headers={"X-API-Key": key}, timeout=60, **more)  # type: ignore[arg-type]


def ready_instances(server: Server) -> int:
    return int(ask(server, "/models").json()["instances"]["ready"])


def metrics(server: Server) -> dict[str, float]:
    """The sum of each metric's samples, by the samples' name."""
    sums: Counter[str] = Counter()
    for found in text_string_to_metric_families(ask(server, "/metrics").text):
        for sample in found.samples:
            sums[sample.name] += sample.value  # type: ignore[assignment]
    return dict(sums)


def classified(server: Server) -> float:
    """How many images were decoded, as /metrics has it."""
    return metrics(server)["crossvit_decode_seconds_count"]


@asynccontextmanager
async def clients(url: str, count: int, *, keep: bool = True) -> AsyncIterator[Counter[str]]:
    """Clients that ask again and again, on connections that they keep or not; how often which answer or error came."""
    answers: Counter[str] = Counter()
    going = True

    async def ask_again() -> None:
        limits = httpx.Limits(max_keepalive_connections=None if keep else 0)
        async with httpx.AsyncClient(timeout=60, headers=HEADERS, limits=limits) as client:
            while going:
                try:
                    response = await client.post(f"{url}/classify", files={"file": JPEG})
                    answers[str(response.status_code)] += 1
                except httpx.HTTPError as err:
                    answers[repr(err)] += 1
                await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(ask_again()) for _ in range(count)]
    try:
        yield answers
    finally:
        going = False
        await asyncio.gather(*tasks)


def have_ended(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_the_parent_imports_no_web_framework_no_engine_and_no_arrays(pair: Server) -> None:
    mapped = Path(f"/proc/{pair.pid}/maps").read_text()
    assert "libpython" in mapped or "python" in mapped
    for library in ("numpy", "uvloop", "httptools", "onnxruntime", "openvino"):
        assert library not in mapped


def test_connections_that_are_opened_at_once_spread_over_the_instances(pair: Server) -> None:
    wait_until(lambda: min(burst(pair)) >= 4)  # not in each: other work may have the core of one of them


def burst(pair: Server) -> list[int]:
    """How many of 32 connections each instance has accepted."""
    with ExitStack() as opened:
        connections = [opened.enter_context(connect(pair)) for _ in range(32)]
        for connection in connections:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        for connection in connections:
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        counts = [len(clients_of(pid, pair.port)) for pid in instances(pair.pid).values()]
    assert sum(counts) >= 32
    return counts


def test_an_instance_has_its_share_of_the_cores_and_a_number_in_its_log(pair: Server) -> None:
    pids = list(instances(pair.pid).values())
    cores = [os.sched_getaffinity(pid) for pid in pids]
    if len(os.sched_getaffinity(0)) >= COUNT:
        assert not cores[0] & cores[1]
    for pid in pids:
        assert len(workers(pid, "decoder")) == 1
    lines = [json.loads(line) for line in pair.log_lines() if line.startswith("{")]
    assert {line.get("instance") for line in lines} == {None, 0, 1}


def test_metrics_and_statistics_are_those_of_all_instances(pair: Server) -> None:
    images, requests = classified(pair), metrics(pair)["crossvit_requests_total"]
    for _ in range(10):  # each on a connection of its own
        assert ask(pair, "/classify", "POST", files={"file": JPEG}).status_code == 200
    for _ in range(3):  # whichever instance answers
        assert classified(pair) == images + 10
    found = metrics(pair)
    assert found["crossvit_requests_total"] >= requests + 10
    assert found["crossvit_model_ready"] == found["crossvit_model_info"] == 1
    assert "# EOF" in httpx.get(f"{pair.url}/metrics", headers={"Accept": "application/openmetrics-text"}).text
    assert ask(pair, "/readyz?deep=1").json() == {"status": "ready"}
    assert ask(pair, "/readyz?model=nothing").status_code == 404
    assert found["crossvit_instances"] == found["crossvit_instances_ready"] == COUNT
    (statistics,) = ask(pair, "/v2/models/served/stats").json()["model_stats"]
    assert statistics["inference_count"] == images + 10
    assert sum(batch["batch_size"] * batch["compute_infer"]["count"] for batch in statistics["batch_stats"]) >= 10


def test_the_decoders_are_those_of_all_instances(pair: Server) -> None:
    assert metrics(pair)["crossvit_decoders"] == COUNT


def test_each_instance_explains_and_embeds(pair: Server) -> None:
    def inspections() -> list[int]:
        return [pid for instance in instances(pair.pid).values() for pid in workers(instance, "inspection")]

    maps = [ask(pair, "/explain", "POST", content=JPEG).json()["explanations"]]
    before = metrics(pair)["crossvit_inspections_total"]
    asked = 0
    while len(inspections()) < COUNT:  # a new connection each time, which either may accept
        assert asked < 200
        maps.append(ask(pair, "/explain", "POST", content=JPEG).json()["explanations"])
        asked += 1
    embeddings = [ask(pair, "/embed", "POST", content=JPEG).json()["embedding"] for _ in range(8)]
    assert all(found == maps[0] for found in maps)
    assert all(found == embeddings[0] for found in embeddings)
    assert metrics(pair)["crossvit_inspections_total"] == before + asked + len(embeddings)


def test_a_rate_limit_is_exact_over_all_instances(pair: Server) -> None:
    def classify(_: int) -> int:
        return ask(pair, "/classify", "POST", key=ANN, files={"file": JPEG}).status_code

    with ThreadPoolExecutor(4) as pool:
        assert Counter(pool.map(classify, range(RATE + 10))) == {200: RATE, 429: 10}
    refused = ask(pair, "/classify", "POST", key=ANN, files={"file": JPEG})
    assert refused.json()["reason"] == "RateLimited"
    assert int(refused.headers["Retry-After"]) >= 1


def test_beyond_the_queues_of_both_requests_are_refused_and_what_was_accepted_is_answered(pair: Server) -> None:
    engines = [engine for pid in instances(pair.pid).values() for engine in workers(pid, "engine")]
    assert len(engines) == COUNT

    def classify(_: int) -> int:
        return ask(pair, "/classify", "POST", files={"file": JPEG}).status_code

    with ThreadPoolExecutor(64) as pool:
        answers = Counter(pool.map(classify, range(400)))
    assert answers.keys() == {200, 429}
    assert answers.total() == 400
    assert metrics(pair)["crossvit_queue_images"] == 0


def test_a_reload_under_load_loses_no_request_and_reaches_all_instances(pair: Server) -> None:
    served = Path(ask_bundle(pair))

    def sources() -> set[str]:
        return {str(ask(pair, "/models").json()["models"][0]["weights_source"]) for _ in range(8)}

    async def main() -> None:
        async with clients(pair.url, 3) as answers:
            for number, start in enumerate(("by signal", "by request")):
                change_source(served, start)
                if number:
                    assert (await asyncio.to_thread(ask, pair, "/admin/reload", "POST")).json() == {"faults": []}
                    assert await asyncio.to_thread(sources) == {start}
                else:
                    pair.process.send_signal(signal.SIGHUP)
                    await until(lambda: sources() == {start}, poll_seconds=0.1)  # noqa: B023
            before = answers.total()
            await until(lambda: answers.total() > before + 10)
        assert answers.keys() == {"200"}

    asyncio.run(main())


def ask_bundle(server: Server) -> str:
    """The folder that the server serves."""
    arguments = Path(f"/proc/{server.pid}/cmdline").read_text().split("\0")
    return arguments[arguments.index("--bundle") + 1]


def test_models_are_unloaded_and_loaded_in_all_instances_also_in_one_that_is_replaced(pair: Server) -> None:
    assert ask(pair, "/v2/repository/models/served/unload", "POST").status_code == 200
    assert {ask(pair, "/v2/models/served").status_code for _ in range(8)} == {503}
    before = pair.log_text().count("instance 1 is ready")
    os.kill(instances(pair.pid)[1], signal.SIGKILL)
    wait_until(lambda: pair.log_text().count("instance 1 is ready") > before)
    assert metrics(pair)["crossvit_instance_restarts_total"] >= 1
    assert {ask(pair, "/v2/models/served").status_code for _ in range(8)} == {503}
    assert ask(pair, "/v2/repository/models/served/load", "POST").status_code == 200
    assert {ask(pair, "/v2/models/served").status_code for _ in range(8)} == {200}


def test_a_rolling_restart_under_load_loses_no_request(pair: Server) -> None:
    before, images = instances(pair.pid), classified(pair)

    async def main() -> None:
        async with clients(pair.url, 2) as answers, clients(pair.url, 2, keep=False) as others:
            pair.process.send_signal(signal.SIGUSR2)
            await until(lambda: "all instances are replaced" in pair.log_text(), poll_seconds=0.1)
            ended = answers.total()
            await until(lambda: answers.total() > ended + 10)
        assert answers.keys() == others.keys() == {"200"}
        assert classified(pair) == images + answers.total() + others.total()

    asyncio.run(main())
    after = instances(pair.pid)
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    assert have_ended(list(before.values()))


def test_an_instance_that_is_killed_is_replaced_while_the_other_answers(pair: Server) -> None:
    for _ in range(6):
        assert ask(pair, "/classify", "POST", files={"file": JPEG}).status_code == 200
    before, images = instances(pair.pid), classified(pair)
    left = family(before[0])
    os.kill(before[0], signal.SIGKILL)
    while instances(pair.pid).get(0, before[0]) == before[0] or ready_instances(pair) < COUNT:
        assert ask(pair, "/readyz").status_code == 200
        assert ask(pair, "/classify", "POST", files={"file": JPEG}).status_code == 200
        images += 1
        assert classified(pair) == images  # what the killed one has counted is kept
    assert have_ended(left)


def test_an_instance_that_ends_orderly_leaves_all_its_counts(pair: Server) -> None:
    before, images = instances(pair.pid), classified(pair)
    for _ in range(10):
        assert ask(pair, "/classify", "POST", files={"file": JPEG}).status_code == 200
    for pid in before.values():
        os.kill(pid, signal.SIGINT)
    wait_until(lambda: have_ended(list(before.values())))
    wait_until(lambda: classified(pair) == images + 10)


def test_an_instance_whose_event_loop_hangs_is_replaced_and_its_clients_connect_to_others(pair: Server) -> None:
    before = instances(pair.pid)
    os.kill(before[1], signal.SIGSTOP)
    answers = Counter(ask(pair, "/classify", "POST", files={"file": JPEG}).status_code for _ in range(20))
    assert answers == {200: 20}
    assert ask(pair, "/readyz").status_code == 200
    assert ready_instances(pair) == 1
    wait_until(lambda: instances(pair.pid).get(1, before[1]) != before[1])
    assert "its event loop did not answer for 5 s" in pair.log_text()


def test_an_instance_without_an_engine_leaves_connections_to_the_other(pair: Server) -> None:
    def statuses(count: int) -> set[int]:
        return {ask(pair, "/classify", "POST", files={"file": JPEG}).status_code for _ in range(count)}

    with ExitStack() as opened:
        limits = httpx.Limits(keepalive_expiry=None)
        kept = opened.enter_context(httpx.Client(base_url=pair.url, headers=HEADERS, limits=limits))
        _, port = kept.get("/livez").extensions["network_stream"].get_extra_info("client_addr")
        (instance,) = (pid for pid in instances(pair.pid).values() if port in clients_of(pid, pair.port))
        (hung,) = workers(instance, "engine")
        os.kill(hung, signal.SIGSTOP)
        wait_until(lambda: 504 in statuses(1))
        wait_until(lambda: workers(instance, "engine") not in ([hung], []))
        (starting,) = workers(instance, "engine")
        os.kill(starting, signal.SIGSTOP)  # so that it takes longer
        opened.callback(os.kill, starting, signal.SIGKILL)
        wait_until(lambda: ready_instances(pair) == 1)
        time.sleep(1.5)  # the parent asks every second
        assert statuses(20) == {200}
        answer = kept.get("/readyz")  # of the instance without an engine
        assert (answer.status_code, answer.headers["Connection"]) == (200, "close")
    wait_until(lambda: ready_instances(pair) == COUNT)
    assert have_ended([hung, starting])


def test_a_stop_ends_readiness_everywhere_and_finishes_what_was_accepted(
    bundle: Path, start_server: StartServer
) -> None:
    server = start_server("--bundle", str(bundle), *ENGINE, "--instances", "4", "--grace-seconds", "2")
    server.wait_until_ready()
    wait_until(lambda: ready_instances(server) == 4)
    members = family(server.pid)
    with ThreadPoolExecutor(32) as pool:
        server.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        wait_until(lambda: ask(server, "/readyz").status_code == 503)
        assert {ask(server, "/readyz").status_code for _ in range(12)} == {503}
        accepted = [pool.submit(ask, server, "/classify", "POST", files={"file": JPEG}) for _ in range(32)]
        assert {request.result().status_code for request in accepted} == {200}
        assert server.process.wait(20) == 0
    assert time.monotonic() - started >= 2
    assert have_ended(members)


def test_a_parent_that_is_killed_leaves_no_process_behind(bundle: Path, start_server: StartServer) -> None:
    server = start_server("--bundle", str(bundle), *ENGINE, "--instances", "2", "--decoders", "2")
    server.wait_until_ready()
    wait_until(lambda: ready_instances(server) == 2)
    members = family(server.pid)
    assert len(members) >= 7
    server.process.kill()
    server.process.wait()
    wait_until(lambda: have_ended(members))


def test_what_no_instance_can_serve_ends_the_service_with_the_reason(bundle: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(bundle, tmp_path / "damaged"))
    (damaged / "manifest.json").write_text("{}")
    for folder, status in ((tmp_path / "nowhere", 2), (damaged, 1)):
        log = tmp_path / "log"
        with crossvit_serve(log, "--bundle", str(folder), *ENGINE, "--instances", "2", port=free_port()) as server:
            assert server.process.wait(20) == status
            assert str(folder) in server.log_text()

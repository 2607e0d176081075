"""A real server with more work than it can do."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.load import capacity, centile, flood, probing
from tests.support.pictures import JPEG, encoded, scene
from tests.support.processes import resident_mb, workers
from tests.support.servers import Server, StartServer, crossvit_serve
from tests.support.waiting import wait_until

QUEUE = 6
BATCH = 2


@pytest.fixture(scope="module")
def small(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a small queue, and an engine that has time to be stopped."""
    options = ["--max-queue", str(QUEUE), "--max-images", "4", "--max-batch", str(BATCH), "--engine-seconds", "30"]
    log = tmp_path_factory.mktemp("small") / "log"
    with crossvit_serve(log, "--bundle", str(bundle), "--engine", "onnxruntime", *options) as server:
        server.wait_until_ready()
        post(server)  # what an image takes is known now
        yield server


def post(server: Server, **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}/classify", files={"file": JPEG}, headers=headers, timeout=60)


def waiting(server: Server) -> int:
    (line,) = (line for line in httpx.get(f"{server.url}/metrics").text.splitlines() if "queue_images{" in line)
    return int(float(line.split()[1]))


def wait_for_queue(server: Server, images: int) -> None:
    wait_until(lambda: waiting(server) == images)


@contextmanager
def stopped(server: Server, role: str) -> Iterator[None]:
    """The server's one process of this role, "engine" or "decoder", stands still: what is sent to it waits."""
    (process,) = workers(server.process.pid, role)
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as threads:
        yield threads


def occupy(server: Server, pool: ThreadPoolExecutor) -> Future[httpx.Response]:
    """A request whose image the stopped engine has."""
    with stopped(server, "decoder"):
        request = pool.submit(post, server)
        wait_for_queue(server, 1)
    wait_for_queue(server, 0)
    return request


def fill(server: Server, pool: ThreadPoolExecutor) -> list[Future[httpx.Response]]:
    """One request with the stopped engine, and the queue full."""
    first = occupy(server, pool)
    others = [pool.submit(post, server) for _ in range(QUEUE)]
    wait_for_queue(server, QUEUE)
    return [first, *others]


def test_a_full_queue_refuses_at_once_and_what_was_accepted_is_answered(
    small: Server, pool: ThreadPoolExecutor
) -> None:
    with stopped(small, "engine"):
        accepted = fill(small, pool)
        with httpx.Client(base_url=small.url) as client:
            client.get("/livez")
            for _ in range(20):
                refused = client.post("/classify", files={"file": JPEG}, timeout=5)  # what waits has no answer for 30 s
                assert refused.status_code == 429
                assert f"the queue is full: {QUEUE} images wait" in refused.json()["detail"]
                assert int(refused.headers["Retry-After"]) >= 1
        assert post(small, **{"Content-Type": "image/jpeg"}).status_code == 429
    assert {request.result().status_code for request in accepted} == {200}
    assert waiting(small) == 0


def test_images_of_one_request_are_taken_together_or_not_at_all(small: Server, pool: ThreadPoolExecutor) -> None:
    with stopped(small, "engine"):
        accepted = fill(small, pool)
        response = httpx.post(f"{small.url}/classify/batch", files=[("files", JPEG)] * 2)
        assert response.status_code == 429
    assert all(request.result().status_code == 200 for request in accepted)
    response = httpx.post(f"{small.url}/classify/batch", files=[("files", JPEG)] * 4, timeout=30)
    assert [len(result["predictions"]) for result in response.json()["results"]] == [5] * 4


def test_clients_that_leave_free_their_places(small: Server, pool: ThreadPoolExecutor) -> None:
    async def leave() -> None:
        async with httpx.AsyncClient(base_url=small.url, timeout=60) as client:
            leaving = [asyncio.create_task(client.post("/classify", files={"file": JPEG})) for _ in range(QUEUE)]
            await asyncio.to_thread(wait_for_queue, small, QUEUE)
            for request in leaving:
                request.cancel()
            await asyncio.gather(*leaving, return_exceptions=True)

    with stopped(small, "engine"):
        first = occupy(small, pool)
        asyncio.run(leave())
        wait_for_queue(small, 0)
        others = [pool.submit(post, small) for _ in range(QUEUE)]
        wait_for_queue(small, QUEUE)
    assert {request.result().status_code for request in (first, *others)} == {200}


def test_a_request_is_answered_504_when_its_deadline_passes(small: Server, pool: ThreadPoolExecutor) -> None:
    with stopped(small, "engine"):
        first = occupy(small, pool)
        started = time.monotonic()
        late = post(small, **{"X-Request-Timeout-Ms": "300"})
        assert late.status_code == 504
        assert "deadline passed" in late.json()["detail"]
        assert 0.25 < time.monotonic() - started < 20  # a stopped engine is given up after 30 s
        wait_for_queue(small, 0)
    assert first.result().status_code == 200


def test_a_request_that_cannot_be_answered_before_its_deadline_takes_no_batch_slot(small: Server) -> None:
    def counted(name: str) -> float:
        lines = httpx.get(f"{small.url}/metrics").text.splitlines()
        return sum(float(line.split()[1]) for line in lines if line.startswith(name))

    images = counted("crossvit_batch_images_sum")
    assert post(small, **{"X-Request-Timeout-Ms": "1"}).status_code == 504
    assert post(small).status_code == 200
    assert counted("crossvit_batch_images_sum") == images + 1
    assert counted('crossvit_rejected_total{reason="TooLate"}') >= 1


def test_what_waits_for_a_decoder_counts_as_well(small: Server, pool: ThreadPoolExecutor) -> None:
    with stopped(small, "decoder"):
        accepted = [pool.submit(post, small) for _ in range(QUEUE)]
        wait_for_queue(small, QUEUE)
        assert post(small).status_code == 429
    assert {request.result().status_code for request in accepted} == {200}


def test_the_servers_longest_time_is_the_most_that_a_client_can_ask_for(
    bundle: Path, start_server: StartServer, pool: ThreadPoolExecutor
) -> None:
    server = start_server("--bundle", str(bundle), "--engine", "onnxruntime", "--request-seconds", "1")
    server.wait_until_ready()
    with stopped(server, "engine"):
        started = time.monotonic()
        waits = [pool.submit(post, server), pool.submit(post, server, **{"X-Request-Timeout-Ms": "60000"})]
        for request in waits:
            assert request.result().status_code == 504
            assert "deadline passed" in request.result().json()["detail"]  # and not: the engine hangs
        assert time.monotonic() - started > 0.9


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", ""])
def test_an_invalid_timeout_is_422(small: Server, value: str) -> None:
    response = post(small, **{"X-Request-Timeout-Ms": value})
    assert response.status_code == 422
    assert "X-Request-Timeout-Ms must be a whole number of milliseconds" in response.json()["detail"]


def test_far_beyond_capacity_the_accepted_are_in_time_and_the_rest_is_refused(small: Server) -> None:
    """What `benchmarks.reliability overload` measures for a minute, for some seconds."""
    photos = [encoded(scene(320, 240, seed), "JPEG") for seed in range(8)]
    rate = asyncio.run(capacity(small.url, photos, clients=8, seconds=1.5))
    before = resident_mb(small.process.pid)
    with probing(small.url) as probes:
        outcome = asyncio.run(flood(small.url, photos, rate=10 * rate, seconds=5))
    assert outcome.counts.keys() == {200, 429}
    assert outcome.counts[200] > rate  # it went on working
    assert sum(outcome.retry_after.values()) == outcome.counts[429]
    # Two batches are with the engine or on their way to it; two more may be answered while a request is in the socket.
    assert outcome.most_answers_during_one() <= QUEUE + 4 * BATCH
    assert centile(probes, 90) < centile(outcome.seconds[200], 50)  # a probe does not wait as images do
    assert resident_mb(small.process.pid) < before + 60
    assert post(small).status_code == 200

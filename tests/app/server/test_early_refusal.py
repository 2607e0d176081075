"""Refusals by a request's head, against a real server whose engine stands still and whose queue is full."""

import json
import os
import re
import signal
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.pictures import JPEG
from tests.support.processes import workers
from tests.support.raw_http import connect, wait_until_read
from tests.support.servers import Server, StartServer, crossvit_serve, free_port
from tests.support.waiting import wait_until

QUEUE = 8  # so that a caller without a place has room for one more
MODEL = "crossvit_tiny"
PAGE = "https://page.example"
INFER = f"/v2/models/{MODEL}/infer"
DIALECTS = [
    "/",
    f"/models/{MODEL}",
    f"/v1/models/{MODEL}:predict",
    f"/predictions/{MODEL}",
    f"/predictions/{MODEL}/1.0",
]
PATHS = [
    "/classify",
    "/classify/batch",
    INFER,
    f"/v2/models/{MODEL}/versions/1/infer",
    "/prefix/classify?top_k=3",
    *DIALECTS,
]
ALICE, BOB, CAROL = (f"X-API-Key: {name}" for name in ("alice-alice", "bob-bob-bob", "carol-carol"))
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: service\r\n\r\n"
ADMIN_PORT = free_port()


@pytest.fixture(scope="module")
def full(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose queue alice has filled."""
    options = ["--bundle", str(bundle), "--engine", "null", "--max-batch", "1", "--max-queue", str(QUEUE)]
    options += ["--max-images", "4", "--engine-seconds", "300", "--request-seconds", "300", "--root-path", "/prefix"]
    options += ["--api-keys", "alice:alice-alice,bob:bob-bob-bob"]
    options += ["--cors-origins", PAGE, "--admin-port", str(ADMIN_PORT)]
    log = tmp_path_factory.mktemp("full") / "log"
    with crossvit_serve(log, *options) as server, ThreadPoolExecutor(QUEUE + 1) as pool:
        server.wait_until_ready()
        (engine,) = workers(server.pid, "engine")
        os.kill(engine, signal.SIGSTOP)
        try:
            for number in range(QUEUE + 1):
                pool.submit(
                    httpx.post, f"{server.url}/classify", files={"file": JPEG}, headers=fields(ALICE), timeout=300
                )
                if not number:
                    time.sleep(0.5)  # the engine has it, and it has no place any more
            wait_until(lambda: waiting(server) == QUEUE)
            yield server
        finally:
            os.kill(engine, signal.SIGCONT)


def fields(*lines: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in lines)


def metric(server: Server, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


def waiting(server: Server) -> float:
    return metric(server, f'crossvit_queue_images{{model="{MODEL}"}}')


def head(path: str, *lines: str, length: int | None = 0, version: str = "1.1") -> bytes:
    given = [f"POST {path} HTTP/{version}", "Host: service", *lines]
    given += [] if length is None else [f"Content-Length: {length}"]
    return ("\r\n".join(given) + "\r\n\r\n").encode()


def answer(server: Server, *packets: bytes) -> bytes:
    """All that the server sends until it closes the connection, which it must not do by a reset."""
    found = b""
    with connect(server) as connection:
        for packet in packets:
            connection.sendall(packet)
        while more := connection.recv(65536):
            found += more
    return found


def statuses(answered: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answered)]


def received(connection: socket.socket) -> bytes:
    """One whole answer."""
    found = b""
    while not (whole := re.match(rb"(?s).*?\r\ncontent-length: (\d+)\r\n.*?\r\n\r\n", found)) or len(
        found
    ) < whole.end() + int(whole[1]):
        more = connection.recv(65536)
        assert more, found
        found += more
    return found


def document(answered: bytes) -> bytes:
    """The answer without what differs from one to the next."""
    return re.sub(rb"(date|retry-after): [^\r]*\r\n", rb"\1\r\n", answered)


def logged(server: Server, request_id: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in server.log_lines())
    return [line for line in lines if line.get("request_id") == request_id]


@pytest.mark.parametrize("path", PATHS)
def test_the_answer_is_the_routes_own_byte_for_byte(full: Server, path: str) -> None:
    given = [ALICE, "Connection: close", f"X-Request-ID: of{re.sub(r'[^a-z0-9]', '.', path)}"]
    early = answer(full, head(path, *given))
    assert not logged(full, given[2].split(": ")[1])
    routed = answer(full, head(path, *given, length=None))  # whether it has a body is known too late
    assert statuses(early) == [429]
    assert re.search(rb"\r\nretry-after: [1-9]", early)
    assert document(early) == document(routed)
    assert wait_until(lambda: logged(full, given[2].split(": ")[1]))


@pytest.mark.parametrize("given", ["not an id", "x" * 200])
def test_a_client_that_sends_no_usable_id_gets_a_new_one(full: Server, given: str) -> None:
    answered = answer(full, head("/classify", ALICE, "Connection: close", f"X-Request-ID: {given}"))
    (request_id,) = re.findall(rb"\r\nx-request-id: ([0-9a-f]{32})\r\n", answered)
    assert json.loads(answered.partition(b"\r\n\r\n")[2])["request_id"] == request_id.decode()


@pytest.mark.parametrize(
    ("status", "path", "lines"),
    [
        (401, "/classify", ["X-API-Key: nobody-nobody"]),
        (401, "/classify", []),
        (403, "/classify", [ALICE, "Sec-Fetch-Site: cross-site"]),
        (429, "/classify", [ALICE, f"Origin: {PAGE}"]),
        (422, "/classify?top_k=1&top_k=2", [ALICE]),
        (422, "/classify?top_k=99", [ALICE]),
        (422, "/classify?resolution=7", [ALICE]),
        (422, "/classify?nothing=1", [ALICE]),
        (422, "/classify?coverage=0.9", [ALICE]),
        (422, "/classify?resolution=auto", [ALICE]),
        (404, "/classify?model=nobody", [ALICE]),
        (422, "/classify", [ALICE, "X-Request-Timeout-Ms: soon"]),
        (404, "/v2/models/nobody/infer", [ALICE]),
        (404, f"/v2/models/{MODEL}/versions/2/infer", [ALICE]),
        (400, INFER, [ALICE, "Inference-Header-Content-Length: x"]),
        (405, "/models", [ALICE]),
        (404, "/classify/", [ALICE]),
    ],
)
def test_what_the_application_may_answer_otherwise_goes_there(
    full: Server, status: int, path: str, lines: list[str]
) -> None:
    request_id = f"routed-{status}-{abs(hash((path, *lines)))}"
    answered = answer(full, head(path, *lines, f"X-Request-ID: {request_id}", "Connection: close"))
    assert statuses(answered) == [status], answered
    assert wait_until(lambda: logged(full, request_id))[0]["status"] == status
    assert (b"access-control-allow-origin" in answered) == (f"Origin: {PAGE}" in lines)


def test_a_caller_that_has_no_place_is_not_refused(full: Server) -> None:
    with connect(full) as connection:
        connection.sendall(head("/classify", BOB, length=len(JPEG)) + JPEG)
        wait_until(lambda: waiting(full) == QUEUE + 1)
    wait_until(lambda: waiting(full) == QUEUE)


def occupied(start_server: StartServer, bundle: Path, *options: str) -> Server:
    """A server of null engines with one place in its queue, which is taken, as is the engine."""
    given = ["--max-batch", "1", "--max-queue", "1", "--max-images", "1", "--engine-seconds", "300"]
    server = start_server("--bundle", str(bundle), "--engine", "null", *given, *options)
    server.wait_until_ready()
    (engine,) = workers(server.pid, "engine")
    os.kill(engine, signal.SIGSTOP)
    return server


def test_a_refused_request_counts_towards_its_keys_rate(start_server: StartServer, bundle: Path) -> None:
    keys = ["--api-keys", "alice:alice-alice,carol:carol-carol", "--rate-limit", "4/hour"]
    server = occupied(start_server, bundle, *keys)
    with connect(server) as first, connect(server) as second:
        for connection in (first, second):
            connection.sendall(head("/classify", ALICE, length=len(JPEG)) + JPEG)
            time.sleep(0.5)  # the engine has the first
        assert waiting(server) == 1
        request = head("/classify", CAROL, length=0)
        answered = answer(server, *[request] * 4, head("/classify", CAROL, "Connection: close"))
        reasons = [json.loads(body)["reason"] for body in re.findall(rb"\{[^\r]*?\}", answered)]
        assert reasons == ["QueueFull"] * 4 + ["RateLimited"]
        assert 3000 <= int(re.findall(rb"retry-after: (\d+)", answered)[-1]) <= 3600  # exact, not spread
        (engine,) = workers(server.pid, "engine")
        os.kill(engine, signal.SIGCONT)


def test_a_model_that_is_not_ready_is_refused_with_503(start_server: StartServer, bundle: Path) -> None:
    admin = free_port()
    server = start_server("--bundle", str(bundle), "--engine", "null", "--admin-port", str(admin))
    server.wait_until_ready()
    assert httpx.post(f"http://127.0.0.1:{admin}/v2/repository/models/{MODEL}/unload").status_code == 200
    for path in ("/classify", INFER):
        early = answer(server, head(path, "X-Request-ID: first-id", "Connection: close"))
        assert not logged(server, "first-id")
        routed = answer(server, head(path, "X-Request-ID: other-id", "Connection: close", length=None))
        assert statuses(early) == [503]
        assert b"it is unloaded" in early
        assert document(early).replace(b"first-id", b"other-id") == document(routed)


# The connection


def test_refusals_in_a_pipeline_keep_their_order(full: Server) -> None:
    refused = head("/classify", ALICE, length=3) + b"abc"
    last = head("/classify", ALICE, "Connection: close", length=2000) + bytes(2000)
    for packets in (
        [LIVEZ + refused + refused + LIVEZ + refused + last],
        [refused, LIVEZ, refused + LIVEZ, refused, last],
    ):
        expected = [200 if request == LIVEZ else 429 for request in re.split(b"(?=GET|POST)", b"".join(packets))[1:]]
        assert statuses(answer(full, *packets)) == expected


@pytest.mark.parametrize("chunked", [False, True])
def test_the_body_is_dropped_and_the_connection_serves_on(full: Server, chunked: bool) -> None:
    piece = 100_000 * b"x"
    coding = ["Transfer-Encoding: chunked"] if chunked else []
    begin = head("/classify", ALICE, *coding, length=None if chunked else 5 * len(piece))
    pieces = [b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece for _ in range(5)] + [b"0\r\n\r\n" * chunked]
    with connect(full) as connection:
        for _ in range(3):
            connection.sendall(begin)
            assert statuses(received(connection)) == [429]  # before the body
            for sent in pieces:
                connection.sendall(sent)
                wait_until_read(connection)
        connection.sendall(LIVEZ)
        assert statuses(received(connection)) == [200]


@pytest.mark.parametrize(
    "begin",
    [
        head("/classify", ALICE, length=5_000_000),
        head("/classify", ALICE, "Transfer-Encoding: chunked", length=None) + b"4c4b40\r\n",
    ],
)
def test_a_large_body_ends_the_connection_and_the_client_reads_its_answer(full: Server, begin: bytes) -> None:
    answered = answer(full, begin, *[bytes(50_000)] * 100)  # all of it is sent before the answer is read
    assert statuses(answered) == [429]


@pytest.mark.parametrize(
    "begin",
    [
        head("/classify", ALICE, "Expect: 100-continue", length=len(JPEG)),
        head("/classify", ALICE, "Connection: close", length=0),
        head("/classify", ALICE, length=0, version="1.0"),
    ],
)
def test_a_client_that_waits_for_100_or_for_the_end_has_both_at_once(full: Server, begin: bytes) -> None:
    began = time.perf_counter()
    answered = answer(full, begin)
    assert time.perf_counter() - began < 1.5
    assert statuses(answered) == [429]
    assert b"connection: close" in answered


@contextmanager
def flood(server: Server, count: int) -> Iterator[list[socket.socket]]:
    """Connections that each have sent a request that is refused."""
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(server)) for _ in range(count)]
        for connection in connections:
            connection.sendall(head("/classify", ALICE))
        yield connections


def timed(connection: socket.socket, request: bytes) -> float:
    """The seconds until the answer."""
    began = time.perf_counter()
    connection.sendall(request)
    received(connection)
    return time.perf_counter() - began


def rested(server: Server) -> None:
    """Return when no refusal waits."""
    with connect(server) as connection:
        wait_until(lambda: timed(connection, head("/classify", ALICE)) < 0.03, poll_seconds=0.05)


def test_a_lone_client_does_not_wait(full: Server) -> None:
    rested(full)
    time.sleep(0.05)
    with connect(full) as connection:
        assert timed(connection, head("/classify", ALICE)) < 0.04


def test_a_flood_takes_turns_while_probes_and_admins_do_not(full: Server) -> None:
    with flood(full, 300) as connections:  # 1.5 s of turns
        with connect(full) as probe, socket.create_connection(("127.0.0.1", ADMIN_PORT), timeout=20) as admin:
            assert timed(probe, LIVEZ) < 0.6
            assert timed(admin, head("/classify", ALICE)) < 0.6
        with connect(full) as late:
            assert timed(late, head("/classify", ALICE)) > 0.6
        assert [statuses(received(connection)) for connection in connections] == [[429]] * 300


def test_the_connection_of_a_refusal_by_the_route_waits_before_its_next_request(full: Server) -> None:
    with flood(full, 300), connect(full) as connection:
        assert timed(connection, head("/classify", ALICE, f"Origin: {PAGE}")) < 0.6
        assert 0.5 < timed(connection, LIVEZ) < 2.7
        assert timed(connection, LIVEZ) < 0.5


def test_a_client_that_leaves_before_its_turn_is_noticed(full: Server) -> None:
    left = 'crossvit_requests_total{method="POST",route="/classify",status="499"}'
    before = metric(full, left)
    with flood(full, 60) as connections:
        for connection in connections[30:]:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()  # with a reset, as when the client's process ends
        assert [statuses(received(connection)) for connection in connections[:30]] == [[429]] * 30
        wait_until(lambda: metric(full, left) > before + 10)


@contextmanager
def all_turns_taken(start_server: StartServer, bundle: Path) -> Iterator[Server]:
    """A server for 6 connections, of which 2 wait for answers; the turns of the next two seconds are taken."""
    server = occupied(start_server, bundle, "--max-connections", "6")
    body = head("/classify", length=len(JPEG)) + JPEG
    with connect(server) as first, connect(server) as second:
        for connection in (first, second):
            connection.sendall(body)
            time.sleep(0.5)
        for _ in range(100):  # they leave, and their turns stay
            leave(server, 4)
        yield server
        (engine,) = workers(server.pid, "engine")
        os.kill(engine, signal.SIGCONT)


def test_a_refusal_that_waits_gives_its_place_to_a_new_connection(start_server: StartServer, bundle: Path) -> None:
    with all_turns_taken(start_server, bundle) as server, ExitStack() as stack:
        waiting = [stack.enter_context(connect(server)) for _ in range(4)]
        for connection in waiting:
            connection.sendall(head("/classify"))
            wait_until_read(connection)
        with connect(server) as late:
            assert timed(late, LIVEZ) < 0.5
            replaced = waiting[0].recv(65536)
            assert statuses(replaced) == [429]
            assert b"connection: close" in replaced
        assert [statuses(received(connection)) for connection in waiting[1:]] == [[429]] * 3


def test_a_connection_that_waits_after_a_refusal_by_the_route_gives_its_place_to_a_new_one(
    start_server: StartServer, bundle: Path
) -> None:
    with all_turns_taken(start_server, bundle) as server, ExitStack() as stack:
        refused = [stack.enter_context(connect(server)) for _ in range(4)]
        for connection in refused:
            connection.sendall(head("/classify", "Origin: http://service", length=len(JPEG)) + JPEG)
            assert statuses(received(connection)) == [429]
        with connect(server) as late:
            late.sendall(b"GET /models HTTP/1.1\r\nHost: service\r\n\r\n")
            assert statuses(received(late)) == [200]


def leave(server: Server, count: int) -> None:
    """Send requests that are refused, and reset their connections."""
    with flood(server, count) as connections:
        time.sleep(0.004)  # the server reads them
        for connection in connections:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# What operators see


def test_refusals_are_counted_in_the_metrics_and_the_log_and_retries_are_spread(full: Server) -> None:
    names = [
        'crossvit_requests_total{method="POST",route="/v2/models/{name}/infer",status="429"}',
        'crossvit_request_seconds_count{route="/v2/models/{name}/infer"}',
        'crossvit_rejected_total{reason="QueueFull"}',
    ]
    rested(full)  # what others left is counted
    before = [metric(full, name) for name in names]
    with httpx.Client(base_url=full.url, headers=fields(ALICE)) as client:
        refused = [client.post(INFER) for _ in range(20)]
    assert {one.status_code for one in refused} == {429}
    assert [metric(full, name) for name in names] == [count + 20 for count in before]
    assert len({one.headers["Retry-After"] for one in refused}) > 1
    counted = r"(\d+) requests were refused in 5 s: QueueFull (\d+)"
    wait_until(lambda: any(int(found[1]) >= 20 for found in re.finditer(counted, full.log_text())))

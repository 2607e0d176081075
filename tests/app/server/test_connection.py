"""What clients do with a connection, by the byte, against a real server."""

import contextlib
import json
import re
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.pictures import JPEG, encoded, scene
from tests.support.raw_http import wait_until_read
from tests.support.servers import Server, StartServer
from tests.support.waiting import wait_until

LARGE = JPEG[:2] + 100 * (b"\xff\xfe\x04\x02" + 1024 * b"c") + JPEG[2:]  # with comments, as large as a photograph
POST = b"POST /classify HTTP/1.1\r\nHost: service\r\nContent-Type: image/jpeg\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n" % len(JPEG)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: service\r\n\r\n"
LAST = b"GET /livez HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"


@dataclass
class Answer:
    status: int
    head: bytes
    body: bytes

    @property
    def detail(self) -> str:
        said: dict[str, Any] = json.loads(self.body)
        return str(said.get("detail") or said.get("error"))


def chunked(body: bytes, size: int) -> bytes:
    pieces = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@contextlib.contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def answers(received: bytes) -> list[Answer]:
    """The answers in `received`, interim ones too."""
    found = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
        assert status, head[:200]
        length = int(given[1]) if (given := re.search(rb"(?i)\r\ncontent-length: (\d+)", head)) else 0
        found.append(Answer(int(status[1]), head, received[:length]))
        received = received[length:]
    return found


def until_closed(connection: socket.socket) -> list[Answer]:
    """All answers until the server ends the connection, which it must not do by a reset."""
    received = b""
    while more := connection.recv(65536):
        received += more
    return answers(received)


def exchanged(server: Server, *packets: bytes, half_closed: bool = False) -> list[Answer]:
    """The answers to `packets`, each of which the server reads alone."""
    with connected(server) as connection:
        for packet in packets:
            connection.sendall(packet)
            if len(packets) > 1:
                wait_until_read(connection)
        if half_closed:
            connection.shutdown(socket.SHUT_WR)
        return until_closed(connection)


def statuses(found: Iterable[Answer]) -> list[int]:
    return [answer.status for answer in found]


# Upgrades


@pytest.mark.parametrize("offer", [H2C, b"upgrade: websocket\r\nconnection: keep-alive,UPGRADE\r\n"])
@pytest.mark.parametrize("framed", [LENGTH + JPEG, CHUNKED + chunked(JPEG, 5000)])
@pytest.mark.parametrize("cuts", [(), (40,), (-1000,), (300, 9000)])
def test_a_post_that_offers_an_upgrade_keeps_its_body_and_its_connection(
    server: Server, offer: bytes, framed: bytes, cuts: tuple[int, ...]
) -> None:
    request = POST + offer + framed
    ends = [cut % len(request) for cut in cuts]
    packets = [request[start:end] for start, end in zip([0, *ends], [*ends, len(request)], strict=True)]
    packets[-1] += LAST
    posted, alive = exchanged(server, *packets)
    assert posted.status == 200, posted
    assert alive.status == 200
    assert b"upgrade" not in posted.head.lower()


def test_the_body_behind_the_head_of_an_upgrade_is_no_request(server: Server) -> None:
    inner = b"GET /smuggled HTTP/1.1\r\nHost: service\r\n\r\n"
    head = b"POST /livez HTTP/1.1\r\nHost: service\r\n" + H2C + b"Content-Length: %d\r\n\r\n" % len(inner)
    for packets in ([head, inner + LAST], [head + inner + LAST]):
        assert statuses(exchanged(server, *packets)) == [405, 200]


def test_requests_in_a_pipeline_may_all_offer_an_upgrade(server: Server) -> None:
    offer = POST + H2C + LENGTH + JPEG
    get = LIVEZ.replace(b"Host", H2C + b"Host")
    assert statuses(exchanged(server, offer + get + offer + get + LAST)) == [200] * 5


@pytest.mark.parametrize("path", [b"/classify", b"/v2/models/crossvit_tiny/infer"])
def test_limits_hold_for_a_request_that_offers_an_upgrade(server: Server, path: bytes) -> None:
    head = POST.replace(b"/classify", path) + H2C
    (many,) = exchanged(server, head + 100 * b"X: y\r\n" + LENGTH + JPEG)
    assert (many.status, "more than 100 header fields" in many.detail) == (431, True)
    (framing,) = exchanged(server, head + CHUNKED + 250_000 * b"1\r\nx\r\n")
    assert (framing.status, "bytes of framing" in framing.detail) == (400, True)


# What is no request, or none that can be answered


@pytest.mark.parametrize(
    ("sent", "status", "detail"),
    [
        (b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: elsewhere\r\n\r\n", 501, "CONNECT"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 505, "HTTP/2 is not supported"),
        (bytes.fromhex("16030102000100"), 400, "plain HTTP"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n" + LAST, 400, "PROXY protocol"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", 400, "PROXY protocol"),
        (b"GET /livez\r\n\r\n", 505, "HTTP/0.9"),
        (b"GET /livez HTTP/2.0\r\n\r\n", 505, "HTTP/2.0"),
        (b"GET /livez HTTP/9.9\r\n\r\n", 505, "version"),
        (b"get /livez HTTP/1.1\r\n\r\n", 501, "'get'"),
        (b"FROBNICATE /livez HTTP/1.1\r\n\r\n", 501, "'FROBNICATE'"),
        (b"GET * HTTP/1.1\r\nHost: service\r\n\r\n", 400, "'*'"),
        (b"GET ftp://a/livez HTTP/1.1\r\nHost: a\r\n\r\n", 400, "ftp://a/livez"),
        (b"GET /livez HTTP/1.1\r\n\r\n", 400, "has no Host field"),
        (b"GET http://service/livez HTTP/1.1\r\n\r\n", 400, "has no Host field"),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", 400, "has no Host field"),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "2 Host fields, 'a' and 'b'"),
        (b"GET http://a/livez HTTP/1.1\r\nHost: a b/c\r\n\r\n", 400, "the Host 'a b/c'"),
        (b"GET /livez?\xc3\xa4 HTTP/1.1\r\n\r\n", 400, "%XX"),
        (POST + b"Expect: nothing\r\n" + LENGTH, 417, "'nothing'"),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "'gzip, chunked'"),
        (POST + b"Transfer-Encoding: identity\r\n\r\n", 400, "'identity'"),
        (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n", 400, "Duplicate Content-Length"),
        (POST + CHUNKED + b"zz\r\n", 400, "chunk size"),
        (LAST[:-2] + 99 * b"X: y\r\n" + b"\r\n", 431, "more than 100 header fields"),
        (POST + CHUNKED + b"0\r\n" + 200 * b"X: y\r\n" + b"\r\n", 431, "more than 100 header fields"),
        (LAST[:-2] + b"X: " + 66_000 * b"y" + b"\r\n\r\n", 431, "over 65,536 bytes"),
        (b"GET /livez?" + 8_200 * b"a" + b" HTTP/1.1\r\n\r\n", 414, "over 8,192 bytes"),
        (b"GET /v2?" + 8_200 * b"a" + b" HTTP/1.1\r\n\r\n", 414, "over 8,192 bytes"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(
    server: Server, sent: bytes, status: int, detail: str
) -> None:
    for packets in ([sent], [LIVEZ + sent], [sent + 100 * LIVEZ]):
        if sent.startswith((b"get", b"FROB", b"PRI", b"\x16", b"PROXY", b"\r\n")) and packets[0].startswith(LIVEZ):
            continue  # told by a request's first bytes
        *before, refused = exchanged(server, *packets)
        assert statuses(before) == [200] * len(before)
        assert refused.status == status
        assert detail in refused.detail
        assert b"connection: close" in refused.head.lower()


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET http://elsewhere.example:8000/livez HTTP/1.1",
        b"GET HTTP://elsewhere.example/livez?a=b HTTP/1.1",
        b"GET https://[::1]:80/livez HTTP/1.1",
        b"GET /livez HTTP/1.0",
        b"OPTIONS * HTTP/1.1",
        b"\r\n\r\nGET /livez HTTP/1.1",
        b"GET /livez HTTP/1.1\r\nX: \xff\xfe",
        b"GET /livez HTTP/1.0\r\nExpect: nothing",
        b"GET /livez HTTP/1.1\r\nX: a, b",
    ],
)
def test_what_the_specification_has_servers_take_is_answered(server: Server, request_line: bytes) -> None:
    (answer,) = exchanged(server, request_line + b"\r\nHost: service\r\nConnection: close\r\n\r\n")
    assert answer.status == (204 if request_line.startswith(b"OPTIONS") else 200)


def test_an_expectation_is_met_before_the_body_comes(server: Server) -> None:
    for head in (POST + b"Expect: 100-continue\r\n" + LENGTH, POST + b"Expect: 100-Continue\r\n" + CHUNKED):
        with connected(server) as connection:
            for start in range(0, len(head), 40):
                connection.sendall(head[start : start + 40])
                wait_until_read(connection)
            assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall((JPEG if b"Length" in head else chunked(JPEG, 1000)) + LAST)
            assert statuses(until_closed(connection)) == [200, 200]
    old = POST.replace(b"1.1", b"1.0") + b"Expect: 100-continue\r\n" + LENGTH + JPEG
    assert statuses(exchanged(server, old)) == [200]  # HTTP/1.0 has no interim responses


def test_a_body_that_was_not_asked_for_does_not_become_a_request(server: Server) -> None:
    head = POST.replace(b"/classify", b"/nowhere") + b"Expect: 100-continue\r\n" + LENGTH
    assert statuses(exchanged(server, head)) == [404]
    assert statuses(exchanged(server, head, LAST)) == [404]


def test_more_requests_than_may_wait_are_refused_after_those_that_may(server: Server) -> None:
    *taken, refused = exchanged(server, 100 * LIVEZ)
    assert statuses(taken) == [200] * 17
    assert (refused.status, "more than 16 requests wait" in refused.detail) == (429, True)


# Bodies of which the head does not tell


@pytest.mark.parametrize("path", [b"/classify", b"/classify/batch", b"/v2/repository/index", b"/livez", b"/nowhere"])
@pytest.mark.parametrize("end", [b"1.1\r\n", b"1.0\r\n", b"1.1\r\nConnection: close\r\n"])
@pytest.mark.parametrize("body", [JPEG, b'{"inputs": []}'])
def test_a_post_with_a_body_and_without_a_length_is_411(server: Server, path: bytes, end: bytes, body: bytes) -> None:
    head = b"POST %s HTTP/%sHost: service\r\n\r\n" % (path, end)
    for packets in ([head + body], [head, body]) if path == b"/classify" else ([head + body],):
        for _ in range(10):  # on busy cores the second packet may be read too late to be taken for the body
            (refused,) = exchanged(server, *packets)
            if refused.status == 411 or len(packets) == 1:
                break
        assert refused.status == 411
        assert "neither Content-Length nor Transfer-Encoding" in refused.detail
        assert "send Content-Length" in refused.detail
        assert (b"problem+json" in refused.head) == (not path.startswith(b"/v2"))


def test_a_body_without_a_length_is_refused_after_the_answers_to_the_requests_before_it(server: Server) -> None:
    head = b"POST /classify HTTP/1.1\r\nHost: service\r\n\r\n"
    assert statuses(exchanged(server, LIVEZ + LIVEZ + head + JPEG)) == [200, 200, 411]
    with connected(server) as connection:
        connection.sendall(head)
        assert connection.recv(1, socket.MSG_PEEK)  # the answer is there
        connection.sendall(JPEG)
        assert statuses(until_closed(connection)) == [400, 411]


def test_a_post_without_a_length_has_no_body_and_what_follows_is_the_next_request(server: Server) -> None:
    head = b"POST /v2/repository/index HTTP/1.1\r\nHost: service\r\n\r\n"
    for packets in ([head + head + LAST], [head, b"\r\n" + LAST[:3], LAST[3:]], [head.replace(b"1.1", b"1.0")]):
        found = exchanged(server, *packets)
        assert statuses(found) == [200] * b"".join(packets).count(b"HTTP/")
        assert found[0].body.startswith(b"[")


# Requests that cost time


def test_probes_come_in_between_requests_that_are_pipelined_on_many_connections(server: Server) -> None:
    metrics = b"GET /metrics HTTP/1.1\r\nHost: service\r\n\r\n"
    last = metrics.replace(b"Host", b"Connection: close\r\nHost")
    with contextlib.ExitStack() as open_ones, ThreadPoolExecutor(1) as pool:
        flood = [open_ones.enter_context(connected(server)) for _ in range(40)]
        started = time.monotonic()
        for connection in flood:
            connection.sendall(15 * metrics + last)
        reading = pool.submit(lambda: [until_closed(connection) for connection in flood])
        probes = []
        while not reading.done():
            asked = time.monotonic()
            assert statuses(exchanged(server, LAST)) == [200]
            probes.append(time.monotonic() - asked)
        seconds = time.monotonic() - started
        assert {len(found) for found in reading.result()} == {16}
    # Where each turn starts one request of every connection, the first probe waits for nearly all of them.
    assert max(probes) < seconds / 3


def test_probes_below_a_prefix_are_answered_where_all_connections_are_busy(
    bundle: Path, start_server: StartServer
) -> None:
    server = start_server("--bundle", str(bundle), "--root-path", "/crossvit", "--max-connections", "2")
    server.wait_until_ready()
    with connected(server) as first, connected(server) as second:
        for connection in (first, second):
            connection.sendall(POST + LENGTH + JPEG[:10])
            wait_until_read(connection)
        for path, status in ((b"/crossvit/livez", 200), (b"/livez", 200), (b"/crossvit/models", 503)):
            (answer,) = exchanged(server, LAST.replace(b"/livez", path))
            assert answer.status == status, path
        (refused,) = exchanged(server, LAST.replace(b"/livez", b"/crossvit/v2"))
        assert set(json.loads(refused.body)) == {"error"}  # as clients of that protocol read it


@pytest.mark.parametrize("size", [1, 16, 64, 200])
def test_an_image_in_small_chunks_is_classified(server: Server, size: int) -> None:
    image = LARGE if size > 16 else encoded(scene(60, 50), "JPEG")
    found = exchanged(server, POST + CHUNKED + chunked(image, size) + LAST)
    assert statuses(found) == [200, 200]


# Clients that close one side, or both


def test_a_client_that_shuts_its_sending_side_gets_its_answers(server: Server) -> None:
    for request in (
        POST + LENGTH + JPEG,
        POST + CHUNKED + chunked(JPEG, 5000),
        POST.replace(b"1.1", b"1.0") + LENGTH + JPEG,
    ):
        found = [answer for answer in exchanged(server, request, half_closed=True) if answer.status != 100]
        assert statuses(found) == [200]
        assert b"connection: close" in found[0].head.lower()
    found = exchanged(server, POST + LENGTH + JPEG + LIVEZ + POST + LENGTH + JPEG + LIVEZ, half_closed=True)
    assert [answer.status for answer in found if answer.status != 100] == [200] * 4


@pytest.mark.parametrize("request_", [POST, POST + LENGTH + JPEG[:100], POST + CHUNKED + b"100\r\nabc"])
def test_a_request_that_the_client_cuts_short_is_answered_400(server: Server, request_: bytes) -> None:
    *before, refused = exchanged(server, LIVEZ + request_, half_closed=True)
    assert statuses(before) == [200]
    assert (refused.status, "ends in the middle of its" in refused.detail) == (400, True)


def request_line_of(server: Server, request_id: str) -> dict[str, Any]:
    (line,) = wait_until(lambda: [line for line in server.log_lines() if f'"{request_id}"' in line])
    found: dict[str, Any] = json.loads(line)
    return found


@pytest.mark.parametrize("end", ["close", "reset", "half, then close"])
def test_a_request_whose_client_has_closed_the_connection_is_logged_as_499(server: Server, end: str) -> None:
    name = "gone-" + end[:4]

    def batch(images: int, request_id: str) -> bytes:
        files = [("files", (f"{number}.jpg", JPEG)) for number in range(images)]
        url, headers = f"{server.url}/classify/batch?resolution=480", {"X-Request-ID": request_id}
        request = httpx.Request("POST", url, files=files, headers=headers)
        head = b"".join(b"%s: %s\r\n" % field for field in request.headers.raw)
        return b"POST /classify/batch?resolution=480 HTTP/1.1\r\n" + head + b"\r\n" + request.read()

    with connected(server) as busy, connected(server) as connection:
        busy.sendall(batch(8, "other"))  # so that there is time to leave
        connection.sendall(batch(32, name))
        wait_until_read(connection)
        if end == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif end != "close":
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")  # the server looks whether the client still reads
    assert request_line_of(server, name)["status"] == 499


# The end of a connection


def test_a_client_that_is_still_sending_can_read_why_it_was_refused(server: Server) -> None:
    """A connection that is closed while bytes come is reset, and what was sent over it lost."""
    flood = bytes(4_000_000)
    for head in (
        POST + b"Transfer-Encoding: gzip\r\n\r\n",
        LAST[:-2] + 200 * b"X: y\r\n" + b"\r\n",
        LAST,
        POST.replace(b"/classify", b"/nowhere") + b"Connection: close\r\nContent-Length: 8000000\r\n\r\n",
        POST + b"Content-Length: 50000000\r\nConnection: close\r\n\r\n",
        b"\x16\x03\x01",
    ):
        with connected(server) as connection:
            connection.sendall(head + flood)
            connection.sendall(flood)
            wait_until_read(connection)
            (answer,) = until_closed(connection)
            assert answer.status >= 400 or head == LAST

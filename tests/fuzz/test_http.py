"""Bytes of any kind on a connection."""

import json
import re
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fuzz.cases import case_count
from tests.fuzz.raw_requests import SMUGGLED, raw_request
from tests.support.servers import Server


def exchanged(server: Server, request: bytes) -> bytes:
    """All that comes back, until the server closes the connection or has nothing more to say."""
    received = b""
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=20) as connection:
        try:
            connection.sendall(request)
            while more := connection.recv(65536):
                received += more
        except ConnectionError:
            pass
    return received


def assert_well_formed(received: bytes) -> list[int]:
    """The statuses of the responses in `received`, each of them whole and in order."""
    statuses = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
        assert status, head[:200]
        statuses.append(int(status[1]))
        length = int(found[1]) if (found := re.search(rb"(?i)\r\ncontent-length: (\d+)", head)) else 0
        body, received = received[:length], received[length:]
        if statuses[-1] >= 400 and body.startswith(b"{"):
            answer = json.loads(body)
            assert answer.get("error") or (answer["detail"] and answer["status"] == statuses[-1])
    return statuses


def test_bytes_of_any_kind_are_answered_or_cut_off_in_time(target: Server) -> None:
    def statuses(number: int) -> list[int]:
        started = time.monotonic()
        try:
            request = raw_request(number)
            found = assert_well_formed(exchanged(target, request)) if b"HEAD" not in request else []
            assert all(status < 500 or status in (501, 505) for status in found), found
            assert time.monotonic() - started < 30
            return found
        except Exception as err:
            raise AssertionError(f"raw_request({number}) is not answered as it should be") from err

    with ThreadPoolExecutor(100) as pool:  # many wait to be cut off
        counts = Counter(status for found in pool.map(statuses, range(case_count(1000))) for status in found)
    assert all(counts[status] > case_count(16) - 1 for status in (200, 400, 404, 405)), counts


@pytest.mark.parametrize(
    "framing",
    [
        [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
        [b"Content-Length: 5", b"Content-Length: 0"],
        [b"Content-Length: 0", b"Content-Length: 5"],
        [b"Content-Length: 0, 5"],
        [b"Content-Length: +0"],
        [b"Content-Length : 0"],
        [b"Transfer-Encoding : chunked"],
        [b"Transfer-Encoding:\r\n chunked"],
        [b"Transfer-Encoding: xchunked"],
        [b"Transfer-Encoding: chunked\x0b"],
        [b"Transfer-Encoding: chunked, identity"],
        [b'Transfer-Encoding: "chunked"'],
        [b"X: \0", b"Content-Length: 0"],
        [b"X: a\rContent-Length: 0"],
        [b"X: a\nTransfer-Encoding: chunked"],
    ],
)
def test_a_request_of_doubtful_length_is_refused_and_nothing_after_it_read(
    target: Server, framing: list[bytes]
) -> None:
    head = b"\r\n".join([b"POST /livez HTTP/1.1", b"Host: service", *framing])
    assert assert_well_formed(exchanged(target, head + b"\r\n\r\n0\r\n\r\n" + SMUGGLED)) == [400]


def test_pipelined_requests_are_answered_in_order(target: Server) -> None:
    paths = [b"/livez", b"/smuggled", b"/v2/models/resnet", b"/models", b"/readyz?deep=x"] * 3
    requests = [b"GET %s HTTP/1.1\r\nHost: service\r\n\r\n" % path for path in paths]
    assert assert_well_formed(exchanged(target, b"".join(requests))) == [200, 404, 404, 200, 422] * 3

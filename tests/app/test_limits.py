"""A real server, and clients that send too much, too slowly, or what is not HTTP."""

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.support.load import probing
from tests.support.pictures import JPEG, encoded, scene
from tests.support.processes import own_cpu_seconds, resident_mb, workers
from tests.support.raw_http import connect, head, wait_until_read
from tests.support.servers import Server, crossvit_serve
from tests.support.waiting import wait_until

LIMITS = {
    "header-seconds": 1,
    "body-seconds": 1,
    "max-body-bytes": 3_000_000,
    "max-bodies-bytes": 5_000_000,
    "max-connections": 40,
    "decode-seconds": 3,
    "decode-bytes": 300 << 20,
    "decoders": 2,
    "max-images": 5,
}


@pytest.fixture(scope="module")
def strict(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = [word for name, value in LIMITS.items() for word in (f"--{name}", str(value))]
    log = tmp_path_factory.mktemp("strict") / "log"
    with crossvit_serve(log, "--bundle", str(bundle), "--engine", "onnxruntime", *options) as server:
        server.wait_until_ready()
        yield server


@pytest.fixture(autouse=True)
def still_right(strict: Server) -> Iterator[None]:
    """Whatever a test has sent, the next request is right, and nothing was a defect."""
    yield
    answer = httpx.post(f"{strict.url}/classify", files={"file": JPEG}, timeout=30)
    assert answer.status_code == 200, answer.text
    log = strict.log_text()
    assert "Traceback" not in log
    assert '"status": 500' not in log


def until_closed(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def test_headers_that_do_not_arrive_in_time_end_the_connection(strict: Server) -> None:
    for sent in (b"", b"POST /classify HTTP/1.1\r\nHost:"):
        with connect(strict) as connection:
            connection.sendall(sent)
            started = time.monotonic()
            assert until_closed(connection) == b""
            assert 0.8 < time.monotonic() - started < 9  # 10 s are the default


def send_until_closed(connection: socket.socket, chunk: bytes, pause: float = 0) -> int:
    """Send chunks until the server closes the connection; how many bytes that were. TimeoutError if it never does."""
    sent = 0

    def closed() -> bool:
        nonlocal sent
        try:
            connection.sendall(chunk)
        except ConnectionError:
            return True
        sent += len(chunk)
        return False

    wait_until(closed, poll_seconds=pause)
    return sent


def test_headers_that_arrive_byte_by_byte_get_no_more_time(strict: Server) -> None:
    with connect(strict) as connection:
        send_until_closed(connection, b"a", pause=0.05)


def test_headers_without_end_are_refused(strict: Server) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\n" + 3000 * b"X-Header: 0123456789012345\r\n")
        answer = until_closed(connection)
    assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == 431


def test_what_is_not_http_is_answered_400_with_the_parsers_reason(strict: Server) -> None:
    with connect(strict) as connection:
        connection.sendall(b"@ hello\r\n\r\n")
        answer = until_closed(connection)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["detail"] == (
        "this is not valid HTTP/1.1 (the parser says 'Invalid method encountered')"
    )


def test_a_body_that_stops_coming_is_408_and_the_connection_ends(strict: Server) -> None:
    with connect(strict) as connection:
        connection.sendall(head(len(JPEG)) + JPEG[:1000])
        started = time.monotonic()
        answer = until_closed(connection)
        assert time.monotonic() - started > 0.8
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"the request body did not arrive within 1 s" in answer


def test_a_body_without_end_is_refused_and_then_cut_off(strict: Server) -> None:
    before = resident_mb(strict.process.pid)
    chunk = b"10000\r\n" + 0x10000 * b"x" + b"\r\n"
    with connect(strict) as connection:
        connection.sendall(head(None, "/classify", "Transfer-Encoding: chunked"))
        sent = send_until_closed(connection, chunk)
    assert sent > LIMITS["max-body-bytes"]
    assert resident_mb(strict.process.pid) < before + 40


@pytest.mark.parametrize("kind", ["declared", "chunked", "multipart", "chunked multipart"])
def test_a_body_over_the_limit_is_413_however_it_comes(strict: Server, kind: str) -> None:
    large = JPEG + bytes(LIMITS["max-body-bytes"])
    url = f"{strict.url}/classify"
    match kind:
        case "declared":
            answer = httpx.post(url, content=large, headers={"Content-Type": "image/jpeg"})
        case "chunked":
            answer = httpx.post(url, content=iter([large]), headers={"Content-Type": "image/jpeg"})
        case "multipart":
            answer = httpx.post(url, files={"file": large})
        case _:
            form = (
                b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + large + b"\r\n--x--\r\n"
            )
            headers = {"Content-Type": "multipart/form-data; boundary=x"}
            answer = httpx.post(url, content=iter([form[:70000], form[70000:]]), headers=headers)
    assert answer.status_code == 413
    assert "over the limit of 3,000,000 bytes" in answer.json()["detail"]


def test_memory_for_bodies_is_bounded_and_no_stalled_one_keeps_it_from_others(strict: Server) -> None:
    part = bytes(2_490_000)
    slow = [connect(strict) for _ in range(2)]
    for connection in slow:
        connection.sendall(head(len(part) + 1) + part)  # all but the last byte
        wait_until_read(connection)
    answer = httpx.post(f"{strict.url}/classify", files={"file": JPEG})
    assert answer.status_code == 200
    assert b"408 Request Timeout" in (told := until_closed(slow[0]))
    assert b"dropped to make room for others" in told
    for connection in slow:
        connection.close()


@pytest.mark.parametrize(
    ("framing", "refusal"),
    [
        (b"0\r\n" + 20_000 * b"a: b\r\n", "more than 100 header fields"),  # trailers
        (400_000 * b"1\r\nx\r\n", " of body: send larger chunks"),  # a body of single bytes
        (b"1;" + 20_000_000 * b"x" + b"\r\nx\r\n", "bytes of framing around 0 of body"),  # a chunk's extension
    ],
    ids=["trailers", "single bytes", "an extension"],
)
def test_framing_that_costs_more_than_its_body_is_refused(strict: Server, framing: bytes, refusal: str) -> None:
    before = resident_mb(strict.process.pid)
    with connect(strict) as connection, probing(strict.url) as probes:
        connection.sendall(head(None, "/classify", "Transfer-Encoding: chunked"))
        with contextlib.suppress(ConnectionError):  # the server may close before all is sent
            connection.sendall(framing)
        answer = until_closed(connection)
        with contextlib.suppress(ConnectionError):
            for _ in range(4):
                connection.sendall(framing)
    assert refusal in json.loads(answer.partition(b"\r\n\r\n")[2])["detail"]
    assert max(probes) < 30
    assert resident_mb(strict.process.pid) < before + 40


def test_no_more_than_a_few_requests_are_pipelined(strict: Server) -> None:
    get = b"GET /livez HTTP/1.1\r\nHost: service\r\n\r\n"
    with connect(strict) as connection:
        connection.sendall(10 * get + get.replace(b"Host", b"Connection: close\r\nHost"))
        assert until_closed(connection).count(b"HTTP/1.1 200 OK") == 11
    with connect(strict) as connection:
        connection.sendall(3000 * get)
        assert until_closed(connection).count(b"HTTP/1.1 200 OK") < 20


def test_a_client_that_does_not_read_is_cut_off_whatever_it_sends(strict: Server) -> None:
    get = b"GET /openapi.json HTTP/1.1\r\nHost: service\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", int(strict.url.rpartition(":")[2])))
        connection.settimeout(0.5)

        def cut_off() -> bool:
            with contextlib.suppress(TimeoutError):  # the server reads no more requests while answers wait
                try:
                    connection.sendall(5 * get)
                except ConnectionError:
                    return True
            return False

        wait_until(cut_off, seconds=20, poll_seconds=0.1)  # 30 s are the default


def test_an_unknown_format_of_metrics_is_answered_200(strict: Server) -> None:
    for wish in ("application/openmetrics-text; version=abc; escaping=foo", "text/plain; version=1.x.0; escaping=="):
        assert httpx.get(f"{strict.url}/metrics", headers={"Accept": wish}).status_code == 200


def test_a_path_with_a_slash_too_many_is_404_and_not_redirected(strict: Server) -> None:
    answer = httpx.post(f"{strict.url}/classify/", headers={"Host": "elsewhere.example"})
    assert (answer.status_code, answer.headers.get("Location")) == (404, None)


def test_idle_connections_make_room_for_new_ones_and_for_those_at_work_none_is_closed(strict: Server) -> None:
    def idle_for_too_long() -> int:
        return strict.log_text().count("it sends no request")

    before = idle_for_too_long()
    with connect(strict) as stalled:
        stalled.sendall(head(len(JPEG)) + JPEG[:-1])
        connections = [connect(strict) for _ in range(100)]
        connections[-1].sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert httpx.get(f"{strict.url}/livez").status_code == 200
        stalled.sendall(JPEG[-1:])
        assert b"200 OK" in stalled.recv(100)
        assert b"200 OK" in until_closed(connections[-1])
        for connection in connections[: -LIMITS["max-connections"]]:
            assert until_closed(connection) == b""
        assert idle_for_too_long() - before < LIMITS["max-connections"]  # the others made room
    for connection in connections:
        connection.close()
    assert strict.log_text().count("to make room") == 1


@pytest.mark.parametrize("fields", [9, 5000])
def test_a_form_with_many_fields_is_refused(strict: Server, fields: int) -> None:
    form = (
        b"".join(b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' for _ in range(fields)) + b"--x--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = httpx.post(f"{strict.url}/classify", content=form, headers=headers)
    assert answer.status_code == 400
    assert "more than 8 fields that are neither files nor options" in answer.json()["detail"]


def test_an_image_that_hangs_or_crashes_its_decoder_costs_one_worker(strict: Server) -> None:
    huge = encoded(Image.new("RGB", (6000, 6000)))
    url = f"{strict.url}/classify"
    for fault, detail in ((signal.SIGSTOP, "takes longer than 3 s"), (signal.SIGSEGV, "cannot be decoded")):
        before = workers(strict.process.pid, "decoder")
        used = {pid: own_cpu_seconds(pid) for pid in before}
        with ThreadPoolExecutor(2) as pool:
            requests = [pool.submit(httpx.post, url, files={"file": huge}, timeout=30) for _ in range(2)]
            wait_until(lambda: all(own_cpu_seconds(pid) > used[pid] + 0.02 for pid in before))  # noqa: B023
            os.kill(before[0], fault)
            answers = sorted((request.result() for request in requests), key=lambda answer: answer.status_code)
        assert [answer.status_code for answer in answers] == [200, 422]
        assert detail in answers[1].json()["detail"]
        assert httpx.post(url, files={"file": JPEG}).status_code == 200
        assert httpx.post(url, files={"file": JPEG}).status_code == 200
        assert before[0] not in workers(strict.process.pid, "decoder")


def test_an_image_that_takes_too_much_memory_is_422(strict: Server) -> None:
    answer = httpx.post(f"{strict.url}/classify", files={"file": encoded(Image.new("RGBA", (7070, 7070)))}, timeout=30)
    assert answer.status_code == 422
    assert "takes more memory to decode than it may" in answer.json()["detail"]


def test_an_image_of_too_many_pixels_is_413_before_it_is_decoded(strict: Server) -> None:
    bomb = bytearray(encoded(Image.new("1", (100, 100))))
    bomb[16:24] = (100_000).to_bytes(4, "big") * 2  # the header says so, the checksum does not
    large = encoded(Image.new("1", (20000, 20000)))
    answer = httpx.post(f"{strict.url}/classify", files={"file": large})
    assert answer.status_code == 413  # decoded, its 400 MB are more memory than it may take: 422
    assert "20000 x 20000 pixels, over the limit of 50,000,000" in answer.json()["detail"]
    assert httpx.post(f"{strict.url}/classify", files={"file": bytes(bomb)}).status_code in (413, 422)


def test_each_file_of_a_batch_has_its_own_result_or_problem(strict: Server) -> None:
    files = [
        ("files", ("a.jpg", JPEG)),
        ("files", ("b.txt", b"no image")),
        ("files", ("c.jpg", b"")),
        ("files", ("d.jpg", JPEG[: len(JPEG) // 2])),
        ("files", ("e.png", encoded(scene(300, 300, 5)))),
    ]
    response = httpx.post(f"{strict.url}/classify/batch?top_k=3", files=files)
    assert response.status_code == 200
    answer = response.json()
    assert [(result["index"], result["filename"]) for result in answer["results"]] == [
        (0, "a.jpg"),
        (1, "b.txt"),
        (2, "c.jpg"),
        (3, "d.jpg"),
        (4, "e.png"),
    ]
    assert [result.get("problem", {}).get("status") for result in answer["results"]] == [None, 415, 400, 422, None]
    alone = httpx.post(f"{strict.url}/classify?top_k=3", files={"file": JPEG}).json()
    indices = [[prediction["index"] for prediction in one["predictions"]] for one in (answer["results"][0], alone)]
    assert indices[0] == indices[1]
    assert answer["model"] == alone["model"]
    assert answer["request_id"] == response.headers["X-Request-ID"]


@pytest.mark.parametrize(
    ("files", "status", "detail"),
    [
        ([("files", JPEG)] * 6, 413, "more than 5 files"),
        ([("image", JPEG)], 400, "no file in the field 'files', but in 'image'"),
        ([], 400, "cannot be read"),
    ],
)
def test_an_invalid_batch_is_refused_with_the_reason(
    strict: Server, files: list[object], status: int, detail: str
) -> None:
    headers = {} if files else {"Content-Type": "multipart/form-data"}
    answer = httpx.post(f"{strict.url}/classify/batch", files=files or None, headers=headers)  # type: ignore[arg-type]
    assert (answer.status_code, detail in answer.json()["detail"]) == (status, True), answer.text


def test_two_files_for_one_image_are_refused_with_the_route_for_several(strict: Server) -> None:
    answer = httpx.post(f"{strict.url}/classify", files=[("file", JPEG)] * 2)
    assert answer.status_code == 400
    assert "or several to /classify/batch" in answer.json()["detail"]

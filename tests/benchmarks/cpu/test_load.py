import asyncio
import json
import math
import shutil
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path

import pytest

from benchmarks.cpu import load
from benchmarks.cpu.load import BOUNDARY, Closed, Load, load_of, multipart, parsed, percentile

SAID = (
    "Running 1s test\n"
    '{"requests":20,"microseconds":2000000,"status_errors":4,"broken":1,"latencies":[[1000,15],[9000,5]],"answered":[250,500.5]}\n'
    "Requests/sec: 10\n"
)


async def slow_server(taken: float) -> tuple[asyncio.Server, int]:
    """One that answers one request at a time, each after `taken` seconds."""
    turn = asyncio.Lock()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        await reader.readexactly(int(head.partition("content-length: ")[2].split()[0]))
        async with turn:
            await asyncio.sleep(taken)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


def test_latency_at_a_fixed_rate_counts_from_when_a_request_was_due(tmp_path: Path) -> None:
    async def main() -> load.Fixed:
        server, port = await slow_server(0.05)
        async with server:
            photos = Load(tmp_path, [b"photo", b"another"])
            return await asyncio.to_thread(photos.fixed, port, "file", 40.0, 0.5)

    found = asyncio.run(main())
    # It answers 20 a second and gets 40: the last of 20 is due after 0.475 s and answered after a second.
    assert len(found.seconds) == 20
    assert found.errors == 0
    assert min(found.seconds) >= 0.05
    assert max(found.seconds) >= 20 * 0.05 - 19 / 40 - 0.01


def test_a_form_has_the_photograph_in_the_field_that_the_service_wants() -> None:
    photo = b"\xff\xd8\r\n--\x00"
    head = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode()
    (part,) = BytesParser(policy=HTTP).parsebytes(head + multipart("request", photo)).iter_parts()
    assert part.get_param("name", header="content-disposition") == "request"
    assert part.get_content() == photo


def test_what_wrk_says_is_read_and_answers_that_were_no_answer_are_no_throughput() -> None:
    found = parsed(SAID, 2)
    assert found == Closed(2, 20, 2.0, 4, 1, [(1000, 15), (9000, 5)], [250, 500.5])
    assert found.errors == 5
    with pytest.raises(RuntimeError, match="unable to connect"):
        parsed("unable to connect to 127.0.0.1", 2)


def test_throughput_is_that_between_the_first_batch_and_the_last() -> None:
    batches = [1000.0, 1001.0, 2000.0, 2001.0, 3000.0, 3001.0]
    assert Closed(4, 6, 3.9, 0, 0, [], batches).rate == pytest.approx(2.0)
    smeared = [1000.0, 1019.0, 1030.0, 1045.0, 2000.0, 2030.0, 2031.0, 2045.0]
    assert Closed(4, 8, 3.9, 0, 0, [], smeared).rate == pytest.approx(4.0)
    one_by_one = [100.0, 200.0, 300.0]
    assert Closed(1, 3, 0.39, 0, 0, [], one_by_one).rate == pytest.approx(10.0)
    fast = [float(answered) for answered in range(0, 1000, 5)]
    assert Closed(16, 200, 1.0, 0, 0, [], fast).rate == pytest.approx(200.0)


def test_a_round_that_saw_one_batch_or_none_counts_over_all_its_time() -> None:
    assert Closed(2, 2, 4.0, 0, 0, [], [1000.0, 1001.0]).rate == 0.5
    assert Closed(2, 0, 4.0, 0, 0).rate == 0


@pytest.mark.parametrize(("percent", "value"), [(50, 1), (75, 1), (76, 9), (99, 9)])
def test_a_percentile_of_counted_values_is_one_of_them(percent: float, value: float) -> None:
    assert percentile([(9, 5), (1, 15)], percent) == value


def test_no_answers_have_no_percentile() -> None:
    assert math.isnan(percentile([], 50))


def test_without_wrk_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(FileNotFoundError, match="apt install wrk"), load_of([b"photo"]):
        pytest.fail("there is no wrk")


def test_results_survive_json() -> None:
    assert json.loads(json.dumps(parsed(SAID, 2).latencies)) == [[1000, 15], [9000, 5]]

import asyncio
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path

import pytest

from app.commands.bench.load_generator import Load
from benchmarks.contest.load import BOUNDARY, multipart, put_on
from benchmarks.contest.results import LoadRound


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


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    files = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for file in files:
        file.write_bytes(b"photo")
    return files


def put_on_slow_server(load: Load, seconds: float, photos: list[Path], taken: float = 0.05) -> LoadRound:
    async def main() -> LoadRound:
        server, port = await slow_server(taken)
        async with server:
            return await asyncio.to_thread(put_on, f"http://127.0.0.1:{port}", "file", load, seconds, photos)

    return asyncio.run(main())


def test_latency_at_a_fixed_rate_counts_from_when_a_request_was_due(photos: list[Path]) -> None:
    found = put_on_slow_server(Load(rate=40.0), 0.5, photos)
    # It answers 20 a second and gets 40: the last of 20 is due after 0.475 s and answered after a second.
    assert len(found.answers) == 20
    assert (found.errors, found.rate) == (0, 40.0)
    assert min(found.latencies) >= 50
    assert max(found.latencies) >= 1000 * (20 * 0.05 - 19 / 40 - 0.01)


def test_clients_ask_again_when_they_have_their_answers(photos: list[Path]) -> None:
    found = put_on_slow_server(Load(clients=2), 0.5, photos)
    assert found.answers == sorted(found.answers, key=lambda answer: answer[1])
    assert 2 <= len(found.answers) <= 12  # one each 50 ms, and those under way at the end
    assert found.client_seconds > 0


def test_a_form_has_the_photograph_in_the_field_that_the_service_wants() -> None:
    photo = b"\xff\xd8\r\n--\x00"
    head = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode()
    (part,) = BytesParser(policy=HTTP).parsebytes(head + multipart("request", photo)).iter_parts()
    assert part.get_param("name", header="content-disposition") == "request"
    assert part.get_content() == photo

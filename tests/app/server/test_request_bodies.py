"""Bodies in pieces: what the application receives is what the client sent, while reading is paused and resumed."""

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import uvicorn
from uvicorn.server import ServerState

from app.api.early_refusal import EarlyRefusals
from app.configuration.settings import Settings
from app.server.connection import Connection
from app.server.connection_limits import ConnectionLimiter, StartScheduler
from app.server.refusal_log import RefusalLog
from app.server.refusal_pacer import RefusalPacer

KIB = 1 << 10
EDGES = [size * KIB + more for size in (64, 128, 256) for more in (-1, 0, 1)]
SIZES = [0, 1, *EDGES, 3 << 20, (8 << 20) + 7]


class NoEarlyRefusals:
    """Lets the application answer every request."""

    def refusal_of(self, *_: object) -> None:
        return None


class Echo:
    """Answers with the length and the SHA-256 of a body, and keeps the largest piece that it was given.

    Args:
        pause: seconds before each piece is received.
    """

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self.largest = 0

    async def __call__(self, _: Any, receive: Any, send: Any) -> None:
        digest, size, more = hashlib.sha256(), 0, True
        while more:
            await asyncio.sleep(self._pause)
            message = await receive()
            assert message["type"] == "http.request"
            assert type(message["body"]) is bytes
            self.largest = max(self.largest, len(message["body"]))
            digest.update(message["body"])
            size, more = size + len(message["body"]), message["more_body"]
        body = f"{size} {digest.hexdigest()}\n".encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def served(app: Echo) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server with nothing in it but `app`."""
    config = uvicorn.Config(app, log_config=None)
    config.load()
    config.loaded_app = app  # without uvicorn's own middleware

    class BodyConnection(Connection):
        settings = Settings(bundle=Path("unused"))
        start_scheduler = StartScheduler()
        limiter = ConnectionLimiter(10)
        early_refusals = cast(EarlyRefusals, NoEarlyRefusals())
        refusal_log = RefusalLog()

        def leaving(self) -> bool:
            return False

        pacer = RefusalPacer(math.inf)

        def limiter_of(self, _: int) -> ConnectionLimiter:
            return self.limiter

        def pacer_of(self, _: int) -> RefusalPacer:
            return self.pacer

    loop = asyncio.get_running_loop()
    state = ServerState()
    server = await loop.create_server(lambda: BodyConnection(config, state, {}), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    try:
        yield reader, writer
    finally:
        writer.close()
        server.close()
        await server.wait_closed()


def body_of(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


def framed(body: bytes, chunk: int) -> bytes:
    """A request with this body, in chunks of up to `chunk` bytes, or with a length where that is 0."""
    head = b"POST / HTTP/1.1\r\nHost: service\r\n"
    if not chunk:
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    pieces = [body[start : start + chunk] for start in range(0, len(body), chunk)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


async def answer_of(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return await reader.readline()


def expected(body: bytes) -> bytes:
    return f"{len(body)} {hashlib.sha256(body).hexdigest()}\n".encode()


@pytest.mark.parametrize("chunk", [0, 1000, 70_000, 1 << 20])
@pytest.mark.parametrize("pause", [0, 0.001])
def test_bodies_of_all_sizes_arrive_unchanged_one_after_the_other_and_in_a_pipeline(chunk: int, pause: float) -> None:
    async def main() -> None:
        bodies = [body_of(size) for size in SIZES]
        app = Echo(pause)
        async with served(app) as (reader, writer):
            for body in bodies:
                writer.write(framed(body, chunk))
                assert await answer_of(reader) == expected(body), len(body)
            assert app.largest <= (128 + 256) * KIB  # beyond what may wait unread, no more than arrives at once
            for body in bodies:  # all before the first answer is read
                writer.write(framed(body, chunk))
            for body in bodies:
                assert await answer_of(reader) == expected(body), len(body)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_body_that_comes_in_small_packets_arrives_unchanged() -> None:
    async def main() -> None:
        body = body_of(5000)
        async with served(Echo(0)) as (reader, writer):
            request = framed(body, 100)
            for start in range(0, len(request), 37):
                writer.write(request[start : start + 37])
                await writer.drain()
                await asyncio.sleep(0)
            assert await answer_of(reader) == expected(body)

    asyncio.run(asyncio.wait_for(main(), 60))

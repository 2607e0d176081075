"""Accepting connections from a listening socket, turn by turn of the event loop."""

import asyncio
import errno
import socket
from collections.abc import Iterator

import pytest

from app.server import acceptor
from app.server.acceptor import Acceptor
from tests.support.waiting import until


class Listener(socket.socket):
    """A listening socket whose next `failures` accepts fail, as they do without a free file."""

    failures = 0

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


class Made(asyncio.Protocol):
    """A protocol that is counted in `all`, and closes its connection at once."""

    all = 0

    def __init__(self) -> None:
        Made.all += 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


@pytest.fixture(autouse=True)
def none_made() -> None:
    Made.all = 0


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield listening


@pytest.fixture
def waiting(listener: Listener) -> Iterator[list[socket.socket]]:
    """Ten connections that wait to be accepted."""
    connections = [socket.create_connection(listener.getsockname()) for _ in range(10)]
    yield connections
    for connection in connections:
        connection.close()


def test_a_turn_of_the_event_loop_accepts_one_connection(listener: Listener, waiting: list[socket.socket]) -> None:
    async def main() -> None:
        accepting = Acceptor(listener, Made)
        accepting.resume()
        while Made.all < len(waiting):
            before = Made.all
            await asyncio.sleep(0)
            assert Made.all <= before + 1
        accepting.pause()
        await accepting.wait_opened()

    asyncio.run(main())


def test_nothing_is_accepted_during_a_pause(listener: Listener, waiting: list[socket.socket]) -> None:
    async def main() -> None:
        accepting = Acceptor(listener, Made)
        accepting.resume()
        accepting.pause()
        await asyncio.sleep(0.02)
        assert not Made.all
        accepting.resume()
        await until(lambda: Made.all == len(waiting))
        accepting.pause()
        await accepting.wait_opened()

    asyncio.run(main())


@pytest.mark.usefixtures("waiting")
def test_accepting_goes_on_after_a_pause_where_files_ran_out(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(acceptor, "_PAUSE_SECONDS", 0.05)
    listener.failures = 2

    async def main() -> None:
        accepting = Acceptor(listener, Made)
        accepting.resume()
        await until(lambda: Made.all == 10)
        accepting.pause()
        await accepting.wait_opened()

    asyncio.run(main())
    assert caplog.text.count("no connection can be accepted for 0.05 s: [Errno 24] Too many open files") == 2

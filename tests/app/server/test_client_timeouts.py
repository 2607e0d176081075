"""The time limits of a client, on a real pair of sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from app.server.client_timeouts import ClientTimeouts


class HalfOpen(asyncio.Protocol):
    """Stays open when the client stops sending, as a connection does that has a request to answer."""

    def eof_received(self) -> bool:
        return True


@dataclass
class Watched:
    """A transport whose client is `peer`, its limits, and the reasons for which the client was cut off."""

    peer: socket.socket
    transport: asyncio.Transport
    flow: FlowControl
    timeouts: ClientTimeouts
    reasons: list[str] = field(default_factory=list)


@pytest.fixture
def peers() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        served, _ = listener.accept()
        with client, served:
            yield client, served


@asynccontextmanager
async def watched(peers: tuple[socket.socket, socket.socket]) -> AsyncIterator[Watched]:
    client, served = peers
    transport, _ = await asyncio.get_running_loop().create_connection(HalfOpen, sock=served)
    flow, reasons = FlowControl(transport), list[str]()
    try:
        yield Watched(client, transport, flow, ClientTimeouts(transport, flow, reasons.append), reasons)
    finally:
        transport.abort()
        await asyncio.sleep(0)


@pytest.mark.parametrize("seconds", [[0.05], [60, 0.05], [0.02, 0.1], [0.02, 0.05, 0.1]])
def test_the_last_limit_counts_whether_it_is_earlier_or_later_than_the_ones_before(
    peers: tuple[socket.socket, socket.socket], seconds: list[float]
) -> None:
    async def run() -> None:
        async with watched(peers) as watch:
            for number, limit in enumerate(seconds):
                watch.timeouts.await_bytes(limit, f"limit {number}")
            began = asyncio.get_running_loop().time()
            while not watch.reasons:
                assert asyncio.get_running_loop().time() - began < 5
                await asyncio.sleep(0.005)
            assert watch.reasons == [f"limit {len(seconds) - 1}"]
            assert asyncio.get_running_loop().time() - began >= seconds[-1] - 0.01

    asyncio.run(run())


def test_a_client_that_need_not_send_is_not_cut_off(peers: tuple[socket.socket, socket.socket]) -> None:
    async def run() -> None:
        async with watched(peers) as watch:
            watch.timeouts.await_bytes(0.03, "slow")
            watch.timeouts.await_no_bytes()
            await asyncio.sleep(0.1)
            assert watch.reasons == []
            watch.timeouts.await_bytes(0.03, "slow again")
            await asyncio.sleep(0.1)
            assert watch.reasons == ["slow again"]

    asyncio.run(run())


def test_a_client_is_not_late_while_the_service_does_not_read(peers: tuple[socket.socket, socket.socket]) -> None:
    async def run() -> None:
        async with watched(peers) as watch:
            watch.timeouts.await_bytes(0.03, "slow")
            watch.flow.pause_reading()
            await asyncio.sleep(0.15)
            assert watch.reasons == []
            watch.flow.resume_reading()
            await asyncio.sleep(0.15)
            assert watch.reasons == ["slow"]

    asyncio.run(run())


def test_a_client_that_has_closed_is_cut_off_when_its_system_answers_the_probe(
    peers: tuple[socket.socket, socket.socket],
) -> None:
    async def run() -> None:
        async with watched(peers) as watch:
            probes: list[None] = []

            def probe() -> None:
                probes.append(None)
                watch.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

            watch.timeouts.await_reset(lambda: True, probe)
            await asyncio.sleep(0.2)
            assert (watch.reasons, probes) == ([], [])  # it has only waited
            watch.peer.close()
            await asyncio.sleep(1)
            assert probes
            assert watch.reasons[:1] == ["it has closed the connection"]

    asyncio.run(run())


def test_nobody_is_cut_off_after_the_connection_is_lost(peers: tuple[socket.socket, socket.socket]) -> None:
    async def run() -> None:
        async with watched(peers) as watch:
            watch.timeouts.await_bytes(0.03, "slow")
            watch.timeouts.await_reading(0.03)
            watch.timeouts.close()
            await asyncio.sleep(0.1)
            assert watch.reasons == []

    asyncio.run(run())

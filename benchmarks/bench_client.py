"""The cost of the client of `crossvit bench`, beside other Python clients, against a server that does nothing.

    python -m benchmarks.bench_client

The server reads a body as large as a photograph and answers at once, in a process of its own.
"""

import argparse
import asyncio
import http.client
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import httptools
import httpx
import uvloop

from app.commands.bench.http_client import LoadClient

_CONTENT = b'{"predictions": [], "padding": "%b"}' % (b"x" * 700)
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(_CONTENT), _CONTENT)
_BODY = bytes(108_000)
_HEADERS = {"Content-Type": "application/octet-stream"}


class _Answers(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._transport.write(_ANSWER)  # type: ignore[attr-defined]


def serve(tell: Connection) -> None:
    async def forever() -> None:
        server = await asyncio.get_running_loop().create_server(_Answers, "127.0.0.1", 0)
        tell.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(forever())


def with_bench(port: int, clients: int, seconds: float) -> list[float]:
    async def drive() -> list[float]:
        spent: list[float] = []
        end = time.perf_counter() + seconds

        async def one(client: LoadClient, request: bytes) -> None:
            while (before := time.perf_counter()) < end:
                await client.ask(request)
                spent.append(time.perf_counter() - before)

        async with LoadClient(f"http://127.0.0.1:{port}") as client:
            request = client.post("/classify", _BODY)
            await asyncio.gather(*(one(client, request) for _ in range(clients)))
        return spent

    return asyncio.run(drive())


def in_threads(sender: Callable[[int], Callable[[], object]]) -> Callable[[int, int, float], list[float]]:
    def run(port: int, clients: int, seconds: float) -> list[float]:
        spent: list[float] = []
        end = time.perf_counter() + seconds

        def one() -> None:
            send = sender(port)
            while (before := time.perf_counter()) < end:
                send()
                spent.append(time.perf_counter() - before)

        threads = [threading.Thread(target=one) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return spent

    return run


def standard(port: int) -> Callable[[], object]:
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def send() -> bytes:
        connection.request("POST", "/classify", _BODY, _HEADERS)
        return connection.getresponse().read()

    return send


_HTTPX = httpx.Client()  # made once, which takes long; threads may share it


def httpx_sender(port: int) -> Callable[[], object]:
    return lambda: _HTTPX.post(f"http://127.0.0.1:{port}/classify", content=_BODY, headers=_HEADERS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each client in a round")
    options = parser.parse_args()
    contestants = {
        "crossvit bench": with_bench,
        "http.client in threads": in_threads(standard),
        "httpx in threads": in_threads(httpx_sender),
    }
    told, tell = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(tell,), daemon=True)
    server.start()
    port: int = told.recv()
    print("| client | clients | processor time of a request, ms | p50 ms |\n|---|---|---|---|")
    for clients in (1, 16):
        costs: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
        for _ in range(options.rounds):
            for name, run in contestants.items():
                before = time.process_time()
                spent = run(port, clients, options.seconds)
                cost = (time.process_time() - before) / len(spent)
                costs[name].append((1000 * cost, 1000 * statistics.median(spent)))
        for name, rounds in costs.items():
            cost, p50 = (statistics.median(column) for column in zip(*rounds, strict=True))
            print(f"| {name} | {clients} | {cost:.3f} | {p50:.3f} |")
    server.terminate()


if __name__ == "__main__":
    main()

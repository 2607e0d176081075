"""What a request costs the front end over gRPC and over HTTP: `python -m benchmarks.grpc_cost PHOTOS --bundle BUNDLE`.

The engine computes nothing. Requests of the Open Inference Protocol with pixels, and with photographs that decoders
decode, go to one service over both protocols in turns; tensors are binary both ways. Clients are of one kind: Python on
asyncio in this process, each with a connection of its own, so rates include what such clients take of the same cores.
Prints a table as Markdown, and reports only.
"""

import asyncio
import itertools
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import grpc
import numpy as np
import pandas as pd
import typer

from app.commands.bench.http_client import HttpRequest, LoadClient
from app.decoding.oip_tensors import BINARY, ENCODED, IMAGE, LENGTH_HEADER
from app.grpc_api.inference_messages import INFER_REQUEST_MESSAGE
from benchmarks.command_line import BundlePath, PhotosFolder, run
from benchmarks.machine import line as machine
from benchmarks.markdown import print_table
from benchmarks.photographs import photographs
from bundle.reader import open_bundle
from tests.support.grpc_ports import GrpcServer, serving_grpc
from tests.support.processes import own_cpu_seconds, workers

_INFER = "/inference.GRPCInferenceService/ModelInfer"
_OPTIONS = ("--engine", "null", "--max-queue", "4096", "--decoders", "0")
_OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
_WARM_UP_SECONDS = 1.0

Ask = Callable[[], Awaitable[None]]


def grpc_cost(
    photos: PhotosFolder,
    bundle: BundlePath,
    clients: Annotated[str, typer.Option(help="the numbers of clients")] = "1,16",
    rounds: int = 5,
    seconds: Annotated[float, typer.Option(help="of each part of a round")] = 5,
) -> None:
    """Compare both protocols, with pixels and with photographs."""
    opened, bodies = open_bundle(bundle), photographs(photos)
    side = opened.manifest.preprocessing[opened.manifest.default_resolution].crop
    pixels = np.zeros((1, side, side, 3), np.uint8)
    tensors = {
        "pixels": [(IMAGE, "UINT8", list(pixels.shape), pixels.tobytes())],
        "photographs": [(ENCODED, "BYTES", [1], len(body).to_bytes(4, "little") + body) for body in bodies],
    }
    counts = [int(count) for count in clients.split(",")]
    with serving_grpc(Path(os.devnull), "--bundle", str(bundle.resolve()), *_OPTIONS) as server:
        server.http.wait_until_ready()
        rows = asyncio.run(_measured(server, opened.name, tensors, counts, rounds, seconds))
    print(f"{opened.name}, {len(bodies)} photographs; {machine()}\n")
    print(f"Medians of {rounds} rounds of {seconds:g} s; processor time for a request.\n")
    medians = rows.groupby(["request", "clients", "protocol"], sort=False).median().drop(columns="round")
    print_table(medians.round(2).reset_index())


Tensor = tuple[str, str, list[int], bytes]  # name, datatype, shape, content


async def _measured(
    server: GrpcServer, model: str, tensors: dict[str, list[Tensor]], counts: list[int], rounds: int, seconds: float
) -> pd.DataFrame:
    """A row for each round, kind of request, number of clients and protocol."""
    rows = []
    async with LoadClient(server.http.url) as client:
        for number, count, (kind, sent) in itertools.product(range(rounds), counts, tensors.items()):
            row = {"request": kind, "clients": count, "round": number}
            http = _http_asks(client, [_http_request(client, model, tensor) for tensor in sent], count)
            rows.append(row | {"protocol": "HTTP"} | await _cost(server, http, seconds, warm=not number))
            channels = [grpc.aio.insecure_channel(server.address, options=_OWN_CONNECTION) for _ in range(count)]
            calls = _grpc_asks(channels, [_message(model, tensor) for tensor in sent])
            rows.append(row | {"protocol": "gRPC"} | await _cost(server, calls, seconds, warm=not number))
            await asyncio.gather(*(channel.close() for channel in channels))
    return pd.DataFrame(rows)


async def _cost(server: GrpcServer, asks: list[Ask], seconds: float, *, warm: bool) -> dict[str, float]:
    """Answers a second to clients that ask again when they have an answer, and milliseconds of processor time."""
    if warm:
        await _drive(asks, _WARM_UP_SECONDS)
    kinds = {"front end, ms": [server.http.pid], "decoders, ms": workers(server.http.pid, "decoder")}
    before = {kind: sum(map(own_cpu_seconds, pids)) for kind, pids in kinds.items()}
    latencies, elapsed = await _drive(asks, seconds)
    spent = {kind: sum(map(own_cpu_seconds, pids)) - before[kind] for kind, pids in kinds.items()}
    costs = {kind: 1000 * taken / len(latencies) for kind, taken in spent.items()}
    p50, p99 = (1000 * float(np.quantile(latencies, share)) for share in (0.5, 0.99))
    return {"answers/s": len(latencies) / elapsed, **costs, "p50, ms": p50, "p99, ms": p99}


async def _drive(asks: list[Ask], seconds: float) -> tuple[list[float], float]:
    """The seconds of each answer, and of all of them together."""
    latencies: list[float] = []
    start = time.perf_counter()

    async def client(ask: Ask) -> None:
        while (sent := time.perf_counter()) < start + seconds:
            await ask()
            latencies.append(time.perf_counter() - sent)

    await asyncio.gather(*map(client, asks))
    return latencies, time.perf_counter() - start


def _http_request(client: LoadClient, model: str, tensor: Tensor) -> HttpRequest:
    name, datatype, shape, content = tensor
    described = {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(content)}}
    head = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}}).encode()
    request = client.post(f"/v2/models/{model}/infer", head + content, BINARY)
    return replace(request, headers=request.headers | {LENGTH_HEADER: str(len(head))})


def _http_asks(client: LoadClient, requests: list[HttpRequest], count: int) -> list[Ask]:
    supply = itertools.cycle(requests)

    async def ask() -> None:
        answer = await client.ask(next(supply))
        if answer.status != 200:
            raise ValueError(f"status {answer.status}: {answer.body[:200]!r}")

    return [ask] * count


def _message(model: str, tensor: Tensor) -> bytes:
    name, datatype, shape, content = tensor
    request = INFER_REQUEST_MESSAGE(model_name=model, raw_input_contents=[content])
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    return bytes(request.SerializeToString())


def _grpc_asks(channels: list[Any], messages: list[bytes]) -> list[Ask]:
    supply = itertools.cycle(messages)
    return [_grpc_ask(channel.unary_unary(_INFER), supply) for channel in channels]


def _grpc_ask(call: Any, supply: Iterator[bytes]) -> Ask:
    async def ask() -> None:
        await call(next(supply))

    return ask


if __name__ == "__main__":
    run(grpc_cost, program="benchmarks.grpc_cost")

"""Clients that come back soon after each refusal, beside patient ones; `python -m benchmarks.reliability flood`."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from app.commands.bench.http_client import HttpAnswer, LoadClient
from app.commands.bench.load_generator import Load
from benchmarks.command_line import BundlePath, PhotosFolder
from benchmarks.machine import ROOT
from benchmarks.machine import line as machine
from benchmarks.markdown import print_table
from benchmarks.photographs import photographs
from benchmarks.request_cost import requests_of, service
from benchmarks.wrk import raw_request, wrk
from bundle.reader import open_bundle
from tests.support.load import centile, driven, probing
from tests.support.processes import own_cpu_seconds, resident_mb
from tests.support.servers import Server

KINDS = "form,raw,close,/v2 tensor,slow"
_PATIENT_CLIENTS = 16
_WARM_UP_SECONDS = 3
_CALM_SECONDS = 10
_SLOW_CLIENTS = 100
_SLOW_PIECE_BYTES, _SLOW_PAUSE_SECONDS = 8 << 10, 0.05
_ANSWER_SECONDS = 60

Statuses = Counter[int]  # answers by status; 0 are connections that broke, or gave no answer in time


def flood(
    photos: PhotosFolder,
    bundle: BundlePath,
    seconds: float = 40,
    clients: Annotated[int, typer.Option(help="that come back soon after each answer")] = 400,
    pause: Annotated[float, typer.Option(help="seconds between an answer and that client's next request")] = 0.2,
    kinds: Annotated[str, typer.Option(help="what they send")] = KINDS,
    engine: str = "auto",
    null_rate: Annotated[float, typer.Option(help="with --engine null: as in `crossvit serve`")] = 0,
    checkout: Annotated[Path, typer.Option(help="whose service is measured")] = ROOT,
) -> None:
    """Measure how much of the useful work goes on, for each kind of flood.

    Patient clients send photographs, first alone and then beside the flood, while another process asks /livez. `close`
    opens a connection for each request. `slow` are 100 clients that send raw bodies in small pieces.
    """
    bodies, opened = photographs(photos), open_bundle(bundle)
    requests = requests_of(opened, bodies)
    requests["close"] = [raw_request("/classify", body, "image/jpeg", "Connection: close") for body in bodies]
    options = ["--bundle", str(bundle.resolve()), "--engine", engine, "--null-rate", str(null_rate)]
    print(f"{opened.name}, {clients} clients, {pause:g} s pause, {seconds:g} s; {machine()}\n")
    rows = []
    for kind in kinds.split(","):
        with service(checkout.resolve(), options) as server:
            server.wait_until_ready()
            attack = (
                slow_flood(server, requests["raw"], pause, seconds)
                if kind == "slow"
                else fast_flood(server, requests[kind], clients, pause, seconds)
            )
            rows.append({"flood": kind} | asyncio.run(beside(server, bodies, attack, seconds)))
    print_table(pd.DataFrame(rows))


async def beside(
    server: Server, photos: Sequence[bytes], attack: Coroutine[Any, Any, Statuses], seconds: float
) -> dict[str, str]:
    """A row of the table: the calm rate, and what is left of it beside the attack."""
    await patient(server, photos, _WARM_UP_SECONDS)
    calm_rate = (await patient(server, photos, _CALM_SECONDS))[200] / _CALM_SECONDS
    memory, used, began = resident_mb(server.pid), own_cpu_seconds(server.pid), time.perf_counter()
    with probing(server.url) as probes:
        attackers, patients = await asyncio.gather(attack, patient(server, photos, seconds))
    front_end = (own_cpu_seconds(server.pid) - used) / (time.perf_counter() - began)
    total = attackers + patients
    rate = total[200] / seconds
    return {
        "calm, answers/s": f"{calm_rate:.1f}",
        "in the flood": f"{rate:.1f} ({rate / calm_rate:.2f})",
        "of it patient clients'": f"{patients[200] / seconds:.1f}",
        "refused/s": f"{total[429] / seconds:.0f}",
        "answers by status": ", ".join(f"{status}: {count}" for status, count in sorted(total.items())),
        "/livez p50, p99, longest, ms": ", ".join(
            f"{1000 * value:.1f}" for value in (centile(probes, 50), centile(probes, 99), max(probes))
        ),
        "front end, cores": f"{front_end:.2f}",
        "memory before, after, MB": f"{memory:.0f}, {resident_mb(server.pid):.0f}",
    }


async def patient(server: Server, photos: Sequence[bytes], seconds: float) -> Statuses:
    """Answers within `seconds` to clients that wait for each answer, and for a tenth of a second after a refusal."""
    async with LoadClient(server.url) as client:
        requests = [client.post("/classify", photo, "image/jpeg") for photo in photos]
        run, _ = await driven(client, requests, Load(clients=_PATIENT_CLIENTS), seconds)
    answers = (sample.answer for sample in run.samples if sample.done <= run.end)
    return Counter(answer.status if isinstance(answer, HttpAnswer) else 0 for answer in answers)


async def fast_flood(server: Server, requests: Sequence[bytes], clients: int, pause: float, seconds: float) -> Statuses:
    run = await asyncio.to_thread(wrk, server.url, requests, clients=clients, seconds=seconds, pause_seconds=pause)
    return Counter(run.statuses) + Counter({0: run.broken + run.late})


async def slow_flood(server: Server, requests: Sequence[bytes], pause: float, seconds: float) -> Statuses:
    """Clients on slow networks; answers after `seconds` do not count."""
    statuses: Statuses = Counter()
    supply = itertools.cycle(requests)
    end = time.perf_counter() + seconds

    async def client() -> None:
        while time.perf_counter() < end:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    status = await slow_exchange(server.port, next(supply))
                statuses[status] += time.perf_counter() <= end
            except (OSError, EOFError, TimeoutError):
                statuses[0] += 1
            await asyncio.sleep(pause)

    await asyncio.gather(*(client() for _ in range(_SLOW_CLIENTS)))
    return statuses


async def slow_exchange(port: int, request: bytes) -> int:
    """Send `request` in small pieces, all of it before the answer is read; the answer's status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for start in range(0, len(request), _SLOW_PIECE_BYTES):
            writer.write(request[start : start + _SLOW_PIECE_BYTES])
            await writer.drain()
            await asyncio.sleep(_SLOW_PAUSE_SECONDS)
        return int((await reader.readuntil(b"\r\n")).split()[1])
    finally:
        writer.close()

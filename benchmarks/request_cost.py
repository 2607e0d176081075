"""What a request costs the service in each of its processes, apart from the engine; see benchmarks.service_cost."""

import io
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from PIL import Image

from benchmarks.machine import ROOT
from benchmarks.markdown import print_table
from benchmarks.stations import station_shares
from benchmarks.wrk import form_request, raw_request, wrk
from bundle.reader import Bundle
from tests.support.processes import own_cpu_seconds, workers
from tests.support.servers import Server, running

_BATCH_IMAGES = 4
_WARM_UP_SECONDS = 2
_TINY_SIDE = 32
_PROFILED_CLIENTS = 16


def print_request_costs(
    bundle: Bundle, photos: Sequence[bytes], options: Sequence[str], clients: Sequence[int], rounds: int, seconds: float
) -> None:
    """Print the costs for each kind of request and number of clients, and the front end's stations."""
    print_rates(bundle, photos, {"this": ROOT}, options, clients, rounds, seconds)
    print(f"Shares of the front end's main thread in %, {_PROFILED_CLIENTS} clients, profiled apart from the rates.\n")
    rows = {kind: profiled(requests, options, seconds) for kind, requests in requests_of(bundle, photos).items()}
    shares = pd.DataFrame(rows).fillna(0).mul(100)
    print_table(shares.sort_values("raw", ascending=False).round(1).rename_axis("station").reset_index())


def print_comparison(
    bundle: Bundle,
    photos: Sequence[bytes],
    other: Path,
    options: Sequence[str],
    clients: Sequence[int],
    rounds: int,
    seconds: float,
) -> None:
    """Print the costs of this checkout and of `other`, measured in turns, and how many times this one does."""
    found = print_rates(bundle, photos, {"other": other, "this": ROOT}, options, clients, rounds, seconds)
    keys = ["request", "clients", "round"]
    this, that = (found[found.checkout == name].set_index(keys).drop(columns="checkout") for name in ("this", "other"))
    ratios = (this / that)[["answers/s", "front end, ms"]].groupby(level=[0, 1], sort=False).median()
    print(f"This checkout's figure divided by that of {other}, medians of the rounds' ratios.\n")
    print_table(ratios.round(2).reset_index())


def print_rates(
    bundle: Bundle,
    photos: Sequence[bytes],
    checkouts: dict[str, Path],
    options: Sequence[str],
    clients: Sequence[int],
    rounds: int,
    seconds: float,
) -> pd.DataFrame:
    """Print medians, and return a row for each round; the checkouts take turns within a round."""
    rows = []
    kinds = requests_of(bundle, photos)
    with ExitStack() as stack:
        servers = {name: stack.enter_context(service(path, options)) for name, path in checkouts.items()}
        for server in servers.values():
            server.wait_until_ready()
            wrk(server.url, kinds["raw"], clients=8, seconds=_WARM_UP_SECONDS)
            server.pause()
        for number, count, (kind, requests) in itertools.product(range(rounds), clients, kinds.items()):
            for name, server in servers.items():
                with server.turn():
                    row = {"request": kind, "clients": count, "round": number, "checkout": name}
                    rows.append(row | cost(server, requests, count, seconds))
    found = pd.DataFrame(rows)
    print(f"Medians of {rounds} rounds of {seconds:g} s; processor time for a request.\n")
    medians = found.groupby(["request", "clients", "checkout"], sort=False).median().drop(columns="round")
    print_table(medians.round(2).reset_index().drop(columns=[] if len(checkouts) > 1 else "checkout"))
    return found


def requests_of(bundle: Bundle, photos: Sequence[bytes]) -> dict[str, list[bytes]]:
    """Whole HTTP requests by their kind."""
    side = bundle.manifest.preprocessing[bundle.manifest.default_resolution].crop
    several = [[*itertools.islice(itertools.cycle(photos), at, at + _BATCH_IMAGES)] for at in range(len(photos))]
    return {
        "raw": [raw_request("/classify", photo, "image/jpeg") for photo in photos],
        "form": [form_request("/classify", "file", [photo]) for photo in photos],
        "/v2 tensor": [tensor_request(bundle.name, side)],
        f"batch of {_BATCH_IMAGES}": [form_request("/classify/batch", "files", files) for files in several],
    }


def tensor_request(model: str, side: int) -> bytes:
    """An inference request whose pixels are a binary tensor; so are the outputs."""
    pixels = bytes(3 * side * side)
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, side, side, 3]}
    head = {"inputs": [tensor | {"parameters": {"binary_data_size": len(pixels)}}]}
    described = json.dumps(head | {"parameters": {"binary_data_output": True}}).encode()
    path, length = f"/v2/models/{model}/infer", f"Inference-Header-Content-Length: {len(described)}"
    return raw_request(path, described + pixels, "application/octet-stream", length)


def tiny_image() -> bytes:
    """A JPEG that takes next to no time to decode."""
    file = io.BytesIO()
    Image.new("RGB", (_TINY_SIDE, _TINY_SIDE), "gray").save(file, "JPEG")
    return file.getvalue()


def service(checkout: Path, options: Sequence[str], *program: str) -> AbstractContextManager[Server]:
    """The service of a checkout, in its own interpreter where it has one; `program` is run in place of `-m app`."""
    own = checkout / ".venv" / "bin" / "python"
    command = [str(own if own.exists() else sys.executable), *(program or ("-m", "app")), "serve"]
    command += ["--log-level", "info", "--grace-seconds", "0", *options, "--port"]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    return running(command, cwd=checkout, environment=environment, log=Path(os.devnull))


def cost(server: Server, requests: Sequence[bytes], clients: int, seconds: float) -> dict[str, float]:
    """Answers per second, and milliseconds of processor time of an answer in each kind of process."""
    kinds = {
        "front end, ms": [server.pid],
        "decoders, ms": workers(server.pid, "decoder"),
        "engine, ms": workers(server.pid, "engine"),
    }
    before = {kind: sum(map(own_cpu_seconds, processes)) for kind, processes in kinds.items()}
    run = wrk(server.url, requests, clients=clients, seconds=seconds)
    if set(run.statuses) != {200} or run.broken:
        raise ValueError(f"answers by status: {run.statuses}, {run.broken} broken connections")
    spent = {kind: sum(map(own_cpu_seconds, processes)) - before[kind] for kind, processes in kinds.items()}
    costs = {kind: 1000 * taken / run.answers for kind, taken in spent.items()}
    return {"answers/s": run.answers / run.seconds, **costs, "p50, ms": 1000 * run.p50, "p99, ms": 1000 * run.p99}


def profiled(requests: Sequence[bytes], options: Sequence[str], seconds: float) -> dict[str, float]:
    """The share of each station; the service that is profiled serves nothing else."""
    program = str(ROOT / "benchmarks" / "profiled_service.py")
    with TemporaryDirectory() as folder:
        profile = Path(folder, "profile")
        with service(ROOT, options, program, str(profile)) as server:
            server.wait_until_ready()
            wrk(server.url, requests, clients=_PROFILED_CLIENTS, seconds=_WARM_UP_SECONDS)
            os.kill(server.pid, signal.SIGUSR1)
            time.sleep(0.1)
            wrk(server.url, requests, clients=_PROFILED_CLIENTS, seconds=seconds)
        return station_shares(profile, float(Path(f"{profile}.seconds").read_text()))

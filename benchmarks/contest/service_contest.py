"""Services against each other over HTTP: all run at once, one at a time under load while the others are stopped."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.commands.bench.http_client import LoadClient
from app.commands.bench.load_generator import Load, LoadRun
from benchmarks.contest.engine_contest import rotated, say
from benchmarks.contest.results import LoadRound, Results, Service
from benchmarks.machine import ROOT
from tests.support.load import driven
from tests.support.processes import proportional_mb, resident_mb
from tests.support.servers import Server, ServerEnded, running

WARM_UP, WARM_UP_SECONDS = Load(clients=8), 2
ANSWER_SECONDS = 120  # the longest that an answer may take


@dataclass(frozen=True)
class Peer:
    """What a service is called in tables, the module and arguments that start it, and what it expects."""

    title: str
    module: str
    arguments: tuple[str, ...] = ()
    field: str = "file"  # of the form
    ready: str = "/health"

    def command(self, bundle: Path, weights: str) -> list[str]:
        """Without the port, which comes last."""
        places = ["--bundle", str(bundle), "--port"] if self.module == "app" else [str(bundle), weights]
        return [sys.executable, "-m", self.module, *self.arguments, *places]


LIT = "benchmarks.contest.servers.lit"
SERVE = ("serve", "--log-level", "warning")
PEERS = {
    "plain": Peer("FastAPI + PyTorch eager f32", "benchmarks.contest.servers.plain"),
    "litserve-pytorch": Peer("LitServe + PyTorch eager f32", LIT, ("pytorch",), "request"),
    "litserve-onnxruntime": Peer("LitServe + ONNX Runtime f32", LIT, ("onnxruntime",), "request"),
    "ours": Peer("this service", "app", SERVE, ready="/readyz"),
    "ours-int8": Peer("this service, --precision int8", "app", (*SERVE, "--precision", "int8"), ready="/readyz"),
}


@dataclass(frozen=True)
class Plan:
    """Each round has all numbers of clients, then requests at fixed rates.

    `shares` are of the most that this service has answered in the first round.
    """

    clients: Sequence[int]
    shares: Sequence[float]
    rounds: int
    seconds: float


class ServicePlayer:
    """A service, its running server if it has one, and what became of it. What fails is written down."""

    def __init__(self, service: Service, photos: Sequence[bytes]) -> None:
        self.service, self._peer, self._photos = service, PEERS[service.service], photos
        self._server: Server | None = None

    def start(self, stack: ExitStack, bundle: Path, weights: str) -> None:
        """Start its server, which `stack` ends, and stop it until its turn."""
        try:
            server = stack.enter_context(running(self._peer.command(bundle, weights), cwd=ROOT))
            server.wait_until_ready(path=self._peer.ready)
        except (ServerEnded, TimeoutError) as err:
            self._fail(str(err))
            return
        say(f"{self._peer.title}: ready")
        server.pause()
        self._server = server

    def play(self, load: Load, seconds: float, number: int, keep: Callable[[LoadRound], None]) -> None:
        """A round of `load`, unless the service has failed before."""
        if self._server is None or self.service.error:
            return
        with self._server.turn():
            try:
                run, elapsed = asyncio.run(put_on(self._server.url, self._peer.field, load, seconds, self._photos))
            except Exception as err:  # the other services go on
                self._fail(f"{type(err).__name__}: {err}")
                return
        milliseconds = [round(1000 * (sample.done - sample.due), 3) for sample in run.samples if sample.good]
        errors, cores = len(run.samples) - len(milliseconds), run.client_seconds / seconds
        of = self.service.network, self.service.service
        keep(LoadRound(*of, load.clients, load.rate, number, elapsed, milliseconds, errors, cores))

    def weigh(self) -> None:
        if self._server is not None:
            pid = self._server.pid
            self.service.resident_mb, self.service.proportional_mb = resident_mb(pid), proportional_mb(pid)

    def _fail(self, why: str) -> None:
        self.service.error = why
        say(f"{self._peer.title}: {why}")


async def put_on(url: str, field: str, load: Load, seconds: float, photos: Sequence[bytes]) -> tuple[LoadRun, float]:
    """Requests are sent for `seconds` as forms with one file, and the last answers awaited; how long that took."""
    async with LoadClient(url, seconds=ANSWER_SECONDS) as client:
        forms = [httpx.Request("POST", url, files={field: ("photo.jpg", photo, "image/jpeg")}) for photo in photos]
        posts = [client.post("/classify", form.read(), form.headers["content-type"]) for form in forms]
        return await driven(client, posts, load, seconds)


def run(
    bundle: Path,
    variant: str,
    weights: str,
    names: Sequence[str],
    photos: Sequence[bytes],
    plan: Plan,
    results: Results,
) -> None:
    """Measure services with one bundle at 224. PyTorch loads `weights`."""
    services = [Service(variant, name, PEERS[name].title) for name in names]
    players = [ServicePlayer(service, photos) for service in services]
    rates = [0.0]  # of this service

    def keep(found: LoadRound) -> None:
        results.loads.append(found)
        if found.service.startswith("ours") and found.round == 0 and found.clients:
            rates.append(len(found.milliseconds) / found.seconds)

    with ExitStack() as stack:
        for player in players:
            player.start(stack, bundle, weights)
        for player in players:
            player.play(WARM_UP, WARM_UP_SECONDS, 0, lambda _: None)
        results.forget(variant, names)
        results.services += services
        for number in range(plan.rounds):
            for load in [Load(clients=count) for count in plan.clients]:
                for player in rotated(players, number):
                    player.play(load, plan.seconds, number, keep)
            for load in [Load(rate=share * max(rates)) for share in plan.shares if max(rates)]:
                for player in rotated(players, number):
                    player.play(load, plan.seconds, number, keep)
        for player in players:
            player.weigh()

"""Services against each other over HTTP: all run at once, one at a time under load while the others are stopped."""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from app.commands.bench.load_generator import Load
from benchmarks.contest.load import put_on
from benchmarks.contest.player import say
from benchmarks.contest.results import LoadRound, Service, ServiceSection
from benchmarks.machine import ROOT
from tests.support.processes import proportional_mb, resident_mb
from tests.support.servers import Server, ServerEnded, running

WARM_UP = Load(clients=8)
WARM_UP_SECONDS = 2


@dataclass(frozen=True)
class Peer:
    """What a service is called in tables, the module and arguments that start it, and what it expects."""

    title: str
    module: str
    arguments: tuple[str, ...] = ()
    field: str = "file"  # of the form
    ready: str = "/health"
    needs: str | None = None  # a package

    def command(self, bundle: Path, weights: str) -> list[str]:
        """Without the port, which comes last."""
        places = ["--bundle", str(bundle), "--port"] if self.module == "app" else [str(bundle), weights]
        return [sys.executable, "-m", self.module, *self.arguments, *places]


LIT = "benchmarks.contest.servers.lit"
SERVE = ("serve", "--log-level", "warning")
PEERS = {
    "plain": Peer("FastAPI + PyTorch eager f32", "benchmarks.contest.servers.plain"),
    "litserve-pytorch": Peer("LitServe + PyTorch eager f32", LIT, ("pytorch",), "request", needs="litserve"),
    "litserve-onnxruntime": Peer("LitServe + ONNX Runtime f32", LIT, ("onnxruntime",), "request", needs="litserve"),
    "ours": Peer("this service", "app", SERVE, ready="/readyz"),
    "ours-int8": Peer("this service, --precision int8", "app", (*SERVE, "--precision", "int8"), ready="/readyz"),
}


@dataclass(frozen=True)
class Schedule:
    """The clients of each closed round, and the shares of this service's rate of each round at a fixed rate."""

    seconds: float
    closed: Sequence[Sequence[int]]
    fixed: Sequence[Sequence[float]]


class ServicePlayer:
    """A service, its running server if it has one, and what became of it. What fails is written down."""

    def __init__(self, name: str, photos: Sequence[Path]) -> None:
        self.service = Service(name, PEERS[name].title)
        self._peer = PEERS[name]
        self._photos = photos
        self._server: Server | None = None

    def start(self, stack: ExitStack, bundle: Path, weights: str) -> None:
        """Start its server, which `stack` ends, and stop it until its turn."""
        if self._peer.needs and importlib.util.find_spec(self._peer.needs) is None:
            self._fail(f"{self._peer.needs} is not installed (pip install -c constraints.txt -e '.[bench]')")
            return
        try:
            server = stack.enter_context(running(self._peer.command(bundle, weights), cwd=ROOT))
            server.wait_until_ready(path=self._peer.ready)
        except (ServerEnded, TimeoutError) as err:
            self._fail(str(err))
            return
        say(f"{self._peer.title}: ready")
        server.pause()
        self._server = server

    def play(self, load: Load, seconds: float, keep: Callable[[LoadRound], None]) -> None:
        """A round of `load`, unless the service has failed before."""
        if self._server is None or self.service.error is not None:
            return
        with self._server.turn():
            try:
                keep(put_on(self._server.url, self._peer.field, load, seconds, self._photos))
            except Exception as err:  # of the load's process, say: the other services go on
                self._fail(f"{type(err).__name__}: {err}")

    def closed(self, clients: int, seconds: float) -> None:
        self.play(Load(clients=clients), seconds, self.service.closed.setdefault(clients, []).append)

    def fixed(self, share: float, rate: float, seconds: float) -> None:
        self.play(Load(rate=share * rate), seconds, self.service.fixed.setdefault(str(share), []).append)

    def weigh(self) -> None:
        if self._server is not None:
            pid = self._server.pid
            self.service.resident_mb, self.service.proportional_mb = resident_mb(pid), proportional_mb(pid)

    def _fail(self, why: str) -> None:
        self.service.error = why
        say(f"{self._peer.title}: {why}")


def contest(
    bundle: Path, variant: str, weights: str, names: Sequence[str], photos: Sequence[Path], schedule: Schedule
) -> ServiceSection:
    """All that was measured of the services called `names` with one bundle at 224; PyTorch loads `weights`."""
    clients = sorted({count for round_ in schedule.closed for count in round_})
    section = ServiceSection(variant, clients, sorted({share for round_ in schedule.fixed for share in round_}))
    players = [ServicePlayer(name, photos) for name in names]
    section.services += [player.service for player in players]
    with ExitStack() as stack:
        for player in players:
            player.start(stack, bundle, weights)
        for player in players:
            player.play(WARM_UP, WARM_UP_SECONDS, lambda _: None)
        for number, round_ in enumerate(schedule.closed):
            for count in round_:
                for player in _rotated(players, number):
                    player.closed(count, schedule.seconds)
        capacity = _capacity(section)
        for number, shares in enumerate(schedule.fixed if capacity else []):
            for share in shares:
                for player in _rotated(players, number):
                    player.fixed(share, capacity, schedule.seconds)
        for player in players:
            player.weigh()
    return section


def _capacity(section: ServiceSection) -> float:
    """What this service answers a second, at the number of clients where that is most; 0 if it did not run."""
    ours = [service for service in section.services if service.name.startswith("ours")]
    return max((median(rates) for service in ours for c in section.clients if (rates := service.rates(c))), default=0.0)


def _rotated(players: list[ServicePlayer], number: int) -> list[ServicePlayer]:
    first = number % max(len(players), 1)
    return players[first:] + players[:first]

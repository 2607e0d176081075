"""Services against each other over HTTP: all run at once, one at a time under load while the others are stopped."""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.cpu.load import Closed, Fixed, Load
from benchmarks.gpu.player import say
from benchmarks.server import Server, proportional_mb, resident_mb, running

WARM_UP_SECONDS = 2
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Peer:
    """What a service is called in tables, the module and arguments that start it, and what it expects."""

    title: str
    module: str
    arguments: tuple[str, ...] = ()
    field: str = "file"  # of the form
    ready: str = "/health"
    needs: str | None = None  # a package

    def command(self, bundle: Path) -> list[str]:
        """Without the port, which comes last."""
        before, after = ([], [str(bundle)]) if self.module != "app" else (["--bundle", str(bundle), "--port"], [])
        return [sys.executable, "-m", self.module, *self.arguments, *before, *after]


PEERS = {
    "plain": Peer("FastAPI + PyTorch eager f32", "benchmarks.cpu.servers.plain"),
    "litserve-pytorch": Peer(
        "LitServe + PyTorch eager f32", "benchmarks.cpu.servers.lit", ("pytorch",), "request", needs="litserve"
    ),
    "litserve-onnxruntime": Peer(
        "LitServe + ONNX Runtime f32", "benchmarks.cpu.servers.lit", ("onnxruntime",), "request", needs="litserve"
    ),
    "ours": Peer("this service", "app", ("serve", "--log-level", "warning"), ready="/readyz"),
    "ours-int8": Peer(
        "this service, --precision int8",
        "app",
        ("serve", "--log-level", "warning", "--precision", "int8"),
        ready="/readyz",
    ),
}


@dataclass(frozen=True)
class Rules:
    """Rounds, the seconds of one, clients of the closed loop, and shares of this service's rate for the fixed one.

    `fixed_rounds` of those at a fixed rate. Of the numbers of clients, those in `once` have a single round.
    """

    rounds: int
    seconds: float
    clients: Sequence[int]
    shares: Sequence[float]
    fixed_rounds: int
    once: Sequence[int] = ()


@dataclass
class Service:
    """What one service did: rounds by clients, and by requests a second; `error` says why it did no more."""

    name: str
    error: str | None = None
    resident_mb: float | None = None
    proportional_mb: float | None = None
    closed: dict[int, list[Closed]] = field(default_factory=dict)
    fixed: dict[str, list[Fixed]] = field(default_factory=dict)  # by the share

    def rates(self, clients: int) -> list[float]:
        """Good answers a second, for each round."""
        return [round_.rate for round_ in self.closed.get(clients, [])]

    def errors(self) -> int:
        closed = sum(round_.errors for rounds in self.closed.values() for round_ in rounds)
        return closed + sum(round_.errors for rounds in self.fixed.values() for round_ in rounds)


@dataclass
class ServiceSection:
    """All services with one network."""

    variant: str
    clients: list[int]
    shares: list[float]
    services: list[Service] = field(default_factory=list)


def contest(bundle: Path, variant: str, names: Sequence[str], rules: Rules, load: Load) -> ServiceSection:
    """All that was measured of the services called `names` with one bundle at 224."""
    section = ServiceSection(variant, list(rules.clients), list(rules.shares))
    with ExitStack() as stack:
        servers = {}
        for name in names:
            service = Service(name)
            section.services.append(service)
            server = _started(stack, bundle, service)
            if server is not None:
                servers[name] = server
                server.pause()
        playing = [service for service in section.services if service.name in servers]
        for service in playing:
            _warm_up(service, servers[service.name], load)
        for number in range(rules.rounds):
            for clients in rules.clients if number == 0 else [c for c in rules.clients if c not in rules.once]:
                for service in _rotated(playing, number):
                    _closed(service, servers[service.name], clients, rules.seconds, load)
        capacity = _capacity(section)
        for number in range(rules.fixed_rounds if capacity else 0):
            for share in rules.shares:
                for service in _rotated(playing, number):
                    _fixed(service, servers[service.name], share, capacity * share, rules.seconds, load)
        for service in playing:
            pid = servers[service.name].pid
            service.resident_mb, service.proportional_mb = resident_mb(pid), proportional_mb(pid)
    return section


def _started(stack: ExitStack, bundle: Path, service: Service) -> Server | None:
    peer = PEERS[service.name]
    if peer.needs and importlib.util.find_spec(peer.needs) is None:
        service.error = f"{peer.needs} is not installed (pip install -c constraints.txt -e '.[bench]')"
        return None
    try:
        server = stack.enter_context(running(peer.command(bundle), peer.ready, cwd=ROOT))
    except (RuntimeError, TimeoutError) as err:
        service.error = str(err)
        say(f"{peer.title}: {err}")
        return None
    say(f"{peer.title}: ready")
    return server


def _warm_up(service: Service, server: Server, load: Load) -> None:
    _noting(service, server, lambda: load.closed(server.url, PEERS[service.name].field, 8, WARM_UP_SECONDS))


def _closed(service: Service, server: Server, clients: int, seconds: float, load: Load) -> None:
    def measure() -> None:
        found = load.closed(server.url, PEERS[service.name].field, clients, seconds)
        service.closed.setdefault(clients, []).append(found)

    _noting(service, server, measure)


def _fixed(service: Service, server: Server, share: float, rate: float, seconds: float, load: Load) -> None:
    def measure() -> None:
        found = load.fixed(server.port, PEERS[service.name].field, rate, seconds)
        service.fixed.setdefault(str(share), []).append(found)

    _noting(service, server, measure)


def _noting(service: Service, server: Server, measure: Callable[[], object]) -> None:
    """Measure, unless the service has failed before; a failure is written down."""
    if service.error is not None:
        return
    with server.turn():
        try:
            measure()
        except Exception as err:  # of the load's process, say: the other services go on
            service.error = f"{type(err).__name__}: {err}"
            say(f"{PEERS[service.name].title}: {service.error}")


def _capacity(section: ServiceSection) -> float:
    """What this service answers a second, at the number of clients where that is most; 0 if it did not run."""
    ours = [service for service in section.services if service.name.startswith("ours")]
    return max((median(rates) for service in ours for c in section.clients if (rates := service.rates(c))), default=0.0)


def _rotated(services: list[Service], number: int) -> list[Service]:
    first = number % max(len(services), 1)
    return services[first:] + services[:first]

"""The results of a run, kept as JSON."""

import itertools
import json
import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

BATCH_GAP_SECONDS = 0.02  # longest between answers of one batch


@dataclass
class Round:
    """The seconds of each call, from the host's pixels to the host's logits; and on the device alone, if known."""

    seconds: list[float]
    device_seconds: list[float]

    def rate(self, batch: int) -> float:
        """Images a second."""
        return batch * len(self.seconds) / sum(self.seconds)

    def device_rate(self, batch: int) -> float | None:
        if not self.device_seconds:
            return None
        return batch * len(self.device_seconds) / sum(self.device_seconds)


@dataclass
class Entry:
    """What one contestant did.

    `first_seconds` are those of the first call of each batch size: compiling is in them. `failed` says which batch
    sizes cannot be run, and why; `error` why it was of no more use at all.
    """

    contestant: str
    title: str
    error: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    load_seconds: float | None = None
    first_seconds: dict[int, float] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    memory_mb: float | None = None
    top1_agreement: float | None = None
    worst_difference: float | None = None
    rounds: dict[int, list[Round]] = field(default_factory=dict)

    def rates(self, batch: int) -> list[float]:
        """Images a second, for each round."""
        return [round_.rate(batch) for round_ in self.rounds.get(batch, [])]

    def latencies(self) -> list[float]:
        """Seconds of all calls of one image."""
        return [seconds for round_ in self.rounds.get(1, []) for seconds in round_.seconds]


@dataclass
class Section:
    """A network at a resolution: `gmac` is the published 1e9 multiply-accumulates of an image, `peaks` 1e12 FLOP/s."""

    variant: str
    resolution: int
    side: int
    gmac: float
    batches: list[int]
    weights: str
    largest_logit: float = 0.0
    peaks: list[float] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)

    def share_of_peak(self, rate: float) -> float:
        """What part of the matrix peak, measured before and after, the network's operations are at `rate` images/s."""
        return rate * 2e-3 * self.gmac / statistics.median(self.peaks)


@dataclass
class LoadRound:
    """A round of `seconds` in which clients asked a service, each again when it had its answer, or at a fixed rate.

    `answers` are the good ones, in order: seconds from the start to when the request was due, and to the answer.
    `errors` counts the others. `client_seconds` is processor time of the client itself.
    """

    seconds: float
    answers: list[tuple[float, float]]
    errors: int = 0
    client_seconds: float = 0.0
    rate: float | None = None  # requests a second, if they were sent at fixed times

    @property
    def latencies(self) -> list[float]:
        """Milliseconds from when a request was due."""
        return [1000 * (done - due) for due, done in self.answers]

    def throughput(self, clients: int) -> float:
        """Good answers a second, from the first batch of them to the last: at its ends a round has half a batch.

        The first batch ends with the first gap, or when each client may have had an answer.
        """
        times = [done for _, done in self.answers]
        times = [done for done in times if done <= self.seconds] or times
        if not times:
            return 0.0
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        first = 1 + sum(1 for _ in itertools.takewhile(lambda gap: gap <= BATCH_GAP_SECONDS, gaps[: clients - 1]))
        if first == len(times):
            return first / max(self.seconds, times[-1])  # a single batch: the round was too short to see more
        return (len(times) - first) / (times[-1] - times[first - 1])


@dataclass
class Service:
    """What one service did: rounds by clients, and by shares of this service's rate; `error` says why no more."""

    name: str
    title: str
    error: str | None = None
    resident_mb: float | None = None
    proportional_mb: float | None = None
    closed: dict[int, list[LoadRound]] = field(default_factory=dict)
    fixed: dict[str, list[LoadRound]] = field(default_factory=dict)

    def rates(self, clients: int) -> list[float]:
        """Good answers a second, for each round."""
        return [round_.throughput(clients) for round_ in self.closed.get(clients, [])]

    def latencies(self, clients: int) -> list[float]:
        """Milliseconds of all good answers."""
        return [latency for round_ in self.closed.get(clients, []) for latency in round_.latencies]

    def errors(self) -> int:
        rounds = itertools.chain(*self.closed.values(), *self.fixed.values())
        return sum(round_.errors for round_ in rounds)


@dataclass
class ServiceSection:
    """All services with one network."""

    variant: str
    clients: list[int]
    shares: list[float]
    services: list[Service] = field(default_factory=list)


@dataclass
class Report:
    """`facts` say on what and how it was measured; engines are in `sections`."""

    facts: dict[str, Any]
    sections: list[Section] = field(default_factory=list)
    services: list[ServiceSection] = field(default_factory=list)

    def save(self, path: Path | None) -> None:
        """Write all there is to `path`, if there is one, so that the file is whole at any time."""
        if path is None:
            return
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        beside.write_text(json.dumps(asdict(self)))
        beside.replace(path)


def agreement(expected: Any, actual: Any) -> tuple[float, float]:
    """The share of images whose best class is the same, and the worst difference of any logit, (images, classes)."""
    same = (expected.argmax(axis=1) == actual.argmax(axis=1)).mean()
    return float(same), float(abs(expected - actual).max())


def centile(values: Sequence[float], percent: int) -> float:
    """The smallest value that `percent` of them do not exceed."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100), 1) - 1]

"""Replicas of the service as the autoscaler sees them: queues with a bound, decoders, engines, counters, scrapes.

The recorded series of a real service show how near one replica is to it (tests/benchmarks/autoscaling).
"""

import heapq
from collections import deque
from dataclasses import dataclass, field

import numpy as np

STEP_SECONDS = 0.05
# Upper bounds of the service's buckets of waits, in seconds.
WAIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, np.inf)
_BOUNDS = np.array(WAIT_BUCKETS)


@dataclass
class Scrape:
    """What Prometheus reads of a replica: the images that wait, seconds of engine and decoders, waits by bucket."""

    at: float
    waiting: int
    engine_seconds: float
    decode_seconds: float
    waits: np.ndarray  # (buckets,) cumulative counts


@dataclass
class SimulatedReplica:
    """One replica, which takes requests once it is ready.

    Attributes:
        ready_at: when.
        rate: images that its engine gives a second, up to `batch` in a call.
        bound: the most images that wait, for a decoder and for the engine.
        decode_seconds: of an image, in one of `decoders` processes; the other work of a CPU does not slow these down.
    """

    ready_at: float
    rate: float
    batch: int
    bound: int
    decode_seconds: float = 0.0
    decoders: int = 2
    refused: int = 0
    answered: int = 0
    scrapes: list[Scrape] = field(default_factory=list)
    _arrived: deque[float] = field(default_factory=deque)
    _decoded: deque[tuple[float, float]] = field(default_factory=deque)  # when, and how long the image waited before
    _decoders_free_at: list[float] = field(default_factory=list)
    _free_at: float = 0.0
    _engine_seconds: float = 0.0
    _decode_seconds: float = 0.0
    _waits: np.ndarray = field(default_factory=lambda: np.zeros(len(_BOUNDS)))

    def __post_init__(self) -> None:
        self._decoders_free_at = [self.ready_at] * self.decoders

    def arrive(self, now: float) -> None:
        if len(self._arrived) + len(self._decoded) < self.bound:
            self._arrived.append(now)
        else:
            self.refused += 1

    def step(self, now: float) -> None:
        """What decoders and the engine begin until `now`."""
        self._decode(now)
        while self._decoded and max(self._free_at, self._decoded[0][0]) <= now:
            begin = max(self._free_at, self._decoded[0][0])
            taken = min(self.batch, sum(at <= now for at, _ in self._decoded))
            for _ in range(taken):
                at, waited = self._decoded.popleft()
                self._waits += waited + begin - at <= _BOUNDS
            self._free_at = begin + taken / self.rate
            self._engine_seconds += taken / self.rate
            self._decode_seconds += taken * self.decode_seconds  # counted with the answer, as the service does
            self.answered += taken

    def _decode(self, now: float) -> None:
        while self._arrived and self._decoders_free_at[0] <= now:
            arrived = self._arrived.popleft()
            begin = max(heapq.heappop(self._decoders_free_at), arrived)
            heapq.heappush(self._decoders_free_at, begin + self.decode_seconds)
            self._decoded.append((begin + self.decode_seconds, begin - arrived))

    def scrape(self, now: float) -> None:
        waiting = len(self._arrived) + sum(at <= now for at, _ in self._decoded)
        self.scrapes.append(Scrape(now, waiting, self._engine_seconds, self._decode_seconds, self._waits.copy()))


def metrics(replicas: list[SimulatedReplica], now: float, window: float) -> dict[str, float]:
    """The values of the ScaledObject's triggers by their names, as its queries have them."""
    last = [replica.scrapes[-1] for replica in replicas if replica.scrapes]
    ready = sum(replica.ready_at <= now - window for replica in replicas)
    busy, decoding, waits = 0.0, 0.0, np.zeros(len(_BOUNDS))
    for replica in replicas:
        recent = [scrape for scrape in replica.scrapes if scrape.at > now - window]
        if len(recent) > 1:
            seconds = recent[-1].at - recent[0].at
            busy += (recent[-1].engine_seconds - recent[0].engine_seconds) / seconds
            decoding += (recent[-1].decode_seconds - recent[0].decode_seconds) / seconds / replica.decoders
            waits += (recent[-1].waits - recent[0].waits) / seconds
    return {
        "waiting-images": float(sum(scrape.waiting for scrape in last)),
        "wait-p95": ready * quantile(0.95, waits),
        "busy-engines": busy,
        "busy-decoders": decoding,
    }


def quantile(share: float, cumulative: np.ndarray) -> float:
    """Prometheus' histogram_quantile of counts by the buckets of the service; 0 without any."""
    if cumulative[-1] == 0:
        return 0.0
    rank = share * cumulative[-1]
    bucket = int(np.searchsorted(cumulative, rank))
    if bucket == len(_BOUNDS) - 1:
        return float(_BOUNDS[-2])
    below, lower = (cumulative[bucket - 1], _BOUNDS[bucket - 1]) if bucket else (0.0, 0.0)
    return float(lower + (_BOUNDS[bucket] - lower) * (rank - below) / (cumulative[bucket] - below))

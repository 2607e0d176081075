"""Replicas of the service as the autoscaler sees them: queues with a bound, engines with a rate, counters, scrapes.

The recorded series of a real service show how near one replica is to it (tests/benchmarks/autoscaling).
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

STEP_SECONDS = 0.05
# Upper bounds of the service's buckets of waits, in seconds.
WAIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, np.inf)
_BOUNDS = np.array(WAIT_BUCKETS)


@dataclass
class Scrape:
    """What Prometheus reads of a replica: the images that wait, seconds of engine calls, waits by bucket."""

    at: float
    waiting: int
    engine_seconds: float
    waits: np.ndarray  # (buckets,) cumulative counts


@dataclass
class SimulatedReplica:
    """One replica, which takes requests once it is ready.

    Attributes:
        ready_at: when.
        rate: images that its engine gives a second, up to `batch` in a call.
        bound: the most images that wait.
    """

    ready_at: float
    rate: float
    batch: int
    bound: int
    refused: int = 0
    answered: int = 0
    scrapes: list[Scrape] = field(default_factory=list)
    _queue: deque[float] = field(default_factory=deque)
    _free_at: float = 0.0
    _engine_seconds: float = 0.0
    _waits: np.ndarray = field(default_factory=lambda: np.zeros(len(_BOUNDS)))

    def arrive(self, now: float) -> None:
        if len(self._queue) < self.bound:
            self._queue.append(now)
        else:
            self.refused += 1

    def step(self, now: float) -> None:
        """Calls of the engine that begin until `now`."""
        while self._queue and self._free_at <= now:
            begin = max(self._free_at, self._queue[0])
            taken = min(self.batch, len(self._queue))
            for _ in range(taken):
                self._waits += begin - self._queue.popleft() <= _BOUNDS
            self._free_at = begin + taken / self.rate
            self._engine_seconds += taken / self.rate
            self.answered += taken

    def scrape(self, now: float) -> None:
        self.scrapes.append(Scrape(now, len(self._queue), self._engine_seconds, self._waits.copy()))


def metrics(replicas: list[SimulatedReplica], now: float, window: float) -> dict[str, float]:
    """The values of the ScaledObject's triggers by their names, as its queries have them."""
    last = [replica.scrapes[-1] for replica in replicas if replica.scrapes]
    ready = sum(replica.ready_at <= now - window for replica in replicas)
    busy, waits = 0.0, np.zeros(len(_BOUNDS))
    for replica in replicas:
        recent = [scrape for scrape in replica.scrapes if scrape.at > now - window]
        if len(recent) > 1:
            seconds = recent[-1].at - recent[0].at
            busy += (recent[-1].engine_seconds - recent[0].engine_seconds) / seconds
            waits += (recent[-1].waits - recent[0].waits) / seconds
    return {
        "waiting-images": float(sum(scrape.waiting for scrape in last)),
        "wait-p95": ready * quantile(0.95, waits),
        "busy-engines": busy,
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

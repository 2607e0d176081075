"""Summarizes a run of load: throughput, percentiles, and where the time went."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

import numpy as np

from app.commands.bench.http_client import HttpAnswer, NoAnswer
from app.commands.bench.load_generator import LoadRun, Sample

STAGES = ("decode", "queue", "inference", "service", "network")


@dataclass(frozen=True)
class Latency:
    """Percentiles in milliseconds."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class LoadSummary:
    """The figures of one load. All but `images_per_second` are of the requests that were due in the measured time.

    Attributes:
        clients: clients at once, in a closed loop.
        rate: requests per second, in an open loop.
        seconds: the measured time.
        images_per_second: good answers that came within the measured time, per second.
        latency_ms: of requests with a good answer; None if there are none.
        shares: parts of their whole latency, which add up to 1: the three stages of the answers' `timing_ms`, the
            service's remaining time (`service`), and the time outside the service (`network`: HTTP, transport, a
            request sent late). None if there are none.
        statuses: number of answers by status, or by what happened instead.
        problem: of the last request that failed.
        client_cores: processor time of this process, in cores.
    """

    clients: int | None
    rate: float | None
    seconds: float
    images_per_second: float
    latency_ms: Latency | None
    shares: dict[str, float] | None
    statuses: dict[str, int]
    problem: str | None
    client_cores: float


def summarize(run: LoadRun) -> LoadSummary | None:
    """The figures of `run`; None if it ended during its warm-up. NoAnswer if an answer lacks its timing."""
    due = [sample for sample in run.samples if run.start <= sample.due < run.end]
    seconds = run.end - run.start
    if seconds <= 0:
        return None
    good = [sample for sample in due if sample.good]
    bad = [sample.answer for sample in due if not sample.good]
    in_time = sum(sample.good and run.start <= sample.done < run.end for sample in run.samples)
    problem = None if due else "no request began in the measured time: measure for longer"
    return LoadSummary(
        clients=run.load.clients,
        rate=run.load.rate,
        seconds=round(seconds, 3),
        images_per_second=round(in_time / seconds, 3),
        latency_ms=latency([sample.done - sample.due for sample in good]) if good else None,
        shares=_shares(good) if good else None,
        statuses=dict(sorted(Counter(_status(sample.answer) for sample in due).items())),
        problem=describe_problem(bad[-1]) if bad else problem,
        client_cores=round(run.client_seconds / seconds, 4),
    )


def latency(seconds: Sequence[float]) -> Latency:
    """The percentiles of `seconds`."""
    p50, p90, p99 = (round(1000 * float(value), 3) for value in np.percentile(seconds, [50, 90, 99]))
    return Latency(p50, p90, p99)


def describe_problem(answer: HttpAnswer | NoAnswer) -> str:
    """What is wrong, in the server's own words (RFC 9457) if it sends some."""
    if isinstance(answer, NoAnswer):
        return str(answer)
    try:
        problem = json.loads(answer.body)
        return f"{answer.status} {problem['title']}: {problem['detail']}"
    except (ValueError, TypeError, LookupError):  # the answer of a proxy, or of another service
        return _with_phrase(answer.status)


def timing(answer: HttpAnswer) -> dict[str, float]:
    """The answer's `timing_ms`. NoAnswer if it has none: another service has answered."""
    try:
        timings = json.loads(answer.body)["timing_ms"]
        return {name: float(timings[name]) for name in ("decode", "queue", "inference", "total")}
    except (ValueError, TypeError, LookupError) as err:
        raise NoAnswer("the answer is not a CrossViT service's: it has no timing_ms") from err


def _shares(good: Sequence[Sample]) -> dict[str, float]:
    sums = dict.fromkeys(STAGES, 0.0)
    for sample in good:
        assert isinstance(sample.answer, HttpAnswer)
        stages = timing(sample.answer)
        total = stages.pop("total")
        stages["service"] = total - sum(stages.values())
        stages["network"] = 1000 * (sample.done - sample.due) - total
        for stage in STAGES:
            sums[stage] += stages[stage]
    whole = sum(sums.values())
    return {stage: round(sums[stage] / whole, 5) for stage in STAGES}


def _status(answer: HttpAnswer | NoAnswer) -> str:
    return str(answer.status) if isinstance(answer, HttpAnswer) else str(answer)


def _with_phrase(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)

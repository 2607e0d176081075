"""What a run of load says: throughput, percentiles, and where the time went."""

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
    """Milliseconds."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class LoadSummary:
    """`images_per_second` counts the good answers that came within the measured time.

    All else is of the requests that were due in it: `latency_ms` and `shares` of those with a good answer, None if none
    has one. `shares` are parts of the whole latency, which add up to 1: the three of the answers' `timing_ms`, what the
    service did besides (`service`), and what it knows nothing of (`network`: HTTP, the way, a request sent late).
    `problem` is what was wrong with the last that failed; `client_cores` is what this process took of the processor.
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
    """The figures of `run`; None if it was ended before its warm-up was over. NoAnswer if a timing is missing."""
    due = [sample for sample in run.samples if run.start <= sample.due < run.end]
    seconds = run.end - run.start
    if seconds <= 0:
        return None
    good = [sample for sample in due if sample.good]
    bad = [sample.answer for sample in due if not sample.good]
    in_time = sum(sample.good and run.start <= sample.done < run.end for sample in run.samples)
    return LoadSummary(
        run.load.clients,
        run.load.rate,
        round(seconds, 3),
        round(in_time / seconds, 3),
        latency([sample.done - sample.due for sample in good]) if good else None,
        _shares(good) if good else None,
        dict(sorted(Counter(_status(sample.answer) for sample in due).items())),
        problem(bad[-1]) if bad else None if due else "no request began in the time: measure for longer",
        round(run.client_seconds / seconds, 4),
    )


def latency(seconds: Sequence[float]) -> Latency:
    p50, p90, p99 = (round(1000 * float(value), 3) for value in np.percentile(seconds, [50, 90, 99]))
    return Latency(p50, p90, p99)


def problem(answer: HttpAnswer | NoAnswer) -> str:
    """What is wrong, in the server's own words where it has some (RFC 9457)."""
    if isinstance(answer, NoAnswer):
        return str(answer)
    try:
        said = json.loads(answer.body)
        return f"{answer.status} {said['title']}: {said['detail']}"
    except (ValueError, TypeError, LookupError):  # a proxy's, or not this service
        return _named(answer.status)


def timing(answer: HttpAnswer) -> dict[str, float]:
    """The answer's `timing_ms`. NoAnswer if it has none: then it is not this service that answers."""
    try:
        timings = json.loads(answer.body)["timing_ms"]
        return {name: float(timings[name]) for name in ("decode", "queue", "inference", "total")}
    except (ValueError, TypeError, LookupError) as err:
        raise NoAnswer("the answer is not a CrossViT service's: it has no timing_ms") from err


def _shares(good: Sequence[Sample]) -> dict[str, float]:
    spent = dict.fromkeys(STAGES, 0.0)
    for sample in good:
        assert isinstance(sample.answer, HttpAnswer)
        known = timing(sample.answer)
        total = known.pop("total")
        known["service"] = total - sum(known.values())
        known["network"] = 1000 * (sample.done - sample.due) - total
        for stage in STAGES:
            spent[stage] += known[stage]
    whole = sum(spent.values())
    return {stage: round(spent[stage] / whole, 5) for stage in STAGES}


def _status(answer: HttpAnswer | NoAnswer) -> str:
    return str(answer.status) if isinstance(answer, HttpAnswer) else str(answer)


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)

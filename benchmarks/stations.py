"""The stations of a request in the front end, and what share of its processor time each took, from a profile."""

import pstats
from collections import defaultdict
from functools import cache
from pathlib import Path

# The first row whose path and function occur in a profiled one has its station. What is in none of them, such as the
# standard library and functions in C, counts where it was called from.
_STATIONS = [
    ("/uvicorn/", "send", "write"),
    ("/uvicorn/", "receive", "read body"),
    ("/app/server/", "", "parse"),
    ("/app/api/multipart", "", "read body"),
    ("/app/api/request_body", "", "read body"),
    ("/app/api/content_", "", "read body"),
    ("/python_multipart/", "", "read body"),
    ("/app/decoding/", "", "hand to decoder"),
    ("/app/serving/batcher", "", "batch"),
    ("/app/engines/", "", "batch"),
    ("/app/serving/", "", "admit"),
    ("/app/api/auth", "", "admit"),
    ("/app/api/key_files", "", "admit"),
    ("/app/api/dependencies", "", "admit"),
    ("/app/api/observability_middleware", "", "metrics"),
    ("/app/telemetry/metrics", "", "metrics"),
    ("/prometheus_client/", "", "metrics"),
    ("/app/telemetry/logs", "", "log"),
    ("/structlog/", "", "log"),
    ("/logging/", "", "log"),
    ("/app/api/", "", "answer"),
    ("/bundle/scores", "", "answer"),
    ("/pydantic/", "", "answer"),
    ("/starlette/responses", "", "answer"),
    ("/fastapi/", "", "route"),
    ("/starlette/", "", "route"),
]
EVENT_LOOP = "event loop, sockets"

Function = tuple[str, int, str]  # as pstats has it: file, line, name


def station_shares(profile: Path, thread_seconds: float) -> dict[str, float]:
    """The share of each station in the thread's processor time, the largest first.

    What of `thread_seconds` is not in the profile is the event loop's, which calls the profiled functions.
    """
    stats: dict[Function, tuple[int, int, float, float, dict[Function, tuple[int, int, float, float]]]]
    stats = pstats.Stats(str(profile)).stats  # type: ignore[attr-defined]

    @cache
    def stations_of(function: Function, depth: int = 0) -> dict[str, float]:
        """The stations of the function's own time; the shares add up to 1."""
        if named := _named(function):
            return {named: 1.0}
        callers = stats[function][4]
        total = sum(times[2] for times in callers.values())
        if not total or depth > 12:
            return {EVENT_LOOP: 1.0}
        shares: dict[str, float] = defaultdict(float)
        for caller, times in callers.items():
            for station, share in stations_of(caller, depth + 1).items():
                shares[station] += share * times[2] / total
        return shares

    seconds: dict[str, float] = defaultdict(float)
    for function, (_, _, own, _, _) in stats.items():
        for station, share in stations_of(function).items():
            seconds[station] += own * share
    seconds[EVENT_LOOP] += max(0.0, thread_seconds - sum(seconds.values()))
    total = sum(seconds.values())
    return {station: seconds[station] / total for station in sorted(seconds, key=lambda name: -seconds[name])}


def _named(function: Function) -> str | None:
    path, _, name = function
    return next(
        (station for part, called, station in _STATIONS if part in path and (not called or called == name)), None
    )

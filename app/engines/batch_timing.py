"""Measures batches, and finds the batch size that is worth its wait."""

import time
from collections.abc import Callable, Mapping

from app.engines.interface import Store

_TRIALS = 3
_TRIAL_SECONDS = 0.5  # after which no more trials begin
_CALL_SECONDS = 0.002  # the cost of a call beside the engine: sockets, threads, the event loop
_ENOUGH_OF_BEST_RATE = 0.97  # for a shorter wait


def least_seconds(call: Callable[[], object]) -> float:
    """The least time of a few calls, since other load on the machine only adds to it; of one call if it is long."""
    call()  # which also allocates
    times: list[float] = []
    while len(times) < _TRIALS and sum(times) < _TRIAL_SECONDS:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def known_seconds(store: Store | None, name: str, measure: Callable[[], dict[int, float]]) -> dict[int, float]:
    """Seconds by batch size: those in `store` under `name`, else those that `measure` gives, which are stored."""
    known = store and store.read_json(name)
    if known:
        return {int(images): float(seconds) for images, seconds in known.items()}
    seconds = measure()
    if store is not None:
        store.write_json(name, seconds)
    return seconds


def worthwhile_batch(seconds: Mapping[int, float]) -> int:
    """The smallest batch that gives nearly as many images a second as any; `seconds` has the time of each.

    Larger ones only make each image wait for the others.
    """
    rates = {images: images / (taken + _CALL_SECONDS) for images, taken in seconds.items()}
    enough = _ENOUGH_OF_BEST_RATE * max(rates.values())
    return min(images for images, rate in rates.items() if rate >= enough)

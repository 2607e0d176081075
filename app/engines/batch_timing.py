"""How long batches take, and how many images a call is worth."""

import time
from collections.abc import Callable, Mapping

from app.engines.interface import Store

_TRIALS = 3
_LONG = 0.5  # seconds
_CALL_SECONDS = 0.002  # that a call costs beside the engine: sockets, threads, the event loop
_WORTH = 0.97  # of the most images a second is good enough for a shorter wait


def least_seconds(call: Callable[[], object]) -> float:
    """The best time of a few calls, since other load on the machine only ever adds to it; of one if it is long."""
    call()  # which also allocates
    times: list[float] = []
    while len(times) < _TRIALS and sum(times) < _LONG:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def known_seconds(store: Store | None, name: str, measure: Callable[[], dict[int, float]]) -> dict[int, float]:
    """What `measure` gives, seconds by batch size, or gave when it was last called for `name` in `store`."""
    known = store and store.read_json(name)
    if known:
        return {int(images): float(seconds) for images, seconds in known.items()}
    seconds = measure()
    if store is not None:
        store.write_json(name, seconds)
    return seconds


def worthwhile_batch(seconds: Mapping[int, float]) -> int:
    """The smallest batch that gives nearly as many images a second as any; `seconds` are what each batch takes.

    Larger ones only make each image wait for the others.
    """
    rates = {images: images / (taken + _CALL_SECONDS) for images, taken in seconds.items()}
    enough = _WORTH * max(rates.values())
    return min(images for images, rate in rates.items() if rate >= enough)

"""Which engine serves: the fastest of those that this machine has, found by trying."""

import importlib
import logging
import time
from collections.abc import Iterator

import numpy as np

from app.engines.engine import Engine, ReadGraph
from app.errors import NoEngine, WrongAnswers
from app.golden import Golden, fault

log = logging.getLogger(__name__)

ENGINES = {"openvino": ("app.engines.ov", "OpenVino"), "onnxruntime": ("app.engines.ort", "OnnxRuntime")}
PRECISIONS = ("bf16", "f32")
AUTO = "auto"
BATCH = 4
TRIALS = 3


def choose(graph: ReadGraph, golden: Golden, engine: str = AUTO, precision: str = AUTO) -> Engine:
    """The fastest engine for `graph` at the golden images' side, loaded, of those that `engine` and `precision` leave.

    A CPU that has bfloat16 instructions need not be fast with them, and which engine is ahead differs from CPU to
    CPU, so each candidate runs a few batches. All must give the golden logits. Raises NoEngine where nothing fits,
    and WrongAnswers if the only one that fits is wrong.
    """
    candidates = list(_candidates(graph, engine, precision))
    if not candidates:
        raise NoEngine(
            f"no engine here for engine={engine}, precision={precision}: install one with pip install 'crossvit[cpu]', "
            "or choose a precision that this CPU has (f32 runs everywhere)"
        )
    if len(candidates) == 1:
        _load(candidates[0], golden)
        return candidates[0]
    best: tuple[float, Engine] | None = None
    while candidates:  # each is let go before the next is loaded
        candidate = candidates.pop(0)
        seconds = _try(candidate, golden)
        if seconds is not None and (best is None or seconds < best[0]):
            best = seconds, candidate
    if best is None:
        raise NoEngine("none of the engines here can run this model; the log says why")
    return best[1]


def _candidates(graph: ReadGraph, engine: str, precision: str) -> Iterator[Engine]:
    for name, (module_name, class_name) in ENGINES.items():
        if engine not in (AUTO, name):
            continue
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            continue
        for offered in module.PRECISIONS:
            if precision in (AUTO, offered):
                yield getattr(module, class_name)(graph, offered)


def _load(engine: Engine, golden: Golden) -> None:
    engine.load(golden.images.shape[1])
    wrong = fault(golden, engine.run(golden.images), engine.precision)
    if wrong:
        raise WrongAnswers(f"{engine.name} {engine.precision} gives wrong answers: {wrong}")


def _try(engine: Engine, golden: Golden) -> float | None:
    """The best time of a batch, since other load on the machine only ever adds to it; None if the engine fails."""
    side = golden.images.shape[1]
    try:
        _load(engine, golden)
        seconds = _seconds(engine, side)
    except Exception:  # whatever the engine's library raises: the next one may do
        log.exception("%s %s cannot run this model", engine.name, engine.precision)
        return None
    log.info("%s %s: %.1f images/s at %d", engine.name, engine.precision, BATCH / seconds, side)
    return seconds


def _seconds(engine: Engine, side: int) -> float:
    images = np.zeros((BATCH, side, side, 3), np.uint8)
    times = []
    for _ in range(1 + TRIALS):  # the first one also allocates
        started = time.perf_counter()
        engine.run(images)
        times.append(time.perf_counter() - started)
    return min(times[1:])

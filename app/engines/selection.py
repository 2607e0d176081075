"""Which engine serves: down the tiers, and in each the fastest of those that this machine has, found by trying."""

import importlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from app.engines.interface import Engine, EngineFiles, EngineRefused
from app.errors import DeviceLost, NoEngine, WrongAnswers
from bundle.bundle_errors import ExplainedError
from bundle.golden import Golden, mismatch

log = logging.getLogger(__name__)

ENGINES = {  # where each one's `offers` is, see app.engines.interface
    "tensorrt": "app.engines.gpu.tensorrt_engine:offer_tensorrt",
    "onnxruntime-cuda": "app.engines.gpu.onnxruntime_cuda_engine:offer_onnxruntime_cuda",
    "onnxruntime-tensorrt": "app.engines.gpu.onnxruntime_cuda_engine:offer_onnxruntime_tensorrt",
    "openvino": "app.engines.cpu.openvino_engine:offer_openvino",
    "onnxruntime": "app.engines.cpu.onnxruntime_engine:offer_onnxruntime",
}
PLANNED = "tensorrt"  # runs the bundle's plans
ON_CPU = ("openvino", "onnxruntime")
_GPU_PRECISIONS = ("fp16",)  # that none of those has
# A GPU is faster than the CPU beside it, and what was compiled for it than what was not. onnxruntime-tensorrt is in no
# tier: it compiles for minutes at each start, so it has to be asked for.
TIERS: tuple[tuple[str, ...], ...] = ((PLANNED,), ("onnxruntime-cuda",), ON_CPU)
AUTO = "auto"
LEAST_AGREEMENT = 0.995  # with float32's best class, for a precision on the CPU to be chosen by itself
EIGHT_BITS = "int8"
_LONGEST_REASON = 300
_ROUNDS = 5  # of two engines that are compared,
_LONG = 3.0  # unless they take so many seconds


@dataclass(frozen=True)
class Choice:
    """An engine that is loaded and gives the golden logits, and why others that might have been taken were not.

    `image_seconds` is what one of the golden images took.
    """

    engine: Engine
    refused: dict[str, str]
    image_seconds: float


def choose(
    files: EngineFiles,
    golden: Golden,
    engine: str = AUTO,
    precision: str = AUTO,
    *,
    prefer: Sequence[tuple[str, str]] = (),
    skip: Mapping[str, str] | None = None,
    on_try: Callable[[str], None] = lambda _: None,
) -> Choice:
    """The engine for `files` at the golden images' side, loaded, of those that `engine` and `precision` leave.

    A CPU that has bfloat16 instructions need not be fast with them, and which engine is ahead differs from CPU to
    CPU, so each candidate of a tier runs a few batches; but the first whose name and precision are in `prefer` is
    taken if it works. All must give the golden logits. On the CPU, a precision that is not asked for by name must also
    have float32's best classes for photographs, as the bundle has it. `skip` has engines that are refused beforehand,
    with the reason.
    `on_try` is told an engine's name before anything of it runs. Raises NoEngine where nothing fits, and what the only
    candidate raised where there is one: WrongAnswers or BadBundle. Raises DeviceLost where another engine might fit,
    but in another process: the one that on_try was told of last, to be skipped there, has failed on its device.
    """
    search = _Search(files, golden, precision, prefer, skip or {}, on_try)
    for tier in TIERS if engine == AUTO else ((engine,),):
        try:
            found = search.best(tier)
        except DeviceLost as err:
            if engine == AUTO:
                raise
            raise search.failure(engine) from err
        if found is not None:
            return Choice(found, search.refused, search.image_seconds[found.name, found.precision])
    raise search.failure(engine)


class _Search:
    def __init__(
        self,
        files: EngineFiles,
        golden: Golden,
        precision: str,
        prefer: Sequence[tuple[str, str]],
        skip: Mapping[str, str],
        on_try: Callable[[str], None],
    ) -> None:
        self._files = files
        self._golden = golden
        self._side = golden.images.shape[1]
        self._precision = precision
        self._prefer = prefer
        self._on_try = on_try
        self._reasons = {name: [reason] for name, reason in skip.items()}
        self._skip = skip
        self._absent: dict[str, str] = {}  # why there are no candidates where none was to be expected
        self.image_seconds: dict[tuple[str, str], float] = {}
        self._ran: set[str] = set()
        self._tried = 0
        self._error: ExplainedError | None = None

    @property
    def refused(self) -> dict[str, str]:
        """Why each engine that could be expected to serve cannot."""
        return {name: "; ".join(why) for name, why in self._reasons.items() if name not in self._ran}

    def best(self, tier: Iterable[str]) -> Engine | None:
        """The engine to take of `tier`, if one works; the others are let go. Two are loaded at a time."""
        candidates = [candidate for name in tier for candidate in self._candidates(name)]
        for preferred in [one for pair in self._prefer for one in candidates if (one.name, one.precision) == pair]:
            candidates.remove(preferred)
            if self._works(preferred):
                return preferred
        if len(candidates) == 1:
            return candidates[0] if self._works(candidates[0]) else None
        best: Engine | None = None
        while candidates:
            candidate = candidates.pop(0)
            if self._works(candidate):
                best = self._faster(best, candidate) if best is not None else candidate
        return best

    def failure(self, engine: str) -> ExplainedError:
        """What to raise when there is none."""
        if self._tried == 1 and self._error is not None:
            return self._error
        asked = f"engine={engine}, precision={self._precision}"
        reasons = "; ".join(f"{name}: {why}" for name, why in self.refused.items())
        if self._tried:
            return NoEngine(f"none of the engines here can run this model for {asked} ({reasons}); the log says why")
        if self._precision.startswith(EIGHT_BITS) and EIGHT_BITS not in self._files.graphs:
            return NoEngine(
                f"no engine here for {asked}: the bundle has no graph in 8 bits; export it again with --quantize int8"
            )
        if engine != AUTO:
            return NoEngine(f"no engine here for {asked}: {self.refused.get(engine) or self._absent[engine]}")
        advice = "install one with pip install 'crossvit[cpu]', or choose a precision that this machine has"
        if self._precision in _GPU_PRECISIONS:
            advice = f"{self._precision} needs an engine for GPUs, and a GPU that it runs on; choose another precision"
        return NoEngine(f"no engine here for {asked}: {advice} (f32 runs everywhere){reasons and f'; {reasons}'}")

    def _candidates(self, name: str) -> Iterator[Engine]:
        if name in self._skip:
            return
        self._on_try(name)
        precisions = []
        try:
            for offered in _offers(name)(self._files, self._side):
                precisions.append(offered.precision)
                if self._precision == offered.precision or (self._precision == AUTO and self._agrees(offered)):
                    yield offered
        except ImportError as err:
            extra = "cpu" if name in ON_CPU else "gpu"
            self._absent[name] = f"it is not installed ({err}); install it with pip install 'crossvit[{extra}]'"
        except EngineRefused as err:
            self._refuse(name, str(err))
        except Exception as err:  # a package that is installed, but broken: the next engine may do
            log.exception("%s cannot be used", name)
            self._refuse(name, f"it cannot be used: {_short(err)}")
        else:
            none = "it finds no GPU, or was built without support for one"
            self._absent[name] = f"it has {', '.join(precisions)} here" if precisions else none
        if name == PLANNED and self._files.unfit and not precisions and name not in self._reasons:
            # Whoever keeps plans beside the graph wants to know that they would not do, also where there is no GPU.
            self._refuse(name, f"{'; '.join(self._files.unfit)}; build anew: {self._files.command}")

    def _agrees(self, engine: Engine) -> bool:
        """Whether the engine's precision answers as float32 does. A GPU's were compared when they were exported."""
        if engine.name not in ON_CPU or engine.precision == "f32":
            return True
        share = self._files.agreement.get(engine.precision)
        if share is not None and share >= LEAST_AGREEMENT:
            return True
        measured = "was not compared" if share is None else f"has float32's best class for {share:.1%} of photographs"
        log.info(
            "%s %s is not tried at %d: it %s, and %.1f %% are asked for; --precision %s takes it all the same",
            *(engine.name, engine.precision, self._side, measured, 100 * LEAST_AGREEMENT, engine.precision),
        )
        return False

    def _works(self, engine: Engine) -> bool:
        self._tried += 1
        self._on_try(engine.name)
        try:
            engine.load(self._side)
            began = time.perf_counter()
            answers = engine.run(self._golden.images)
            seconds = time.perf_counter() - began
            self.image_seconds[engine.name, engine.precision] = seconds / len(self._golden.images)
            wrong = mismatch(self._golden, answers, engine.precision)
            if wrong:
                raise WrongAnswers(f"{engine.name} {engine.precision} gives wrong answers: {wrong}")
        except Exception as err:  # whatever the engine's library raises: the next one may do
            self._failed(engine, err)
            return False
        self._ran.add(engine.name)
        return True

    def _faster(self, *engines: Engine) -> Engine | None:
        """The one that gives the most images a second, in turns so that other load hits all alike; None if all fail."""
        seconds: dict[Engine, list[float]] = {engine: [] for engine in engines}
        began = time.perf_counter()
        for number in range(1 + _ROUNDS):
            for engine in list(seconds):
                try:
                    taken = self._image_seconds(engine)
                except Exception as err:
                    del seconds[engine]
                    self._ran.discard(engine.name)
                    self._failed(engine, err)
                else:
                    seconds[engine] += [taken] if number else []  # the first call also allocates
            if number and time.perf_counter() - began > _LONG:
                break
        for engine, times in seconds.items():
            log.info("%s %s: %.1f images/s at %d", engine.name, engine.precision, 1 / min(times), self._side)
        best = min(seconds, key=lambda engine: min(seconds[engine]), default=None)
        for engine in seconds:
            if engine is not best:
                _let_go(engine)
        return best

    def _image_seconds(self, engine: Engine) -> float:
        images = np.zeros((engine.batch, self._side, self._side, 3), np.uint8)
        engine.run(images)  # threads of the engine before, which wait for more work for a while, keep cores busy
        began = time.perf_counter()
        engine.run(images)
        return (time.perf_counter() - began) / len(images)

    def _failed(self, engine: Engine, err: Exception) -> None:
        """Remember why; DeviceLost if nothing else is to be tried in this process."""
        known = isinstance(err, EngineRefused | ExplainedError)
        if not isinstance(err, EngineRefused):
            log.exception("%s %s cannot run this model", engine.name, engine.precision)
        self._refuse(engine.name, str(err) if known else f"it cannot run this model: {_short(err)}")
        if isinstance(err, ExplainedError):
            self._error = err
        if not known and engine.name not in ON_CPU:
            # An error of CUDA may stay: all that follows would fail too, and closing what is there might never end.
            raise DeviceLost("; ".join(self._reasons[engine.name])) from err
        _let_go(engine)

    def _refuse(self, name: str, reason: str) -> None:
        self._reasons.setdefault(name, []).append(reason)


def _offers(name: str) -> Callable[[EngineFiles, int], Iterator[Engine]]:
    module, _, function = ENGINES[name].partition(":")
    found: Callable[[EngineFiles, int], Iterator[Engine]] = getattr(importlib.import_module(module), function)
    return found


def _let_go(engine: Engine) -> None:
    try:
        engine.close()
    except Exception:  # of an engine that has failed; what it still holds ends with the process
        log.exception("%s %s cannot be closed", engine.name, engine.precision)


def _short(err: Exception) -> str:
    first = str(err).strip().partition("\n")[0][:_LONGEST_REASON]
    return f"{type(err).__name__}: {first}" if first else type(err).__name__

"""Engines against each other: each in a process of its own, all running at once and called in turn."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from app.decoding.image_decoding import decode
from app.processes.channel import Arrays, Values
from app.processes.worker import Worker, WorkerFailed
from benchmarks.contest import reference
from benchmarks.contest.contestant import Images, Logits, Task
from benchmarks.contest.results import Calls, Entry, Results
from bundle.reader import open_bundle
from model.files.pixels import TRUSTED_MAX_PIXELS
from tests.support.processes import proportional_mb

START_SECONDS = 300  # importing libraries
GOLDEN_TOLERANCE = 1e-3
MIN_CALLS = 2  # of a round

T = TypeVar("T")

TIMM, OURS = "pytorch:PyTorch", "engines:Ours"


@dataclass(frozen=True)
class Kind:
    """What a contestant is called in tables, the class that makes it, and what that is told when it loads."""

    title: str
    factory: str
    values: tuple[str, ...] = ()

    @property
    def compiles(self) -> bool:
        """Whether each batch size takes torch.compile minutes."""
        return self.values[:1] in [("compile",), ("freeze",), ("max-autotune",)]


KINDS = {
    "eager": Kind("PyTorch eager f32", TIMM, ("eager", "f32")),
    "autocast": Kind("PyTorch bf16 autocast", TIMM, ("autocast", "f32")),
    "compile": Kind("torch.compile f32", TIMM, ("compile", "f32")),
    "compile-bf16": Kind("torch.compile bf16, weights frozen", TIMM, ("freeze", "bf16")),
    "onnxruntime": Kind("ONNX Runtime as it comes", "engines:OnnxRuntime"),
    "openvino": Kind("OpenVINO as it comes", "engines:OpenVino"),
    "ours": Kind("this project's engine, precision auto", OURS, ("auto", "auto")),
    "ours-f32": Kind("this project's engine, f32", OURS, ("auto", "f32")),
    "ours-int8": Kind("this project's engine, int8", OURS, ("auto", "int8")),
} | {
    f"{name}-{precision}": Kind(f"{title} {precision}", factory, (value, precision))
    for name, title, factory, value in (
        ("gpu-eager", "PyTorch eager", TIMM, "eager"),
        ("gpu-compile", "torch.compile max-autotune", TIMM, "max-autotune"),
        ("tensorrt", "ours, TensorRT", OURS, "tensorrt"),
        ("onnxruntime-cuda", "ours, ONNX Runtime", OURS, "onnxruntime-cuda"),
        ("onnxruntime-tensorrt", "ours, ONNX Runtime with TensorRT", OURS, "onnxruntime-tensorrt"),
    )
    for precision in ("f32", "fp16", "bf16")
}  # fmt: skip
ON_CPU = ("eager", "autocast", "compile", "compile-bf16", "onnxruntime", "openvino", "ours", "ours-int8")
ON_GPU = tuple(
    f"{name}-{precision}" for name in ("gpu-eager", "gpu-compile", "onnxruntime-cuda", "tensorrt")
    for precision in ("fp16", "bf16")
)  # fmt: skip


class WrongWeights(Exception):
    """The bundle was made from other weights than those that PyTorch gets."""


@dataclass(frozen=True)
class Rules:
    """How it is measured. `seconds` of a round, `calls` of one image in all rounds together, at least.

    torch.compile gets `compile_batches` only: each takes minutes to compile. Loading and compiling take
    `prepare_seconds` each at most, and end `reserve` seconds before `end`, on the clock of time.monotonic.
    """

    batches: Sequence[int]
    compile_batches: Sequence[int]
    rounds: int
    seconds: float
    calls: int = 0
    prepare_seconds: float = 600
    end: float = math.inf
    reserve: float = 0

    def left(self) -> float:
        """The seconds that loading or compiling may take from now on."""
        return min(self.prepare_seconds, self.end - self.reserve - time.monotonic())


class Player:
    """A contestant's process, and what became of it. What fails is written down, and it plays no more."""

    def __init__(self, entry: Entry, kind: Kind, rules: Rules) -> None:
        self.entry, self.kind = entry, kind
        self.batches = [b for b in rules.batches if not kind.compiles or b in rules.compile_batches]
        self.prepared: dict[int, float] = {}  # the seconds of the first call
        self._worker: Worker | None = None
        factory = f"benchmarks.contest.{kind.factory}"
        self._noting("start", partial(self._start, factory))

    def call(self, method: str, values: Values, arrays: Arrays, seconds: float) -> tuple[Values, Arrays] | None:
        """What the contestant's method gives; None if it fails, or has failed before."""
        worker = self._worker
        if worker is None or self.entry.error:
            return None
        return self._noting(method, partial(worker.call, method, values, arrays, seconds=seconds))

    def prepare_batch(self, batch: int, seconds: float) -> None:
        """Compile and warm up. A batch size that fails, for want of memory say, leaves the others to play with."""
        if seconds <= 0:
            self._note(f"no time for batch {batch}")
        elif (worker := self._worker) is not None and not self.entry.error:
            call = partial(worker.call, "prepare", [batch], [], seconds=seconds)
            if (first := self._noting(f"batch {batch}", call)) is not None:
                self.prepared[batch] = first[0][0]

    def prepare(self, task: Task, photos: Images, expected: Logits, rules: Rules) -> None:
        """Load, compile, warm up, and compare the answers with those that are expected."""
        entry, device = self.entry, task.device
        before = reference.gpu_used_mb() if device == "cuda" else 0.0
        if (loaded := self.call("load", [asdict(task), *self.kind.values], [photos], rules.left())) is None:
            return
        entry.load_seconds, entry.note = loaded[0]
        for batch in self.batches:
            self.prepare_batch(batch, rules.left())
        entry.first_seconds = sum(self.prepared.values())
        if self.prepared and (answered := self.call("answers", [], [], rules.prepare_seconds)):
            (logits,) = answered[1]
            entry.agreement = float((logits.argmax(1) == expected.argmax(1)).mean())
            entry.worst_difference = float(abs(logits - expected).max() / abs(expected).max())
            assert self._worker is not None
            entry.memory_mb = (
                reference.gpu_used_mb() - before if device == "cuda" else proportional_mb(self._worker.pid)
            )
        say(f"{entry.title}: loaded in {entry.load_seconds:.1f} s, first calls {entry.first_seconds:.1f} s")

    def measure(self, batch: int, rules: Rules) -> tuple[Values, Arrays] | None:
        """A round at `batch`: the seconds of its calls."""
        if batch not in self.prepared:
            return None
        calls = max(math.ceil(rules.calls / rules.rounds) if batch == 1 else 0, MIN_CALLS)
        limit = 60 + 10 * rules.seconds + 10 * calls * self.prepared[batch]
        return self.call("measure", [batch, rules.seconds, calls], [], limit)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.kill()

    def _start(self, factory: str) -> tuple[Values, Arrays]:
        self._worker = Worker(self.entry.contestant, factory, seconds=START_SECONDS, keep_environment=True)
        return [], []

    def _noting(self, what: str, work: Callable[[], tuple[Values, Arrays]]) -> tuple[Values, Arrays] | None:
        try:
            return work()
        except Exception as err:  # of the worker's process, or the service's own, such as BadBundle
            say(f"{self.entry.title}: {what}: {err}")
            reason = f"{what}: {[type(err).__name__, *str(err).strip().splitlines()][-1]}"
            if what.startswith("batch") and isinstance(err, WorkerFailed):
                self._note(reason)
            else:
                self.entry.error = reason
                self.close()
            return None

    def _note(self, text: str) -> None:
        self.entry.note = "; ".join(filter(None, [self.entry.note, text]))


def task_of(bundle: Path, resolution: int, weights: str, device: str, photos: Sequence[bytes]) -> tuple[Task, Images]:
    """What contestants load, and the photographs as the service decodes them.

    Raises WrongWeights unless PyTorch gives the logits that the bundle recorded.
    """
    opened = open_bundle(bundle)
    steps = opened.manifest.preprocessing[resolution]
    path, _ = reference.weights_of(weights, opened.manifest.variant)
    task = Task(str(bundle), opened.manifest.variant, resolution, steps.crop, path, device)
    golden = opened.golden(resolution)
    found, recorded = reference.float32_logits(task, golden.images), golden.logits[0]
    distance = (
        np.linalg.norm(found - recorded) / np.linalg.norm(recorded) if found.shape == recorded.shape else math.inf
    )
    if not distance <= GOLDEN_TOLERANCE:
        raise WrongWeights(
            f"{bundle}: PyTorch's logits are {distance:.1e} off the recorded ones, so the bundle was made from other "
            "weights; give --weights what the export was given"
        )
    return task, np.stack([decode(photo, steps, TRUSTED_MAX_PIXELS) for photo in photos])


def run(
    task: Task, photos: Images, names: Sequence[str], rules: Rules, results: Results, save: Callable[[], None]
) -> None:
    """Measure one network at one side. What there is goes into `results` at once, and `save` is called."""
    expected = reference.float32_logits(task, photos)
    peaks = [reference.matrix_peak(task.device)]
    entries = [Entry(task.variant, task.resolution, name, KINDS[name].title) for name in names]
    results.entries += entries
    with ExitStack() as stack:
        players = [Player(entry, KINDS[entry.contestant], rules) for entry in entries]
        for player in players:
            stack.callback(player.close)
        for player in sorted(players, key=lambda player: player.kind.compiles):  # what may take all the time is last
            player.prepare(task, photos, expected, rules)
            save()
        for number in range(rules.rounds):
            for batch in rules.batches:
                for player in rotated(players, number):
                    if (number == 0 or time.monotonic() < rules.end) and (found := player.measure(batch, rules)):
                        name, times = player.entry.contestant, np.round(found[1][0], 7).tolist()
                        results.calls.append(Calls(task.variant, task.resolution, name, batch, number, times))
            save()
    peaks.append(reference.matrix_peak(task.device))
    for entry in entries:
        entry.peak = float(np.median(peaks))
    save()


def profile(task: Task, photos: Images, name: str, batch: int, rules: Rules) -> str:
    """Where the contestant's time goes at `batch`, or why that is not known."""
    player = Player(Entry(task.variant, task.resolution, name, KINDS[name].title), KINDS[name], rules)
    try:
        player.prepare(task, photos[:1], reference.float32_logits(task, photos[:1]), rules)
        found = player.call("profile", [batch], [], rules.prepare_seconds)
        return str(found[0][0]) if found else player.entry.error
    finally:
        player.close()


def rotated(players: Sequence[T], number: int) -> list[T]:
    """Each round begins with another one."""
    first = number % max(len(players), 1)
    return [*players[first:], *players[:first]]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

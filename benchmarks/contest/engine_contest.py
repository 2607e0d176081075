"""Engines against each other: each in a process of its own, all running at once and called in turn."""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
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
PREPARE_SECONDS = 600  # the longest load, and the longest first call
GOLDEN_TOLERANCE = 1e-3

T = TypeVar("T")

TIMM, OURS = "pytorch:PyTorch", "engines:Ours"
# What a contestant is called in tables, the class that makes it, and what that is told when it loads.
KINDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "eager": ("PyTorch eager f32", TIMM, ("eager", "f32")),
    "autocast": ("PyTorch bf16 autocast", TIMM, ("autocast", "f32")),
    "compile": ("torch.compile f32", TIMM, ("compile", "f32")),
    "compile-bf16": ("torch.compile bf16, weights frozen", TIMM, ("freeze", "bf16")),
    "onnxruntime": ("ONNX Runtime as it comes", "engines:OnnxRuntime", ()),
    "openvino": ("OpenVINO as it comes", "engines:OpenVino", ()),
    "ours": ("this project's engine, precision auto", OURS, ("auto", "auto")),
    "ours-f32": ("this project's engine, f32", OURS, ("auto", "f32")),
    "ours-int8": ("this project's engine, int8", OURS, ("auto", "int8")),
}
for precision in ("f32", "fp16", "bf16"):
    KINDS |= {
        f"gpu-eager-{precision}": (f"PyTorch eager {precision}", TIMM, ("eager", precision)),
        f"gpu-compile-{precision}": (f"torch.compile max-autotune {precision}", TIMM, ("max-autotune", precision)),
        f"tensorrt-{precision}": (f"ours, TensorRT {precision}", OURS, ("tensorrt", precision)),
        f"onnxruntime-cuda-{precision}": (f"ours, ONNX Runtime {precision}", OURS, ("onnxruntime-cuda", precision)),
    }
ON_CPU = ("eager", "autocast", "compile", "compile-bf16", "onnxruntime", "openvino", "ours", "ours-int8")
ON_GPU = tuple(name for name in KINDS if name.startswith(("gpu", "tensorrt", "onnxruntime-")) and "f32" not in name)


class WrongWeights(RuntimeError):
    """The bundle was made from other weights than those that PyTorch gets."""


@dataclass(frozen=True)
class Rules:
    """How it is measured. torch.compile gets `compile_batches` only: each takes minutes to compile.

    Loading and compiling end `reserve` seconds before `end`, on the clock of time.monotonic.
    """

    batches: Sequence[int]
    compile_batches: Sequence[int]
    rounds: int
    seconds: float
    end: float
    reserve: float

    def left(self) -> float:
        """The seconds that loading or compiling may take from now on."""
        return min(PREPARE_SECONDS, self.end - self.reserve - time.monotonic())


class Player:
    """A contestant's process, and what became of it. What fails is written down, and it plays no more."""

    def __init__(self, entry: Entry, rules: Rules) -> None:
        _, factory, self.values = KINDS[entry.contestant]
        self.entry, self.rules = entry, rules
        self.compiles = "compile" in entry.contestant
        self.first: dict[int, float] = {}  # the seconds of the first call of each prepared batch size
        self._worker: Worker | None = None
        try:
            name = f"benchmarks.contest.{factory}"
            self._worker = Worker(entry.contestant, name, seconds=START_SECONDS, keep_environment=True)
        except Exception as err:
            self._fail("start", err)

    def call(self, method: str, values: Values, arrays: Arrays, seconds: float) -> tuple[Values, Arrays] | None:
        """What the contestant's method gives; None if it fails, or has failed before.

        A batch size that fails to prepare, for want of memory say, leaves the others to play with.
        """
        if self._worker is None or self.entry.error:
            return None
        try:
            return self._worker.call(method, values, arrays, seconds=seconds)
        except Exception as err:  # of its process, or the service's own, such as BadBundle
            if method == "prepare" and isinstance(err, WorkerFailed):
                self.note(f"batch {values[0]}: {last_line(err)}")
            else:
                self._fail(method, err)
            return None

    def prepare(self, task: Task, photos: Images, expected: Logits) -> None:
        """Load, compile, warm up, and compare the answers with those that are expected."""
        entry, device = self.entry, task.device
        before = reference.gpu_used_mb(device)
        if (loaded := self.call("load", [asdict(task), *self.values], [photos], self.rules.left())) is None:
            return
        entry.load_seconds, entry.note = loaded[0]
        for batch in self.rules.compile_batches if self.compiles else self.rules.batches:
            if self.rules.left() <= 0:
                self.note(f"batch {batch}: no time was left")
            elif found := self.call("prepare", [batch], [], self.rules.left()):
                self.first[batch] = found[0][0]
        entry.first_seconds = sum(self.first.values())
        if self.first and (answered := self.call("answers", [], [], PREPARE_SECONDS)):
            (logits,) = answered[1]
            entry.agreement = float((logits.argmax(1) == expected.argmax(1)).mean())
            entry.worst_difference = float(abs(logits - expected).max() / abs(expected).max())
            assert self._worker is not None
            entry.memory_mb = (
                proportional_mb(self._worker.pid) if device == "cpu" else reference.gpu_used_mb(device) - before
            )
        say(f"{entry.title}: loaded in {entry.load_seconds:.1f} s, first calls {entry.first_seconds:.1f} s")

    def measure(self, batch: int) -> list[float]:
        """The seconds of the calls of a round at `batch`."""
        limit = 60 + 10 * self.rules.seconds + 20 * self.first.get(batch, 0)
        found = self.call("measure", [batch, self.rules.seconds], [], limit) if batch in self.first else None
        return list(np.round(found[1][0], 7).tolist()) if found else []

    def note(self, text: str) -> None:
        self.entry.note = "; ".join(filter(None, [self.entry.note, text]))

    def close(self) -> None:
        if self._worker is not None:
            self._worker.kill()

    def _fail(self, what: str, err: Exception) -> None:
        self.entry.error = f"{what}: {last_line(err)}"
        say(f"{self.entry.title}: {what}: {err}")
        self.close()


def task_of(bundle: Path, resolution: int, weights: str, device: str, photos: Sequence[bytes]) -> tuple[Task, Images]:
    """What contestants load, and the photographs as the service decodes them.

    Raises WrongWeights unless PyTorch gives the logits that the bundle recorded.
    """
    opened = open_bundle(bundle)
    steps = opened.manifest.preprocessing.get(resolution)
    if steps is None:
        raise ValueError(f"{bundle} does not offer {resolution}, but {', '.join(map(str, opened.resolutions))}")
    path, _ = reference.weights_of(weights, opened.manifest.variant)
    task = Task(str(bundle), opened.manifest.variant, resolution, steps.crop, path, device)
    golden = opened.golden(resolution)
    found, recorded = reference.float32_logits(task, golden.images), golden.logits[0]
    if found.shape != recorded.shape or np.linalg.norm(found - recorded) > GOLDEN_TOLERANCE * np.linalg.norm(recorded):
        raise WrongWeights(
            f"{bundle}: it was made from other weights than PyTorch gets; give --weights what the export was given"
        )
    return task, np.stack([decode(photo, steps, TRUSTED_MAX_PIXELS) for photo in photos])


def run(
    task: Task, photos: Images, names: Sequence[str], rules: Rules, results: Results, save: Callable[[], None]
) -> None:
    """Measure one network at one side. What there is goes into `results` at once, and `save` is called."""
    expected = reference.float32_logits(task, photos)
    peaks = [reference.matrix_peak(task.device)]
    entries = [Entry(task.variant, task.resolution, name, KINDS[name][0]) for name in names]
    with ExitStack() as stack:
        players = [Player(entry, rules) for entry in entries]
        for player in players:
            stack.callback(player.close)
        for player in sorted(players, key=lambda player: player.compiles):  # what may take all the time is last
            player.prepare(task, photos, expected)
        results.forget(task.variant, names, task.resolution)  # loading was long, and may be cut off
        results.entries += entries
        for number in range(rules.rounds):
            for batch in rules.batches:
                for player in rotated(players, number):
                    if number and time.monotonic() > rules.end:
                        continue
                    if times := player.measure(batch):
                        place = task.variant, task.resolution, player.entry.contestant
                        results.calls.append(Calls(*place, batch, number, times))
            save()
    peaks.append(reference.matrix_peak(task.device))
    for entry in entries:
        entry.peak = float(np.median(peaks))
    save()


def profile(task: Task, photos: Images, name: str, rules: Rules) -> str:
    """Where the contestant's time goes at the largest batch, or why that is not known."""
    player = Player(Entry(task.variant, task.resolution, name, KINDS[name][0]), rules)
    try:
        player.prepare(task, photos, reference.float32_logits(task, photos))
        found = player.call("profile", [max(rules.batches)], [], PREPARE_SECONDS)
        return str(found[0][0]) if found else player.entry.error
    finally:
        player.close()


def rotated(players: Sequence[T], number: int) -> list[T]:
    """Each round begins with another one."""
    first = number % max(len(players), 1)
    return [*players[first:], *players[:first]]


def last_line(err: Exception) -> str:
    """Of a traceback the line that says what it was."""
    return [type(err).__name__, *str(err).strip().splitlines()][-1]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

"""Contestants against each other: each in a process of its own, all running at once and called in turn."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.decoding.image_decoding import decode
from app.processes.channel import Values
from app.processes.worker import Worker
from benchmarks.gpu.player import PYTORCH, Player, say
from benchmarks.gpu.results import Report, Round, Section, agreement
from bundle.file_names import GOLDEN, MANIFEST
from model.spec import RESOLUTIONS, Preprocessing, variant_named

DEFAULT = {
    "cuda": [
        f"{kind}-{precision}"
        for kind in ("timm-eager", "timm-compile", "onnxruntime-cuda", "tensorrt")
        for precision in ("fp16", "bf16")
    ],
    "cpu": ["timm-eager-f32", "timm-eager-bf16", "timm-compile-f32", "onnxruntime-f32", "openvino-f32"],
}
PEAK_SECONDS = 0.3
GOLDEN_TOLERANCE = 1e-3


class OutOfTime(Exception):
    """The run's own limit has passed."""


class WrongWeights(Exception):
    """The bundle was made from other weights than those that PyTorch gets."""


@dataclass(frozen=True)
class Rules:
    """How it is measured. `seconds` of a round, `calls` of one image in all rounds together, at least.

    `reserve` seconds are kept for measuring, whatever loading and compiling would take.
    """

    device: str
    rounds: int
    seconds: float
    calls: int
    compile_batches: list[int]
    prepare_seconds: float
    end: float  # on the clock of time.monotonic
    reserve: float

    def within(self, seconds: float) -> float:
        """`seconds`, or what is left of the run's time for loading and compiling; OutOfTime if that is nothing."""
        left = self.end - self.reserve - time.monotonic()
        if left <= 0:
            raise OutOfTime("the run's time was up")
        return min(seconds, left)

    def batches_of(self, contestant: str, batches: list[int]) -> list[int]:
        return [batch for batch in batches if "compile" not in contestant or batch in self.compile_batches]


@dataclass(frozen=True)
class Setting:
    """A bundle at a resolution, the photographs as the network sees them, and where PyTorch finds the weights."""

    bundle: Path
    variant: str
    resolution: int
    steps: Preprocessing
    photos: NDArray[np.uint8]
    golden: NDArray[np.uint8]
    golden_logits: NDArray[np.float32]
    weights: str
    weights_id: str

    def values(self, contestant: str, device: str) -> Values:
        """What the contestant is loaded with."""
        kind, _, precision = contestant.rpartition("-")
        if kind in PYTORCH:
            return [*PYTORCH[kind], precision, device, self.variant, self.weights, self.steps.crop]
        return [kind, precision, str(self.bundle), self.resolution, self.steps.crop]


def setting(bundle: Path, resolution: int, files: list[Path], weights: tuple[str, str]) -> Setting:
    """Decode `files` as the service does with `bundle`."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    steps = Preprocessing(**manifest["preprocessing"][str(resolution)])
    photos = np.stack([decode(file.read_bytes(), steps, 1 << 28) for file in files])
    with np.load(bundle / GOLDEN) as golden:
        images, logits = golden[f"images_{resolution}"], golden[f"logits_{resolution}"][0]
    return Setting(bundle, manifest["variant"], resolution, steps, photos, images, logits, *weights)


def run(
    setting: Setting,
    contestants: list[str],
    batches: list[int],
    rules: Rules,
    referee: Worker,
    report: Report,
    file: Path | None,
) -> None:
    """Measure one section. What there is goes into `report` and `file` at once: a run that is cut off keeps it."""
    section = _section(setting, batches)
    report.sections.append(section)
    section.peaks.append(peak(referee))
    expected = _expected(setting, referee)
    section.largest_logit = float(abs(expected).max())
    players = [Player(contestant) for contestant in contestants]
    section.entries += [player.entry for player in players]
    with ExitStack() as stack:
        for player in players:
            stack.callback(player.close)
        _at_once([player.start for player in players])
        for player in sorted(players, key=_compiles):  # what may take all the time comes last
            _prepare(player, setting, batches, rules, referee, expected)
            report.save(file)
        for number in range(rules.rounds):
            _round(number, players, batches, rules)
            report.save(file)
    section.peaks.append(peak(referee))
    report.save(file)


def profile(setting: Setting, contestant: str, batch: int, rules: Rules) -> dict[str, Any]:
    """What the contestant's profile says at `batch`, or {"note": why there is none}."""
    player = Player(contestant)
    try:
        player.start()
        player.call("load", setting.values(contestant, rules.device), [setting.photos], rules.prepare_seconds)
        player.prepare(batch, rules.prepare_seconds)
        answer = player.call("profile", [batch], [], rules.prepare_seconds)
        return answer[0][0] if answer else {"note": player.entry.error or player.entry.failed[batch]}
    finally:
        player.close()


def peak(referee: Worker) -> float:
    (rate,), _ = referee.call("peak", [PEAK_SECONDS], [], seconds=60)
    return float(rate)


def _section(setting: Setting, batches: list[int]) -> Section:
    gmac = variant_named(setting.variant).gmacs[RESOLUTIONS.index(setting.resolution)]
    return Section(setting.variant, setting.resolution, setting.steps.crop, gmac, batches, setting.weights_id)


def _expected(setting: Setting, referee: Worker) -> NDArray[np.float32]:
    """The float32 logits of the photographs, once the same module has given those that the bundle recorded."""
    values = [setting.variant, setting.weights]
    _, (expected, golden) = referee.call("answers", values, [setting.photos, setting.golden], seconds=600)
    distance = np.linalg.norm(golden - setting.golden_logits) / np.linalg.norm(setting.golden_logits)
    if not distance <= GOLDEN_TOLERANCE:
        raise WrongWeights(
            f"{setting.bundle}: PyTorch's logits are {distance:.1e} off the recorded ones, so the bundle was made from "
            "other weights; give --weights what the export was given"
        )
    answers: NDArray[np.float32] = expected
    return answers


def _compiles(player: Player) -> bool:
    return "compile" in player.entry.contestant


def _prepare(
    player: Player, setting: Setting, batches: list[int], rules: Rules, referee: Worker, expected: NDArray[np.float32]
) -> None:
    """Load, compile and warm up, take all memory once, compare the answers. One contestant at a time does this."""
    entry = player.entry
    before = _used_mb(referee)
    wanted = rules.batches_of(entry.contestant, batches)
    if not wanted:
        entry.error = "none of --batches is among --compile-batches"
        return
    try:
        values = setting.values(entry.contestant, rules.device)
        loaded = player.call("load", values, [setting.photos], rules.within(rules.prepare_seconds))
        if loaded is not None:
            entry.load_seconds, entry.facts = loaded[0]
        for batch in wanted:
            player.prepare(batch, rules.within(rules.prepare_seconds))
    except OutOfTime as err:
        missing = [batch for batch in wanted if batch not in entry.first_seconds]
        entry.failed |= dict.fromkeys(missing, str(err))
    if not player.plays or not entry.first_seconds:
        return
    answered = player.call("answers", [], [], rules.prepare_seconds)
    if answered is None:
        return
    entry.memory_mb = player.memory_mb() if rules.device == "cpu" else _used_mb(referee) - before
    entry.top1_agreement, entry.worst_difference = agreement(expected, answered[1][0])
    say(f"{entry.contestant}: loaded in {entry.load_seconds:.1f} s, first calls {_seconds(entry.first_seconds)}")


def _round(number: int, players: list[Player], batches: list[int], rules: Rules) -> None:
    """All contestants at every batch size; each round begins with another contestant."""
    first = number % max(len(players), 1)
    for batch in batches:
        calls = -(-rules.calls // rules.rounds) if batch == 1 else 3
        for player in players[first:] + players[:first]:
            if number and time.monotonic() > rules.end:
                return
            if batch in player.entry.first_seconds:
                limit = 60 + 10 * rules.seconds + 10 * calls * player.entry.first_seconds[batch]
                _measure(player, batch, rules.seconds, calls, limit)


def _measure(player: Player, batch: int, seconds: float, calls: int, limit: float) -> None:
    measured = player.call("measure", [batch, seconds, calls], [], limit)
    if measured is not None:
        times, device = (np.round(array, 7).tolist() for array in measured[1])
        player.entry.rounds.setdefault(batch, []).append(Round(times, device))


def _used_mb(referee: Worker) -> float:
    (used,), _ = referee.call("used_mb", [], [], seconds=60)
    return float(used)


def _seconds(firsts: dict[int, float]) -> str:
    return ", ".join(f"{batch}: {seconds:.1f} s" for batch, seconds in firsts.items())


def _at_once(calls: list[Callable[[], None]]) -> None:
    with ThreadPoolExecutor(max(len(calls), 1)) as pool:
        for done in [pool.submit(call) for call in calls]:
            done.result()

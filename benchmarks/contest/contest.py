"""Contestants against each other: each in a process of its own, all running at once and called in turn."""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.decoding.image_decoding import decode
from app.processes.worker import Worker
from benchmarks.contest.contestant import Task
from benchmarks.contest.player import Kind, Player, say
from benchmarks.contest.results import Report, Round, Section, agreement
from bundle.file_names import GOLDEN, MANIFEST
from model.spec import RESOLUTIONS, Preprocessing, variant_named

PEAK_SECONDS = 0.3
GOLDEN_TOLERANCE = 1e-3
MIN_CALLS = 2  # of a round


class OutOfTime(Exception):
    """The run's own limit has passed."""


class WrongWeights(Exception):
    """The bundle was made from other weights than those that PyTorch gets."""


@dataclass(frozen=True)
class Rules:
    """How it is measured. `seconds` of a round, `calls` of one image in all rounds together, at least.

    torch.compile gets `compile_batches` only: each takes minutes to compile. `reserve` seconds are kept for measuring,
    whatever loading and compiling would take.
    """

    batches: Sequence[int]
    compile_batches: Sequence[int]
    rounds: int
    seconds: float
    calls: int = 0
    prepare_seconds: float = 600
    end: float = math.inf  # on the clock of time.monotonic
    reserve: float = 0

    def within(self, seconds: float) -> float:
        """`seconds`, or what is left of the run's time for loading and compiling; OutOfTime if that is nothing."""
        left = self.end - self.reserve - time.monotonic()
        if left <= 0:
            raise OutOfTime("the run's time was up")
        return min(seconds, left)

    def batches_of(self, player: Player) -> list[int]:
        return [batch for batch in self.batches if not player.compiles or batch in self.compile_batches]


@dataclass(frozen=True)
class Setting:
    """A bundle at a resolution, the photographs as the network sees them, and the identifier of the weights."""

    task: Task
    photos: NDArray[np.uint8]
    golden: NDArray[np.uint8]
    golden_logits: NDArray[np.float32]
    weights_id: str

    def load(self, player: Player, seconds: float) -> None:
        loaded = player.call("load", [asdict(self.task), *player.kind.values], [self.photos], seconds)
        if loaded is not None:
            player.entry.load_seconds, player.entry.facts = loaded[0]


def setting(
    bundle: Path, resolution: int, photos: Sequence[bytes], choice: str, device: str, referee: Worker
) -> Setting:
    """Decode `photos` as the service does with `bundle`; PyTorch gets the weights that `choice` names."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    variant, steps = manifest["variant"], Preprocessing(**manifest["preprocessing"][str(resolution)])
    (weights, weights_id), _ = referee.call("weights", [choice, variant], [], seconds=600)
    pixels = np.stack([decode(photo, steps, 1 << 28) for photo in photos])
    with np.load(bundle / GOLDEN) as golden:
        images, logits = golden[f"images_{resolution}"], golden[f"logits_{resolution}"][0]
    task = Task(str(bundle), variant, resolution, steps.crop, weights, device)
    return Setting(task, pixels, images, logits, weights_id)


@contextmanager
def judging(device: str) -> Iterator[Worker]:
    """The referee's process."""
    worker = Worker("referee", "benchmarks.contest.referee:Referee", [device], seconds=300, keep_environment=True)
    try:
        yield worker
    finally:
        worker.kill()


def run(
    setting: Setting, kinds: Mapping[str, Kind], rules: Rules, referee: Worker, report: Report, file: Path | None
) -> None:
    """Measure one section. What there is goes into `report` and `file` at once: a run that is cut off keeps it."""
    section = _section(setting, rules)
    report.sections.append(section)
    section.peaks.append(peak(referee))
    expected = _expected(setting, referee)
    section.largest_logit = float(abs(expected).max())
    players = [Player(name, kind) for name, kind in kinds.items()]
    section.entries += [player.entry for player in players]
    with ExitStack() as stack:
        for player in players:
            stack.callback(player.close)
        with ThreadPoolExecutor(max(len(players), 1)) as pool:  # importing libraries
            list(pool.map(Player.start, players))
        for player in sorted(players, key=lambda player: player.compiles):  # what may take all the time comes last
            _prepare(player, setting, rules, referee, expected)
            report.save(file)
        for number in range(rules.rounds):
            _round(number, players, rules)
            report.save(file)
    section.peaks.append(peak(referee))
    report.save(file)


def profile(setting: Setting, contestant: str, kind: Kind, batch: int, rules: Rules) -> dict[str, Any]:
    """What the contestant's profile says at `batch`, or {"note": why there is none}."""
    player = Player(contestant, kind)
    try:
        player.start()
        setting.load(player, rules.prepare_seconds)
        player.prepare(batch, rules.prepare_seconds)
        answer = player.call("profile", [batch], [], rules.prepare_seconds)
        return answer[0][0] if answer else {"note": player.entry.error or player.entry.failed[batch]}
    finally:
        player.close()


def peak(referee: Worker) -> float:
    (rate,), _ = referee.call("peak", [PEAK_SECONDS], [], seconds=60)
    return float(rate)


def _section(setting: Setting, rules: Rules) -> Section:
    task = setting.task
    gmac = variant_named(task.variant).gmacs[RESOLUTIONS.index(task.resolution)]
    return Section(task.variant, task.resolution, task.side, gmac, list(rules.batches), setting.weights_id)


def _expected(setting: Setting, referee: Worker) -> NDArray[np.float32]:
    """The float32 logits of the photographs, once the same module has given those that the bundle recorded."""
    values = [setting.task.variant, setting.task.weights]
    _, (expected, golden) = referee.call("answers", values, [setting.photos, setting.golden], seconds=600)
    same_shape = golden.shape == setting.golden_logits.shape
    difference = golden - setting.golden_logits if same_shape else np.inf
    distance = np.linalg.norm(difference) / np.linalg.norm(setting.golden_logits)
    if not distance <= GOLDEN_TOLERANCE:
        raise WrongWeights(
            f"{setting.task.bundle}: PyTorch's logits are {distance:.1e} off the recorded ones, so the bundle was made "
            "from other weights; give --weights what the export was given"
        )
    answers: NDArray[np.float32] = expected
    return answers


def _prepare(player: Player, setting: Setting, rules: Rules, referee: Worker, expected: NDArray[np.float32]) -> None:
    """Load, compile and warm up, take all memory once, compare the answers. One contestant at a time does this."""
    entry = player.entry
    before = _used_mb(referee)
    wanted = rules.batches_of(player)
    if not wanted:
        entry.error = "none of --batches is among --compile-batches"
        return
    try:
        setting.load(player, rules.within(rules.prepare_seconds))
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
    entry.memory_mb = player.memory_mb() if setting.task.device == "cpu" else _used_mb(referee) - before
    entry.top1_agreement, entry.worst_difference = agreement(expected, answered[1][0])
    firsts = ", ".join(f"{batch}: {seconds:.1f} s" for batch, seconds in entry.first_seconds.items())
    say(f"{entry.title}: loaded in {entry.load_seconds:.1f} s, first calls {firsts}")


def _round(number: int, players: list[Player], rules: Rules) -> None:
    """All contestants at every batch size; each round begins with another contestant."""
    first = number % max(len(players), 1)
    for batch in rules.batches:
        calls = max(-(-rules.calls // rules.rounds) if batch == 1 else 0, MIN_CALLS)
        for player in players[first:] + players[:first]:
            if number and time.monotonic() > rules.end:
                return
            if batch in player.entry.first_seconds:
                limit = 60 + 10 * rules.seconds + 10 * calls * player.entry.first_seconds[batch]
                measured = player.call("measure", [batch, rules.seconds, calls], [], limit)
                if measured is not None:
                    times, device = (np.round(array, 7).tolist() for array in measured[1])
                    player.entry.rounds.setdefault(batch, []).append(Round(times, device))


def _used_mb(referee: Worker) -> float:
    (used,), _ = referee.call("used_mb", [], [], seconds=60)
    return float(used)

"""Engines against each other, in processes of their own that run at once and are called in turn."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.decoding.image_decoding import decode
from app.processes.worker import Worker
from benchmarks.gpu.player import START_SECONDS, Player, say
from benchmarks.gpu.results import Entry, Round, Section, agreement
from benchmarks.server import proportional_mb
from bundle.reader import open_bundle
from model.spec import RESOLUTIONS, variant_named

PREPARE_SECONDS = 600  # compiling the largest network at the largest batch
MIN_CALLS_PER_ROUND = 2


@dataclass(frozen=True)
class Kind:
    """What a contestant is called in tables, the class in benchmarks.cpu.contestants and what that is told."""

    title: str
    factory: str
    values: tuple[str, ...] = ()


REFERENCE = "onnxruntime"  # float32 answers, for the share of the same best classes
KINDS = {
    "eager": Kind("PyTorch eager f32", "PyTorch", ("eager",)),
    "autocast": Kind("PyTorch bf16 autocast", "PyTorch", ("autocast",)),
    "compile": Kind("torch.compile f32", "PyTorch", ("compile",)),
    "onnxruntime": Kind("ONNX Runtime as it comes", "OnnxRuntime"),
    "openvino": Kind("OpenVINO as it comes", "OpenVino"),
    "ours": Kind("this project's engine, precision auto", "Engine", ("auto", "auto")),
    "ours-f32": Kind("this project's engine, f32", "Engine", ("auto", "f32")),
    "ours-int8": Kind("this project's engine, int8", "Engine", ("auto", "int8")),
}


@dataclass(frozen=True)
class Rules:
    """Rounds, and the seconds that each contestant gets in one at each batch size.

    torch.compile gets `compile_batches` of them only: each takes minutes to compile.
    """

    rounds: int
    seconds: float
    batches: Sequence[int]
    compile_batches: Sequence[int]

    def batches_of(self, name: str) -> list[int]:
        return [batch for batch in self.batches if name != "compile" or batch in self.compile_batches]


class EnginePlayer(Player):
    """A contestant's process, made by a class of benchmarks.cpu.contestants."""

    def start(self) -> None:
        factory = f"benchmarks.cpu.contestants:{KINDS[self.entry.contestant].factory}"
        with self._noting("start"):
            self._worker = Worker(self.entry.contestant, factory, seconds=START_SECONDS, keep_environment=True)

    def memory_mb(self) -> float:
        """Resident now: what loading took for a while is not counted."""
        return proportional_mb(self._worker.pid) if self._worker is not None and self._worker.alive else 0.0


def contest(bundle: Path, resolution: int, photos: list[bytes], names: Sequence[str], rules: Rules) -> Section:
    """All that was measured of the contestants called `names` with one bundle at one resolution.

    What fails is written into its entry, and the others go on.
    """
    steps = open_bundle(bundle).manifest.preprocessing[resolution]
    images = np.stack([decode(photo, steps, 1 << 28) for photo in photos])
    section = _section(bundle, resolution, steps.crop, rules)
    players = [EnginePlayer(name) for name in names]
    section.entries += [player.entry for player in players]
    with ExitStack() as stack:
        for player in players:
            stack.callback(player.close)
        with ThreadPoolExecutor(len(players)) as pool:  # importing libraries
            list(pool.map(EnginePlayer.start, players))
        for player in players:
            _prepare(player, [str(bundle), resolution, steps.crop], images, rules.batches_of(player.entry.contestant))
        _compare(players)
        for number in range(rules.rounds):
            _round(number, players, rules)
    return section


def _section(bundle: Path, resolution: int, side: int, rules: Rules) -> Section:
    manifest = open_bundle(bundle).manifest
    gmac = variant_named(manifest.variant).gmacs[RESOLUTIONS.index(resolution)]
    return Section(manifest.variant, resolution, side, gmac, list(rules.batches), manifest.weights.id)


def _prepare(player: EnginePlayer, values: list[Any], images: NDArray[np.uint8], batches: Sequence[int]) -> None:
    """Load, compile and warm up; one contestant at a time does this."""
    entry = player.entry
    started = time.perf_counter()
    loaded = player.call("load", [*KINDS[entry.contestant].values, *values], [images], PREPARE_SECONDS)
    if loaded is not None:
        entry.load_seconds, entry.facts = loaded[0]
    for batch in batches:
        player.prepare(batch, PREPARE_SECONDS)
    if player.plays:
        say(f"{KINDS[entry.contestant].title}: ready after {time.perf_counter() - started:.1f} s")


def _compare(players: list[EnginePlayer]) -> None:
    """How often those that answer from the bundle's weights give the best class that the reference gives."""
    answers: dict[str, NDArray[Any]] = {}
    for player in players:
        if not player.entry.first_seconds:
            continue
        if KINDS[player.entry.contestant].factory != "PyTorch":  # whose weights are random
            answered = player.call("answers", [], [], PREPARE_SECONDS)
            answers |= {player.entry.contestant: answered[1][0]} if answered is not None else {}
        player.entry.memory_mb = player.memory_mb()
    for name, entry in ((player.entry.contestant, player.entry) for player in players):
        if REFERENCE in answers and name in answers:
            entry.top1_agreement, entry.worst_difference = agreement(answers[REFERENCE], answers[name])


def _round(number: int, players: list[EnginePlayer], rules: Rules) -> None:
    """All contestants at every batch size; each round begins with another contestant."""
    first = number % len(players)
    for batch in rules.batches:
        for player in players[first:] + players[:first]:
            if batch in player.entry.first_seconds:
                _measure(player.entry, player, batch, rules)


def _measure(entry: Entry, player: EnginePlayer, batch: int, rules: Rules) -> None:
    limit = 60 + 10 * rules.seconds + 20 * MIN_CALLS_PER_ROUND * entry.first_seconds[batch]
    measured = player.call("measure", [batch, rules.seconds, MIN_CALLS_PER_ROUND], [], limit)
    if measured is not None:
        entry.rounds.setdefault(batch, []).append(Round(np.round(measured[1][0], 6).tolist(), []))

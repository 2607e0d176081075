import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.contest.contestant import Contestant, Images, Logits, Task
from benchmarks.contest.engine_contest import KINDS, ON_GPU, Rules, WrongWeights, profile, run, task_of
from benchmarks.contest.results import Results
from benchmarks.photographs import photographs
from tests.support.reference_network import TINY

PHOTOS = photographs(Path(__file__).parents[3] / "export" / "data" / "photos")[:3]


def rules(batches: list[int], rounds: int = 1) -> Rules:
    return Rules(batches, [1], rounds, seconds=0.01, end=time.monotonic() + 600, reserve=0)


@pytest.fixture(autouse=True)
def contestants_import_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))


def test_engines_are_measured_in_rounds_and_what_is_not_here_says_so(bundle: Path, tiny_weights: Path) -> None:
    task, photos = task_of(bundle, 224, str(tiny_weights), "cpu", PHOTOS)
    results, saves = Results(), []
    run(task, photos, ["onnxruntime", "openvino", "tensorrt-fp16"], rules([1, 2], 2), results, lambda: saves.append(1))
    runtime, openvino, missing = results.entries
    for entry in (runtime, openvino):
        assert (entry.error, entry.agreement) == ("", 1)
        assert entry.worst_difference is not None
        assert entry.worst_difference < 0.1
        assert entry.memory_mb
        assert entry.peak
    assert missing.error.startswith("load: ")
    measured = [(calls.contestant, calls.batch, calls.round) for calls in results.calls]
    assert sorted(measured) == [
        (name, batch, each) for name in ("onnxruntime", "openvino") for batch in (1, 2) for each in (0, 1)
    ]
    assert all(len(calls.seconds) >= 2 and min(calls.seconds) > 0 for calls in results.calls)
    assert len(saves) == 3  # after each round and at the end


@pytest.mark.exhaustive
def test_timms_module_with_the_bundles_weights_gives_the_bundles_logits(bundle: Path, tiny_weights: Path) -> None:
    task, photos = task_of(bundle, 384, str(tiny_weights), "cpu", PHOTOS)
    results = Results()
    run(task, photos, ["eager"], rules([2]), results, lambda: None)
    (eager,) = results.entries
    assert eager.error == ""
    assert eager.worst_difference is not None
    assert eager.worst_difference < 1e-5


@pytest.mark.exhaustive
def test_a_profile_names_operators_and_an_engine_without_one_says_so(bundle: Path, tiny_weights: Path) -> None:
    task, photos = task_of(bundle, 224, str(tiny_weights), "cpu", PHOTOS)
    assert "aten::" in profile(task, photos, "eager", rules([1]))
    assert "has no profile here" in profile(task, photos, "onnxruntime", rules([1]))


@pytest.mark.exhaustive
def test_without_a_compiler_the_contestant_says_what_to_install(
    bundle: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, photos = task_of(bundle, 224, str(tiny_weights), "cpu", PHOTOS)
    monkeypatch.setenv("PATH", "")
    results = Results()
    run(task, photos, ["compile"], rules([1]), results, lambda: None)
    assert "apt install g++" in results.entries[0].error


def test_other_weights_than_the_bundles_are_refused(bundle: Path) -> None:
    with pytest.raises(WrongWeights, match="made from other weights"):
        task_of(bundle, 224, "untrained", "cpu", PHOTOS)


def test_nothing_is_loaded_when_the_time_is_up(bundle: Path, tiny_weights: Path) -> None:
    task, photos = task_of(bundle, 224, str(tiny_weights), "cpu", PHOTOS)
    results = Results()
    run(
        task, photos, ["onnxruntime"], Rules([1], [], 1, 0.01, time.monotonic() + 50, reserve=60), results, lambda: None
    )
    (entry,) = results.entries
    assert entry.error.startswith("load")
    assert results.calls == []


def test_the_logits_of_all_photographs_are_compared_in_the_largest_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Counting(Contestant):
        def _start(self, task: Task, *values: Any) -> str:
            del task, values
            return ""

        def _run(self, images: Images) -> Logits:
            sizes.append(len(images))
            return images[:, 0, 0, :1].astype(np.float32)

    monkeypatch.setattr("os.dup2", lambda *_: None)
    contestant = Counting()
    photos = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(3, axis=3)
    contestant.load(asdict(Task("b", TINY.name, 1, 1, "w", "cpu")), photos)
    for batch in (1, 2):
        contestant.prepare(batch)
    sizes.clear()
    _, (logits,) = contestant.answers()
    assert sizes == [2, 2, 2]
    assert logits[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_contestants_get_the_photographs_in_turn_and_none_is_left_out() -> None:
    from benchmarks.contest.engines import OnnxRuntime

    photos = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(3, axis=3)
    contestant = OnnxRuntime.__new__(OnnxRuntime)
    contestant._photos = photos
    assert [contestant._batch(2, call)[:, 0, 0, 0].tolist() for call in range(3)] == [[0, 1], [2, 3], [4, 0]]


def test_the_contestants_of_a_gpu_are_in_half_precision() -> None:
    assert set(ON_GPU) <= set(KINDS)
    assert {KINDS[name][2][-1] for name in ON_GPU} == {"fp16", "bf16"}

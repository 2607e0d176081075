import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.contest import gpu
from tests.support.reference_network import TINY


def test_a_rehearsal_without_a_gpu_measures_what_can_be_and_says_what_cannot(
    bundle: Path,
    tiny_weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    for number in range(3):
        pixels: NDArray[np.uint8] = rng.integers(0, 256, (260, 300, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.jpg")
    contestants = ["onnxruntime-f32", "onnxruntime-bf16"]
    options = ["--batches", "1", "--rounds", "2", "--seconds", "0", "--calls", "4", "--json", str(tmp_path / "found")]
    places = [str(tmp_path), "--bundles", str(bundle.parent), "--weights", str(tiny_weights.parent)]
    monkeypatch.setenv("PYTHONPATH", "")
    assert gpu.main([*places, "--device", "cpu", "--variants", TINY.name, "--contestants", *contestants, *options]) == 0
    (section,) = json.loads((tmp_path / "found").read_text())["sections"]
    ours, missing = section["entries"]
    assert ours["top1_agreement"] == 1
    assert ours["worst_difference"] < 1e-4
    assert [len(round_["seconds"]) for round_ in ours["rounds"]["1"]] == [2, 2]
    assert missing["error"].startswith("load: onnxruntime does not run in bf16 here")
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| crossvit_tiny |") for line in lines) == 2

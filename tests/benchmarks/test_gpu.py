import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.contestant import PROFILED_CALLS
from benchmarks.gpu.profiles import session_nodes
from benchmarks.gpu.pytorch import own_network
from benchmarks.gpu.results import Entry, Round, Section, agreement, centile, fastest_compiled, header, ratios, row
from model.bicubic import resize
from model.checkpoint import load_network
from tests.support.reference_network import TINY


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.replace("\\|", "").strip("|\n").split("|")]


@pytest.fixture
def section() -> Section:
    """Two contestants over two rounds; one call of each batch takes as many seconds as it says."""
    compiled, ours = Entry("timm-compile-bf16"), Entry("tensorrt-fp16")
    compiled.rounds = {8: [Round([0.4], []), Round([0.8], [])]}
    ours.rounds = {1: [Round([0.1, 0.3], []), Round([0.2], [])], 8: [Round([0.2], [0.1]), Round([0.2], [0.1])]}
    return Section("crossvit_tiny", 224, 224, 1.56, [1, 8], "untrained", 2.0, [0.1, 0.3], [compiled, ours])


def test_a_round_counts_the_images_of_all_its_calls() -> None:
    assert Round([0.5, 0.5, 1.0], []).rate(8) == 12
    assert Round([1.0], []).device_rate(8) is None
    assert Round([1.0], [0.5]).device_rate(8) == 16


def test_the_share_of_the_peak_counts_two_operations_for_each_multiply_accumulate(section: Section) -> None:
    # 40 images/s of 3.12 GFLOP are 0.1248 TFLOP/s, beside a peak of 0.2.
    assert section.share_of_peak(40) == pytest.approx(0.624)


def test_ratios_are_taken_round_by_round_from_the_fastest_compiled_contestant(section: Section) -> None:
    slower = Entry("timm-compile-fp16", rounds={8: [Round([1.0], []), Round([1.0], [])]})
    section.entries.append(slower)
    compiled, ours, _ = section.entries
    assert fastest_compiled(section, 8) is compiled
    assert ratios(section, ours, 8) == [2.0, 4.0]
    assert ratios(section, ours, 1) == []


def test_a_row_has_medians_and_spreads_in_the_header_s_columns(section: Section) -> None:
    found = dict(
        zip(cells(header([1, 8]).splitlines()[0]), cells(row(section, section.entries[1], [1, 8])), strict=True)
    )
    assert found["images/s at batch 8"] == "40.0 (40.0 to 40.0)"
    assert found["times the fastest torch.compile"] == "8: 3.00 (2.00 to 4.00)"
    assert found["on the device alone"] == "8: 80"
    assert found["share of the bf16 peak"] == "62.4 % at 8"
    assert found["p50, p99 ms at batch 1"] == "200.00, 300.00"


def test_what_failed_stands_in_the_row_as_one_line(section: Section) -> None:
    columns = len(cells(header([1, 8]).splitlines()[0]))
    dead = row(section, Entry("tensorrt-bf16", error="load: a | b\nc"), [1, 8])
    assert "load: a \\| b c" in dead
    assert len(cells(dead)) == columns
    section.entries[1].failed = {32: "out of memory"}
    line = row(section, section.entries[1], [1, 8, 32])
    assert "out of memory" in line
    assert len(cells(line)) == columns + 1


@pytest.mark.parametrize(("percent", "value"), [(50, 50), (99, 99), (100, 100), (1, 1)])
def test_a_centile_is_a_value_that_was_seen(percent: int, value: int) -> None:
    assert centile(list(range(100, 0, -1)), percent) == value


def test_agreement_is_the_share_of_the_same_best_classes() -> None:
    expected = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert agreement(expected, np.array([[0.0, 1.5], [0.0, 1.0]])) == (0.5, 1.0)


def test_nodes_on_the_cpu_beside_another_provider_are_named(tmp_path: Path) -> None:
    def node(name: str, operator: str, provider: str, microseconds: int) -> dict[str, object]:
        args = {"op_name": operator, "provider": provider}
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": microseconds, "args": args}

    def call(milliseconds: int) -> list[dict[str, object]]:
        product = node("a", "MatMul", "CUDAExecutionProvider", 9000 * milliseconds)
        return [product, node("b", "Cast", "CPUExecutionProvider", 1000 * milliseconds)]

    events = [*call(50), *(event for _ in range(PROFILED_CALLS) for event in call(1))]
    file = tmp_path / "profile.json"
    file.write_text(json.dumps([{"cat": "Session", "name": "model_run", "dur": 1}, *events]))
    found = session_nodes(file, skipped=1)
    assert found["nodes"] == [("MatMul (CUDAExecutionProvider)", 1, 9.0), ("Cast (CPUExecutionProvider)", 1, 1.0)]
    assert found["nodes_on_cpu"] == ["Cast b"]


@pytest.mark.parametrize("side", [224, 384])
def test_the_module_that_stands_in_for_timm_answers_as_the_network_does(
    tiny_weights: Path, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.crossvit.resize", resize)  # to have it back afterwards
    network = load_network(tiny_weights, TINY)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(images)
        actual = own_network(network, TINY.name, side)(images)
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)


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

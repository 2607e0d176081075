"""The command: runs that end, are killed, go on, and are exported."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from export.to_onnx import main as to_onnx
from model.train import main
from model.training.journal import TRAINING, VALIDATION, read
from tests.model.training import made

RECIPE = ["--variant", "crossvit_tiny", "--side", "64", "--batch", "6", "--epochs", "3", "--clip", "1"]
RECIPE += ["--warmup-epochs", "0.5", "--ema", "0.5", "--lr", "0.0005", "--final-lr", "1e-5"]
WAYS = ["--chunk", "3", "--workers", "0", "--log-steps", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.archive(tmp_path_factory.mktemp("data") / "stripes.zip", each=6)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbs."""
    out = tmp_path_factory.mktemp("whole")
    assert main([str(data), "--validation", str(data), "--out", str(out), *RECIPE, *WAYS]) == 0
    return out


def test_a_run_that_is_killed_again_and_again_has_the_same_curve(data: Path, whole: Path, tmp_path: Path) -> None:
    command = [sys.executable, "model/train.py", str(data), "--validation", str(data), "--out", str(tmp_path)]
    command += [*RECIPE, *WAYS, "--checkpoint-seconds", "0"]
    for rows in (2, 5):
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            while len(read(tmp_path / TRAINING)) < rows and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL, process.stderr
    assert 5 <= len(read(tmp_path / TRAINING)) < 9
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in (TRAINING, VALIDATION):
        curves = [
            [{column: row[column] for column in row if column != "images_per_second"} for row in read(folder / name)]
            for folder in (whole, tmp_path)
        ]
        assert curves[0] == curves[1]
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, tmp_path))
    assert all(torch.equal(one[tensor], other[tensor]) for tensor in one)


def test_two_processes_learn_as_one_does(tmp_path: Path) -> None:
    """Of an image whose views are all alike, two processes with half a step each see what one sees."""
    still = tmp_path / "still"
    for name in made.CLASSES:
        (still / name).mkdir(parents=True)
        made.stripes(1, len(name)).resize((1, 1)).resize((32, 32)).save(still / name / "0.png")
    recipe = [*RECIPE, "--rand-augment", "0", "--erasing", "0", "--mixup", "0", "--cutmix", "0", "--drop-path", "0"]
    losses = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [*launch, "model/train.py", str(still), "--validation", str(still), "--out", str(out), *recipe, *WAYS]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        losses.append([(row["loss"], row["gradient"]) for row in read(out / TRAINING)])
        assert len(read(out / VALIDATION)) == 3
    for one, other in zip(*losses, strict=True):
        assert one == pytest.approx(other, rel=2e-3)


def test_the_exporter_takes_the_weights_with_their_labels(whole: Path, tmp_path: Path) -> None:
    from app.bundle import open_bundle

    weights = str(whole / "model.safetensors")
    out = tmp_path / "bundle"
    assert to_onnx(["--variant", "crossvit_tiny", "--weights", weights, "--resolutions", "224", "--out", str(out)]) == 0
    bundle = open_bundle(out)
    bundle.close()
    assert [(label.wnid, label.label) for label in bundle.labels] == [
        *((None, "lying"), ("n01443537", "goldfish"), (None, "upright")),
    ]


def test_the_same_command_again_has_nothing_left_to_do(data: Path, whole: Path) -> None:
    before = (whole / TRAINING).read_text()
    assert main([str(data), "--validation", str(data), "--out", str(whole), *RECIPE, *WAYS]) == 0
    assert (whole / TRAINING).read_text() == before


def test_another_recipe_does_not_go_on_with_a_run(data: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(data), "--out", str(whole), *RECIPE, "--lr", "0.1", *WAYS]) == 1
    assert "has another run: lr was 0.0005, now 0.1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["nowhere"], 1, "there is no nowhere"),
        (["{data}", "--weights", "nowhere.pth"], 1, "no weights at nowhere.pth"),
        (["{data}", "--weights", "shipped"], 1, "no weights of crossvit_tiny ship with the project"),
        (["{data}", "--preset", "short", "--final-lr", "3"], 2, "final_lr 3 is over lr 0.002"),
        (["{data}", "--side", "100"], 2, "--side: Input should be a multiple of 32"),
    ],
)
def test_bad_input_is_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, message: str
) -> None:
    given = [option.format(data=data) for option in options]
    assert main([*given, "--variant", "crossvit_tiny", "--out", str(tmp_path / "run")]) == code
    assert message in capsys.readouterr().err

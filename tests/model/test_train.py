"""The command: runs that end, are killed, go on, and are exported."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from model.checkpoint import read_tensors
from model.training.artifacts import replacing_file
from model.training.command import Arguments, main
from model.training.run_folder import BadRun, exclusive_folder
from tests.model.training import made
from tests.support.training_log import read_rows
from tests.support.training_targets import run_script, train_until_killed
from tests.support.waiting import wait_until

RECIPE = ["--variant", "crossvit_tiny", "--resolution", "64", "--batch", "6", "--epochs", "3", "--clip-grad", "1"]
RECIPE += ["--warmup-epochs", "0.5", "--ema-decay", "0.5", "--lr", "0.0005", "--min-lr", "1e-5"]
WAYS = ["--micro-batch", "3", "--workers", "0", "--log-steps", "1"]

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["tests.support.training_targets", "torch._dynamo", "torch.utils.tensorboard"])


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
    command = [
        str(data),
        "--validation",
        str(data),
        "--out",
        str(tmp_path),
        *RECIPE,
        *WAYS,
        "--checkpoint-seconds",
        "0",
    ]
    for step in (2, 5):
        process = FORKSERVER.Process(target=train_until_killed, args=(command, step))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert [row["step"] for row in read_rows(tmp_path, "training")] == list(range(1, step + 1))
    assert main(command) == 0
    for kind, count in (("training", 9), ("validation", 3)):
        curves = [
            [
                {column: row[column] for column in row if column != "images_per_second"}
                for row in read_rows(folder, kind)
            ]
            for folder in (whole, tmp_path)
        ]
        assert len(curves[0]) == count
        assert curves[0] == curves[1]
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, tmp_path))
    assert all(torch.equal(one[tensor], other[tensor]) for tensor in one)


def test_two_processes_learn_as_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of images whose views are all alike, two processes with half a step each see what one sees."""
    for number in range(6):
        folder = tmp_path / "plain" / made.CLASSES[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (40 * number, 255 - 40 * number, 20 * number)).save(folder / f"{number}.png")
    data, recipe = str(tmp_path / "plain"), [*RECIPE, "--repeats", "1", "--rand-augment", "0", "--random-erasing", "0"]
    recipe += ["--mixup", "0", "--cutmix", "0", "--drop-path", "0"]
    recipe += ["--validation", data, *WAYS, "--micro-batch", "2"]
    alone, shared = tmp_path / "1", tmp_path / "2"
    assert main([data, "--out", str(alone), *recipe]) == 0
    torchruns = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="forkserver",
        max_restarts=0,
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    codes = elastic_launch(torchruns, run_script)(data, "--out", str(shared), *recipe)
    for number, handler in handlers.items():  # the launcher leaves its own
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)
    assert codes == {0: 0, 1: 0}
    assert len(read_rows(shared, "validation")) == 3
    losses = [[(row["loss"], row["grad_norm"]) for row in read_rows(out, "training")] for out in (alone, shared)]
    for one, other in zip(*losses, strict=True):
        assert one == pytest.approx(other, rel=2e-3)


def test_the_same_command_again_has_nothing_left_to_do_and_says_so(
    data: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_rows(whole, "training")
    assert main([str(data), "--validation", str(data), "--out", str(whole), *RECIPE, *WAYS]) == 0
    assert read_rows(whole, "training") == before
    assert f"{whole}: this run is finished: all of its 9 steps are done" in capsys.readouterr().err.replace("\n", " ")


def test_ctrl_c_leaves_a_checkpoint_of_the_last_whole_step(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "model/train.py", str(data), "--validation", str(data), "--out", str(tmp_path / "run")]
    process = subprocess.Popen([*command, *RECIPE, *WAYS, "--epochs", "300"], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: (tmp_path / "run" / "model.safetensors").is_file(), 300)  # after an epoch
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopping after this step, with a checkpoint" in said
    assert "error: interrupted; the same command resumes from the last checkpoint" in said
    steps = read_rows(tmp_path / "run", "training")[-1]["step"]
    assert torch.load(tmp_path / "run" / "checkpoint.pt")["step"] == steps


def test_a_typo_is_refused_before_pytorch_is_imported() -> None:
    code = (
        "import sys; from model.training.command import main; "
        "code = main(['data', '--out', 'run', '--variant', 'crossvit_8']); "
        "sys.exit(3 if 'torch' in sys.modules else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--variant" in done.stderr


def test_the_checkpoint_of_a_run_holds_the_weights_that_it_keeps(whole: Path) -> None:
    kept, held = (read_tensors(whole / name) for name in ("model.safetensors", "checkpoint.pt"))
    assert kept.keys() == held.keys()
    assert all(np.array_equal(kept[name], held[name]) for name in kept)


def test_another_recipe_does_not_go_on_with_a_run(data: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(data), "--out", str(whole), *RECIPE, "--lr", "0.1", *WAYS]) == 1
    assert "has another run: lr was 0.0005, now 0.1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["nowhere"], 1, "there is no nowhere"),
        (["{data}", "--batch", "6", "--weights", "nowhere.pth"], 1, "no weights at nowhere.pth"),
        (["{data}", "--batch", "6", "--weights", "shipped"], 1, "no weights of crossvit_tiny ship with the project"),
        (["{data}", "--preset", "short", "--min-lr", "3"], 2, "min_lr 3 is higher than lr 0.002"),
        (["{data}", "--epochs", "10"], 2, "warmup_epochs 30 must be fewer than the 10 epochs"),
        (["{data}"], 1, "a batch of 4096 is more than the 18 images"),
        (["{data}", "--batch", "6", "--device", "cuda"], 1, "PyTorch finds no GPU"),
        (["{data}", "--epochs", "inf"], 2, "--epochs is not a finite number"),
        (["{data}", "--seed", "9" * 20], 2, "--seed is not under"),
        (["{data}", "--resolution", "100"], 2, "--resolution is not a multiple of 32"),
    ],
)
def test_bad_input_is_named(
    data: Path,
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    message: str,
) -> None:
    given = [option.format(data=data, whole=whole) for option in options]
    assert main([*given, "--variant", "crossvit_tiny", "--out", str(tmp_path / "run")]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_images_that_do_not_fit_into_memory_are_a_clear_error(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(data), "--out", str(tmp_path), *RECIPE, "--in-memory", "100000000"]) == 1
    assert "error: --in-memory 100000000: 18 images do not fit into memory (" in capsys.readouterr().err


def test_other_classes_at_another_resolution_in_memory_and_in_bfloat16(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, category in (("left", 0), ("right", 2)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for seed in range(4):
            made.stripes(category, seed).save(tmp_path / "data" / name / f"{seed}.png")
    recipe = ["--variant", "crossvit_tiny", "--preset", "transfer", "--resolution", "96", "--batch", "4"]
    recipe += ["--epochs", "1", "--warmup-epochs", "0", "--lr", "0.001"]
    options = ["--weights", str(whole / "model.safetensors"), "--in-memory", "32", "--bf16", "--half"]
    assert main([str(tmp_path / "data"), "--out", str(tmp_path / "run"), *recipe, *options]) == 0
    assert "2 classes (left, right), from" in capsys.readouterr().err
    tensors = load_file(tmp_path / "run" / "model.safetensors")
    assert tensors["head.0.weight"].shape[0] == 2
    assert tensors["pos_embed.1"].shape[1] == 1 + 6 * 6
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}


def test_the_environment_does_not_set_options_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEED", "BATCH", "WEIGHTS"):
        monkeypatch.setenv(name, "7")
    runs: list[Arguments] = []
    monkeypatch.setattr("model.training.training_run.train", runs.append)
    assert (
        main(["data", "a,b", "yet", "--variant", "crossvit_tiny", "--out", "run", "--validation", "a,b", "--no-half"])
        == 0
    )
    (given,) = runs
    assert (given.seed, given.batch, given.weights, given.half) == (0, 4096, "none", False)
    assert given.data == [Path("data"), Path("a,b"), Path("yet")]
    assert given.validation == [Path("a"), Path("b")]


@pytest.mark.parametrize("options", [[], ["--log-steps", "100", "--checkpoint-seconds", "0"]])
def test_a_run_that_diverges_ends_and_keeps_nothing_of_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    recipe = [*RECIPE, "--optimizer", "sgd", "--clip-grad", "0", "--lr", "1e9"]
    assert main([str(data), "--out", str(tmp_path), *recipe, *WAYS, *options]) == 1
    assert "train in another folder, with a lower --lr" in capsys.readouterr().err
    for name in ("model.safetensors", "checkpoint.pt"):
        if (tmp_path / name).exists():
            tensors = torch.load(tmp_path / name)["network"] if name.endswith(".pt") else load_file(tmp_path / name)
            assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_two_runs_do_not_share_a_folder(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with exclusive_folder(tmp_path):
        assert main([str(data), "--out", str(tmp_path), *RECIPE, *WAYS]) == 1
    assert "another process trains in" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([str(data), "--out", str(tmp_path / "file"), *RECIPE, *WAYS]) == 1
    assert "is not a folder" in capsys.readouterr().err


def test_a_killed_runs_readers_do_not_keep_its_folder(tmp_path: Path) -> None:
    def free() -> bool:
        try:
            with exclusive_folder(tmp_path):
                return True
        except BadRun:
            return False

    with exclusive_folder(tmp_path):
        reader = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which DataLoader does too
            reader.start()
    try:
        wait_until(free)  # once the new process has let go
        assert reader.is_alive()
    finally:
        reader.kill()
        reader.join()


@pytest.mark.parametrize("name", ["checkpoint.pt", "model.safetensors", "model.labels.json"])
def test_files_of_others_in_a_run_folder_stay(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).write_bytes(b"mine")
    assert main([str(data), "--out", str(tmp_path), *RECIPE, *WAYS]) == 1
    assert f"{name} is of no run that model.recipe.json describes" in capsys.readouterr().err
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(name, b"mine")]


@pytest.mark.parametrize("name", [b"caf\xe9", b"cat "])
def test_a_class_must_be_a_label(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: bytes) -> None:
    data = made.folder(tmp_path / "data", each=2)
    (data / "lying").rename(data / os.fsdecode(name))
    assert main([str(data), "--out", str(tmp_path / "run"), *RECIPE, *WAYS]) == 1
    assert "cannot be a label" in capsys.readouterr().err


def test_a_run_without_a_checkpoint_begins_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = made.folder(tmp_path / "data", each=2), tmp_path / "run"
    made.stripes(0, 8).save(data / "lying" / os.fsdecode(b"caf\xe9.png"))
    broken = data / "lying" / "broken.png"
    broken.write_bytes(b"no image")
    recipe = [*RECIPE, "--batch", "3", "--epochs", "1", "--warmup-epochs", "0", "--repeats", "1"]
    assert main([str(data), "--out", str(out), *recipe, *WAYS, "--seed", "1"]) == 1
    assert "the bytes are not a JPEG, PNG" in capsys.readouterr().err
    made.stripes(0, 9).save(broken)
    assert main([str(data), "--out", str(out), *recipe, *WAYS, "--lr", "0.001"]) == 0


def test_a_full_disk_is_a_clear_error_and_leaves_no_partial_file(tmp_path: Path) -> None:
    def full(path: Path) -> None:
        path.write_bytes(b"half of it")
        raise RuntimeError("unexpected pos 72955968 vs 72955856")  # torch.save's, of a real one

    with (
        pytest.raises(OSError, match=r"checkpoint.pt cannot be written: unexpected pos"),
        replacing_file(tmp_path / "checkpoint.pt") as beside,
    ):
        full(beside)
    assert list(tmp_path.iterdir()) == []

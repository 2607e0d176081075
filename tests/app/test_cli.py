import csv
import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from io import StringIO
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner, Result

from app.cli import main
from app.configuration.settings import Settings
from app.main import create_app
from bundle.installation import install_command
from tests.support.pictures import encoded, scene
from tests.support.waiting import wait_until

PHOTO = str(next((Path(__file__).parents[2] / "export" / "data" / "photos").glob("*.jpg")))


def crossvit(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def in_process(*arguments: object) -> Result:
    return CliRunner(env={"CROSSVIT_ENGINE": "onnxruntime"}).invoke(main, [*map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, one of them in a sub-folder, a broken one and a file that is none."""
    (tmp_path / "images" / "more").mkdir(parents=True)
    (tmp_path / "images" / "a.png").write_bytes(encoded(scene(100, 80, 1)))
    (tmp_path / "images" / "b.jpg").write_bytes(b"\xff\xd8\xff broken")
    (tmp_path / "images" / "more" / "c.JPEG").write_bytes(encoded(scene(80, 100, 2), "JPEG"))
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def test_json_lines_of_a_folder_with_a_broken_file(bundle: Path, folder: Path) -> None:
    done = crossvit("classify", folder, "--bundle", bundle, "--top-k", 2, "--format", "jsonl")
    assert done.returncode == 1
    a, b, c = map(json.loads, done.stdout.splitlines())
    assert [Path(line["path"]).name for line in (a, b, c)] == ["a.png", "b.jpg", "c.JPEG"]
    assert b["error"] == "the JPEG image is incomplete: it ends before its pixels"
    assert [prediction["rank"] for prediction in a["predictions"]] == [1, 2]
    assert a["predictions"] != c["predictions"]


def test_csv(bundle: Path, folder: Path) -> None:
    done = in_process("classify", folder, "--bundle", bundle, "--top-k", 1, "--format", "csv")
    rows = list(csv.DictReader(StringIO(done.stdout)))
    assert [(Path(row["path"]).name, row["rank"], bool(row["error"])) for row in rows] == [
        ("a.png", "1", False),
        ("b.jpg", "", True),
        ("c.JPEG", "1", False),
    ]
    assert 0 < float(rows[0]["score"]) < 1


def test_the_table_and_good_files_alone_end_well(bundle: Path, folder: Path) -> None:
    done = in_process("classify", folder / "a.png", folder / "more", "--bundle", bundle, "--top-k", 1)
    assert done.exit_code == 0
    assert "a.png" in done.stdout
    assert "c.JPEG" in done.stdout


def test_files_that_are_named_are_tried_whatever_their_suffix(bundle: Path, folder: Path) -> None:
    done = in_process("classify", folder / "notes.txt", folder / "nowhere.png", "--bundle", bundle, "--format", "jsonl")
    assert [json.loads(line)["error"] for line in done.stdout.splitlines()] == [
        "the bytes are not a JPEG, PNG, WebP, GIF, BMP, AVIF or ICO image",
        "No such file or directory",
    ]


def test_the_server_and_the_command_line_agree(bundle: Path, folder: Path) -> None:
    image = folder / "a.png"
    with TestClient(create_app(Settings(bundle=bundle, engine="onnxruntime", decoders=1))) as server:
        wait_until(lambda: server.get("/readyz").status_code == 200)
        answer = server.post("/classify", files={"file": image.read_bytes()}).json()["predictions"]
    (line,) = in_process("classify", image, "--bundle", bundle, "--format", "jsonl").stdout.splitlines()
    assert [row["index"] for row in json.loads(line)["predictions"]] == [row["index"] for row in answer]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["classify", PHOTO, "--bundle", "/nowhere"], "no bundle at /nowhere"),
        (["classify", PHOTO, "--resolution", "225"], "resolution 225 is not served; one of 224, 384, 480"),
    ],
)
def test_errors_are_a_sentence(bundle: Path, arguments: list[str], message: str) -> None:
    done = in_process(*arguments, *([] if "--bundle" in arguments else ["--bundle", bundle]))
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (["-m", "app", "nope"], "No such command 'nope'."),
        (["-m", "app", "classify", "--nope"], "No such option: --nope"),
        (["-m", "app", "serve", "--port"], "Option '--port' requires an argument."),
        (["-m", "app", "bench", "--seconds", "[red]"], "Invalid value for '--seconds'"),
        (["export/to_trt.py", "--nope"], "No such option: --nope"),
        (["export/to_triton.py"], "Missing option '--variant'."),
    ],
)
def test_arguments_that_cannot_be_are_a_sentence_and_exit_code_2(program: list[str], message: str) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, *program], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


def test_without_a_command_the_commands_are_listed() -> None:
    done = crossvit()
    assert done.returncode == 2
    assert "List the networks, and the bundles of them" in done.stdout


def test_a_folder_without_images_is_an_error(bundle: Path, tmp_path: Path) -> None:
    done = in_process("classify", tmp_path, "--bundle", bundle)
    assert (done.exit_code, done.stderr) == (1, "error: no image files there\n")
    (tmp_path / "a.HEIC").write_bytes(b"")
    done = in_process("classify", tmp_path, "--bundle", bundle)
    assert done.stderr == "error: no image files there: 1 of .heic cannot be read, convert them to JPEG or PNG\n"


def test_paths_that_are_not_there_are_an_error_before_an_engine_is_loaded(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.serving.offline_model.offline", lambda *_: pytest.fail("an engine was loaded"))
    paths = [str(tmp_path / "no-such-folder/"), str(tmp_path / "*.png")]
    done = CliRunner().invoke(main, ["classify", *paths, "--bundle", str(bundle)])
    assert done.exit_code == 1
    assert f"error: {paths[0]}, {paths[1]}: no such file" in done.output


def test_a_pipe_or_device_is_an_error_and_the_other_files_are_classified(bundle: Path, folder: Path) -> None:
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    named = [folder / "pipe.jpg", folder / "zero.jpg", folder / "more"]
    done = in_process("classify", *named, folder, "--bundle", bundle, "--format", "jsonl")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line.get("error") for line in lines[:3]] == [
        "it is a pipe, not a file",
        "it is a device, not a file",
        None,
    ]
    assert [Path(line["path"]).name for line in lines[3:]] == ["a.png", "b.jpg", "c.JPEG"]


def test_models_lists_networks_and_bundles_within_80_columns(bundle: Path) -> None:
    done = in_process("models", "--folder", bundle.parent)
    assert "crossvit_18_dagger_384" in done.stdout
    table, _, bundles = done.stdout.partition("└")
    assert max(map(len, table.splitlines())) <= 80
    (row,) = (line for line in table.splitlines() if "crossvit_tiny" in line)
    assert "7.01 M" in row
    assert "crossvit_tiny: crossvit_tiny, 1000 classes, f32, weights sha256:" in bundles


def test_the_version_is_told() -> None:
    assert crossvit("--version").stdout == f"crossvit {version('crossvit')}\n"


@pytest.mark.parametrize("command", ["serve", "classify", "bench", "evaluate", "models", "train"])
def test_help_names_kinds_of_values_in_one_way(command: str) -> None:
    shown = in_process(command, "--help").stdout if command != "train" else crossvit(command, "--help").stdout
    assert not re.search(r"<(list|int|float|path|str)\b|<\w+\|", shown)
    assert max(len(line) for line in shown.splitlines() if "|" not in line) <= 80


def test_export_hands_its_arguments_on() -> None:
    assert "unknown variant 'vit'" in crossvit("export", "--variant", "vit").stderr


@pytest.mark.parametrize("command", ["export", "train"])
def test_a_package_that_is_not_installed_is_named(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bundle.installation.find_spec", lambda name: None if name == "torch" else name)
    done = CliRunner().invoke(main, [command, "--help"])
    assert done.exit_code == 1
    said = " ".join(done.output.split())  # it may be wrapped
    assert f"error: this command needs torch, not installed here: {install_command(command)}" in said


def test_serve_explains_its_settings() -> None:
    help_text = crossvit("serve", "--help").stdout
    assert "CROSSVIT_MAX_BATCH" in help_text
    assert "--max-body-bytes NUMBER" in help_text
    assert "--api-keys KEY,..." in help_text
    assert "--admin-port NUMBER" in help_text
    assert not [word for word in ("SecretStr", "None}", "list[") if word in help_text]


def test_odd_file_names_are_shown_as_they_are(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "x[").mkdir()
    for name in (b"a[bold]b.png", b"x[/foo].png", b"caf\xe9.png"):
        (tmp_path / os.fsdecode(name)).write_bytes(encoded(scene(64, 64)))
    for output in ("table", "csv"):
        done = in_process("classify", tmp_path, "--bundle", bundle, "--top-k", 1, "--format", output)
        assert done.exit_code == 0, done.stderr
        assert "a[bold]b.png" in done.stdout
        assert "x[/foo].png" in done.stdout
        assert "caf\\udce9.png" in done.stdout

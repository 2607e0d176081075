"""`crossvit serve SOURCE`: real services; the program that makes bundles is a stand-in, but in one test."""

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from bundle.cached_source import cached_source
from bundle.pulled_bundles import pulled_folder
from tests.support.changed_bundles import change_source
from tests.support.pictures import JPEG
from tests.support.servers import StartServer
from tests.support.stand_in_pull import StandInPull, stand_in_for_pull
from tests.support.waiting import wait_until

ENGINE = ("--engine", "onnxruntime", "--precision", "f32")


@pytest.fixture
def pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path) -> StandInPull:
    return stand_in_for_pull(tmp_path, monkeypatch, bundle)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Two names of classes lie beside it."""
    path = tmp_path / "finetuned.pth"
    path.write_bytes(b"weights")
    (tmp_path / "classes.txt").write_text("rose\ntulip\n")
    return path


def models(url: str) -> dict[str, dict[str, object]]:
    return {model["name"]: model for model in httpx.get(f"{url}/models", timeout=60).json()["models"]}


def test_a_name_is_made_into_a_bundle_and_served_and_found_at_the_next_start(
    pull: StandInPull, start_server: StartServer
) -> None:
    for _ in range(2):
        server = start_server("crossvit_9_dagger", *ENGINE)
        server.wait_until_ready()
        assert models(server.url).keys() == {"crossvit_9_dagger"}
        wait_until(lambda: "try it: " in server.log_text())  # noqa: B023
        command = re.search(r"try it: (curl .*?classify)", server.log_text())
        assert command is not None
        picture = Path(server.log.parent) / "PHOTO.jpg"  # type: ignore[union-attr]
        picture.write_bytes(JPEG)
        done = subprocess.run(command[1].split(), cwd=picture.parent, capture_output=True, text=True, check=True)
        assert '"predictions":' in done.stdout
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
    assert len(pull.calls) == 1


def test_a_checkpoint_is_made_into_a_bundle_without_a_stand_in(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_server: StartServer
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    weights = shutil.copy(tiny_weights, tmp_path / "mine.safetensors")
    (tmp_path / "names.txt").write_text("".join(f"class {index}\n" for index in range(1000)))
    for makes in (True, False):
        server = start_server(str(weights), "--labels", str(tmp_path / "names.txt"), *ENGINE)
        server.wait_until_ready(600)  # busy cores take minutes to compare precisions
        assert ("mine: making the bundle of" in server.log_text()) is makes
        answer = httpx.post(f"{server.url}/classify", content=JPEG, headers={"Content-Type": "image/jpeg"}, timeout=60)
        assert answer.json()["model"]["name"] == "mine"
        assert answer.json()["predictions"][0]["label"].startswith("class ")
        server.process.terminate()
        assert server.process.wait(30) == 0


def test_several_sources_are_several_models_and_the_first_is_the_default(
    pull: StandInPull, bundle: Path, checkpoint: Path, start_server: StartServer
) -> None:
    options = ("--labels", str(checkpoint.with_name("classes.txt")), "--instances", "2", *ENGINE)
    server = start_server(str(checkpoint), str(bundle), *options)
    server.wait_until_ready()
    served = models(server.url)
    assert [name for name, model in served.items() if model["default"]] == ["finetuned"]
    assert served.keys() == {"finetuned", bundle.name}
    (call,) = pull.calls  # of the parent; the instances find what it made
    assert call.startswith(f"{checkpoint} --if-changed --labels {checkpoint.with_name('classes.txt')}")


def test_a_changed_bundle_is_read_again_with_sighup(
    pull: StandInPull, start_server: StartServer, checkpoint: Path
) -> None:
    server = start_server(str(checkpoint), *ENGINE)
    server.wait_until_ready()
    change_source(pulled_folder(cached_source(str(checkpoint))), "trained further")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: models(server.url)["finetuned"]["weights_source"] == "trained further")
    assert len(pull.calls) == 1


def test_ctrl_c_ends_what_is_being_made(pull: StandInPull, start_server: StartServer) -> None:
    pull.does("hangs")
    server = start_server("crossvit_9_dagger")
    wait_until(lambda: len(pull.calls) == 1, 60)
    children = psutil.Process(server.pid).children()
    began = time.monotonic()
    server.process.send_signal(signal.SIGINT)
    server.process.wait(20)
    assert time.monotonic() - began < 5
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("crossvit_18_dager", "the nearest: crossvit_18_dagger"),
        ("/nowhere/finetuned.pth", "error: there is no /nowhere/finetuned.pth"),
        ("crossvit_18_dagger", "error: crossvit_18_dagger cannot be served: no bundle of it could be made"),
    ],
)
def test_a_source_that_cannot_be_served_is_an_error(pull: StandInPull, source: str, message: str) -> None:
    pull.does("fails")
    command = [sys.executable, "-m", "app", "serve", source]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_eight_bits_are_made_while_it_serves(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_server: StartServer
) -> None:
    """The stand-in's second bundle has another source instead: making 8 bits takes minutes."""

    def second() -> Path:
        copy = Path(shutil.copytree(bundle, tmp_path / "second" / "b"))
        change_source(copy, "with 8 bits")
        return copy

    pull = stand_in_for_pull(tmp_path, monkeypatch, bundle, second)
    server = start_server("crossvit_9_dagger", "--quantize", "int8", *ENGINE)
    server.wait_until_ready()
    wait_until(lambda: models(server.url)["crossvit_9_dagger"]["weights_source"] == "with 8 bits", 60)
    first, second_call = (call.partition(" ")[2] for call in pull.calls)
    assert first == "--if-changed nice 0"
    assert second_call.startswith("--if-changed --quantize int8 --only-weights sha256:")
    assert second_call.endswith(" nice 19")
    assert "crossvit_9_dagger: the graph in 8 bits is being made in the background" in server.log_text()


def test_a_failure_to_make_eight_bits_is_logged_and_the_model_goes_on(
    pull: StandInPull, start_server: StartServer
) -> None:
    server = start_server("crossvit_9_dagger", *ENGINE)
    server.wait_until_ready()
    server.process.terminate()
    server.process.wait(30)
    pull.does("fails")
    server = start_server("crossvit_9_dagger", "--quantize", "int8", *ENGINE)
    server.wait_until_ready()
    wait_until(lambda: "could not be made: error: the hub is away" in server.log_text(), 120)  # nice 19
    answer = httpx.post(f"{server.url}/classify", content=JPEG, headers={"Content-Type": "image/jpeg"}, timeout=60)
    assert answer.status_code == 200
    assert models(server.url)["crossvit_9_dagger"]["quantizing"] is False


def test_a_pulled_bundle_is_found_by_its_name(pull: StandInPull, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(JPEG)
    classify = ["classify", str(tmp_path / "photo.jpg"), "--bundle", "crossvit_9_dagger", "--format", "jsonl"]

    def crossvit(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "app", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)

    before = crossvit(*classify)
    assert (before.returncode, before.stdout) == (2, "")
    assert "none of that name was pulled; crossvit pull crossvit_9_dagger makes one" in before.stderr
    assert crossvit("pull", "crossvit_9_dagger").returncode == 0
    assert '"predictions"' in crossvit(*classify).stdout
    assert "crossvit_9_dagger: crossvit_tiny, 1000 classes, f32, weights sha256:" in crossvit("models").stdout
    assert len(pull.calls) == 1

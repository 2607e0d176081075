"""docs/training.md's example at small size: other images, fine-tuned, exported, served."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from export.to_onnx import main as to_onnx
from tests.support.servers import crossvit_serve

CROSSVIT = str(Path(sys.executable).with_name("crossvit"))


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_shipped_weights_learn_digits_and_serve_them(tmp_path: Path) -> None:
    data, out, bundle = tmp_path / "digits", tmp_path / "run", tmp_path / "bundle"
    run(sys.executable, "docs/examples/digits.py", str(data), "--only", "0", "1", "--each", "30")
    recipe = ["--preset", "short", "--optimizer", "adamw", "--epochs", "4", "--batch", "12", "--lr", "0.0005"]
    recipe += ["--ema-decay", "0", "--warmup-epochs", "0.5", "--micro-batch", "12", "--workers", "0"]
    recipe += ["--resolution", "64"]  # small, to be quick
    options = ["--variant", "crossvit_9_dagger", "--weights", "shipped", "--out", str(out)]
    run(CROSSVIT, "train", str(data / "train"), "--validation", str(data / "validation"), *options, *recipe)
    options = ["--variant", "crossvit_9_dagger", "--weights", str(out / "model.safetensors"), "--out", str(bundle)]
    assert to_onnx([*options, "--resolutions", "64", "--preprocess", "64:78/68"]) == 0
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["classes"] == 2
    assert manifest["preprocessing"] == {"64": {"resize": 78, "crop": 68}}
    images = sorted((data / "validation").rglob("*.png"))
    assert len(images) == 12
    right = 0
    with crossvit_serve(tmp_path / "log", "--bundle", str(bundle), "--engine", "onnxruntime") as server:
        server.wait_until_ready()
        for image in images:
            predictions = httpx.post(f"{server.url}/classify", files={"file": image.read_bytes()}).json()["predictions"]
            assert {prediction["label"] for prediction in predictions} == {"digit 0", "digit 1"}
            assert {prediction["wnid"] for prediction in predictions} == {None}
            assert sum(prediction["score"] for prediction in predictions) == pytest.approx(1)
            right += predictions[0]["label"] == image.parent.name
    assert right >= 11

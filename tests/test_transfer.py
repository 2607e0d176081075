"""docs/training.md's example at small size: other images, fine-tuned, exported, served."""

import subprocess
import sys
from pathlib import Path

import httpx

from tests.conftest import running

CROSSVIT = str(Path(sys.executable).with_name("crossvit"))


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_shipped_weights_learn_digits_and_serve_them(tmp_path: Path) -> None:
    data, out, bundle = tmp_path / "digits", tmp_path / "run", tmp_path / "bundle"
    run(sys.executable, "docs/examples/digits.py", str(data), "--only", "0", "1", "--each", "30")
    recipe = ["--preset", "short", "--optimizer", "adamw", "--epochs", "3", "--batch", "12", "--lr", "0.0005"]
    recipe += ["--ema-decay", "0", "--warmup-epochs", "0.5", "--micro-batch", "12", "--workers", "0"]
    options = ["--variant", "crossvit_9_dagger", "--weights", "shipped", "--out", str(out)]
    run(CROSSVIT, "train", str(data / "train"), "--validation", str(data / "validation"), *options, *recipe)
    weights = ["--variant", "crossvit_9_dagger", "--weights", str(out / "model.safetensors")]
    run(CROSSVIT, "export", *weights, "--resolutions", "224", "--out", str(bundle))
    images = sorted((data / "validation").rglob("*.png"))
    assert len(images) == 12
    right = 0
    with running(tmp_path / "log", "--bundle", str(bundle)) as server:
        server.wait_until_ready()
        for image in images:
            answer = httpx.post(f"{server.url}/classify", content=image.read_bytes(), headers=BYTES).json()
            best = answer["predictions"][0]
            assert len(answer["predictions"]) == 2
            right += best["label"] == image.parent.name
    assert right >= 11


BYTES = {"Content-Type": "application/octet-stream"}

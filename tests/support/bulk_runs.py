"""A bulk run in a process of its own, on a folder of photographs of which some are broken."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.pictures import encoded, scene


def make_photos(folder: Path, files: int, broken: int) -> None:
    """Write `files` images into `folder`/photos; the first `broken` of them are cut off."""
    (folder / "photos").mkdir()
    images = [encoded(scene(120, 90, seed), "JPEG") for seed in range(6)]
    for number in range(files):
        content = images[number % 6][: 300 if number < broken else None]
        (folder / "photos" / f"{number:03}.jpg").write_bytes(content)


def start_bulk(folder: Path, bundle: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    """Start `crossvit bulk photos` in `folder`, in parts of ten images."""
    engine = {"CROSSVIT_BUNDLE": str(bundle), "CROSSVIT_ENGINE": "onnxruntime", "CROSSVIT_PRECISION": "f32"}
    command = [sys.executable, "-m", "app", "bulk", "photos", "--part-size", "10", *options]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | engine | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )

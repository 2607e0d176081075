"""Agreements with float32 that were measured nowhere."""

import json
import shutil
from pathlib import Path
from typing import Any

from bundle.agreement import Agreement

GOOD = Agreement(
    images=200,
    photographs=10,
    top1=0.99,
    clear=0.9,
    worst=0.1,
    scale=3.5,
    distance=0.02,
    score_distance=0.004,
    loss=0.0001,
    loss_limit=0.0002,
)


def agreement(**changes: Any) -> Agreement:
    """One that is good enough by itself, but for `changes`."""
    return Agreement(**GOOD.model_dump() | changes)


def with_8_bits(bundle: Path, folder: Path) -> Path:
    """A copy of `bundle` whose graph in 8 bits is float32's own, and is said to have been compared at 224."""
    shutil.copytree(bundle, folder)
    shutil.copyfile(folder / "model.onnx", folder / "model.int8.onnx")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["model.int8.onnx"] = manifest["files"]["model.onnx"]
    manifest["agreement"] = {"int8": {"224": GOOD.model_dump()}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder

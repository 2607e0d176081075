import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from app.bundle import open_bundle
from app.errors import BadBundle


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "b"))


def test_an_exported_bundle_opens(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert opened.name == "crossvit_tiny"
    assert opened.resolutions == [224, 384, 480]
    assert opened.warning is None
    assert opened.labels[281].label == "tabby"
    assert opened.hash.startswith("sha256:")


def test_no_bundle_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BadBundle, match=r"no bundle at .*python export/to_onnx.py --variant"):
        open_bundle(tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "labels.json"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_file_that_the_manifest_does_not_describe_is_refused(copied: Path, name: str, damage: str) -> None:
    if damage == "missing":
        (copied / name).unlink()
    else:
        with (copied / name).open("r+b") as file:
            file.write(b"?")
    with pytest.raises(BadBundle, match=f"{name} is not the file that the manifest describes"):
        open_bundle(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format: Input should be 1"),
        ({"variant": "vit"}, "unknown variant 'vit'; one of crossvit_tiny"),
        ({"weights": {"id": "md5:1", "source": ""}}, r"weights\.id"),
        ({"classes": 999}, "does not name the model's 999 classes"),
        ({"default_resolution": 225}, "no preprocessing for the default resolution"),
        ({"preprocessing": {"224": {"resize": 0, "crop": 0}}}, "64 <= crop <= resize <= 4096"),
        ({"input": "pixels"}, "input: Input should be 'image'"),
        ({"outputs": ["logits"]}, r"outputs\.1: Field required"),
        ({"preprocessing": {"224": {"resize": 256}}}, r"preprocessing\.224\.crop: Field required"),
    ],
)
def test_what_the_manifest_says_is_checked(copied: Path, change: dict[str, Any], message: str) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(BadBundle, match=message):
        open_bundle(copied)


def test_a_manifest_that_is_no_json_is_refused(copied: Path) -> None:
    (copied / "manifest.json").write_text("{")
    with pytest.raises(BadBundle, match="the file: Invalid JSON"):
        open_bundle(copied)


def test_a_graph_that_is_replaced_after_opening_is_refused(copied: Path) -> None:
    opened = open_bundle(copied)
    assert opened.graph() == (copied / "model.onnx").read_bytes()
    (copied / "model.onnx").write_bytes(b"another one")
    with pytest.raises(BadBundle, match="has been replaced while it was served; restart"):
        opened.graph()

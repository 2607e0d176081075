"""A manifest of made-up values, as it is written and as it is read."""

import json
from pathlib import Path
from typing import Any

import pytest

from bundle.bundle_errors import BadBundle
from bundle.manifest import (
    HalfPrecision,
    Manifest,
    Parity,
    Photographs,
    Quantization,
    WeightsInfo,
    parse_manifest,
    read_manifest_head,
    write_manifest,
)
from bundle.tensors import OUTPUTS
from model.spec import Preprocessing
from tests.support.agreements import GOOD

SHA256 = "0" * 64
PHOTOGRAPHS = Photographs(source="shipped", sha256=SHA256)
MANIFEST = Manifest(
    format=3,
    variant="crossvit_tiny",
    input="image",
    outputs=OUTPUTS,
    preprocessing={224: Preprocessing(256, 224)},
    weights=WeightsInfo(id="untrained", source="random initial weights", resolution=224, sides=(240, 224)),
    classes=1000,
    default_resolution=224,
    built_with={"torch": "2.13.0"},
    files={"model.onnx": SHA256, "labels.json": SHA256, "golden.npz": SHA256},
    parity=Parity(reference="PyTorch", engine="onnxruntime", batches=(1, 3), tolerance=1e-5, worst={224: 3e-6}),
    inspection=Parity(reference="autograd", engine="onnxruntime", batches=(1, 3), tolerance=1e-5, worst={224: 2e-6}),
    measured_on=PHOTOGRAPHS,
    precisions={"fp16": HalfPrecision(engine="onnxruntime", agreement={224: GOOD})},
    agreement={"int8": {224: GOOD}},
    quantization=Quantization(
        made_by="nncf",
        measured_by="openvino",
        photographs=PHOTOGRAPHS,
        views={224: 24},
        smooth_quant_alpha=0.3,
        kept_in_float32=("cross-attention",),
    ),
)


def written(folder: Path, manifest: Manifest) -> dict[str, Any]:
    write_manifest(folder, manifest)
    return dict(json.loads((folder / "manifest.json").read_text()))


def test_the_manifest_on_disk_has_the_keys_of_the_documentation_in_the_usual_order(tmp_path: Path) -> None:
    content = written(tmp_path, MANIFEST)
    assert " ".join(content) == (
        "format variant input outputs mean std activation preprocessing weights classes default_resolution built_with "
        "files parity inspection measured_on precisions agreement quantization"
    )
    assert content["weights"] == {
        "id": "untrained",
        "source": "random initial weights",
        "resolution": 224,
        "sides": [240, 224],
        "caution": None,
    }
    assert content["preprocessing"] == {"224": {"resize": 256, "crop": 224}}
    assert content["parity"]["worst"] == {"224": 3e-6}
    measured = GOOD.model_dump()
    assert " ".join(measured) == "images photographs top1 clear worst scale distance score_distance loss loss_limit"
    assert content["measured_on"] == content["quantization"]["photographs"] == {"source": "shipped", "sha256": SHA256}
    assert content["precisions"] == {"fp16": {"engine": "onnxruntime", "agreement": {"224": measured}}}
    assert content["agreement"] == {"int8": {"224": measured}}
    assert (tmp_path / "manifest.json").read_bytes().endswith(b"}\n")


def test_a_written_manifest_is_read_unchanged(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANIFEST)
    path = tmp_path / "manifest.json"
    assert parse_manifest(path.read_bytes(), path) == MANIFEST


def test_a_bundle_without_an_8_bit_graph_has_no_key_for_it(tmp_path: Path) -> None:
    content = written(tmp_path, MANIFEST.model_copy(update={"quantization": None, "agreement": {}, "precisions": {}}))
    assert "quantization" not in content
    assert (content["agreement"], content["precisions"]) == ({}, {})


@pytest.mark.parametrize("key", ["built_with", "parity", "inspection", "measured_on", "quantization"])
def test_a_reader_ignores_an_invalid_value_that_is_for_people(tmp_path: Path, key: str) -> None:
    content = written(tmp_path, MANIFEST) | {key: [1]}
    manifest = parse_manifest(json.dumps(content).encode(), tmp_path)
    assert manifest.model_dump()[key] is None
    assert manifest.agreement == MANIFEST.agreement


@pytest.mark.parametrize("missing", ["model.onnx", "labels.json", "golden.npz"])
def test_a_manifest_that_lacks_a_file_is_refused(tmp_path: Path, missing: str) -> None:
    content = written(tmp_path, MANIFEST)
    del content["files"][missing]
    with pytest.raises(BadBundle, match=f"files lacks {missing}; export the bundle again"):
        parse_manifest(json.dumps(content).encode(), tmp_path)


def test_the_head_is_read_whatever_the_format(tmp_path: Path) -> None:
    content = {"format": 1, "variant": "crossvit_9", "weights": {"id": "untrained", "source": "random"}, "files": 3}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    head = read_manifest_head(tmp_path)
    assert head is not None
    assert (head.format, head.variant) == (1, "crossvit_9")
    assert head.weights is not None
    assert head.weights.id == "untrained"
    (tmp_path / "manifest.json").write_text("[]")
    assert read_manifest_head(tmp_path) is None
    assert read_manifest_head(tmp_path / "nowhere") is None

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest

from bundle.bundle_errors import BadBundle
from export.plans.build_spec import Unable
from export.plans.plan_source import read_source
from tests.support.reference_network import TINY


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "b"))


def test_at_a_resolution_only_the_batch_is_open(bundle: Path) -> None:
    source = read_source(bundle, TINY.name)
    assert sorted(source.preprocessing) == [224, 384, 480]
    model = source.at(384, "fp16")
    assert [str(size) for size in model.graph.inputs[0].shape or ()] == ["batch", "384", "384", "3"]
    assert onnx_ir.DataType.FLOAT16 in {value.dtype for node in model.graph for value in node.outputs}
    assert {value.dtype for value in model.graph.outputs} == {onnx_ir.DataType.FLOAT}


def test_in_float32_nothing_is_narrowed(bundle: Path) -> None:
    model = read_source(bundle, TINY.name).at(224, "f32")
    dtypes = {value.dtype for node in model.graph for value in node.outputs}
    assert onnx_ir.DataType.FLOAT in dtypes
    assert onnx_ir.DataType.FLOAT16 not in dtypes


def changed(manifest: dict[str, Any], **changes: Any) -> str:
    return json.dumps(manifest | changes)


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], str], str]] = {
    "no JSON": (lambda _: "{", r"is not a bundle: manifest.json is missing or broken; export it again: python export/"),
    "another format": (lambda manifest: changed(manifest, format=1), "has format 1, not 3; export it again"),
    "another network": (
        lambda manifest: changed(manifest, variant="crossvit_9"),
        "is of crossvit_9, not crossvit_tiny; choose another --bundle or --variant",
    ),
    "no files": (lambda manifest: changed(manifest, files={}), "files lacks golden.npz, .*; export it again"),
    "odd preprocessing": (
        lambda manifest: changed(manifest, preprocessing=[1]),
        "preprocessing is not an object; export it again",
    ),
    "odd weights": (lambda manifest: changed(manifest, weights=None), "weights is not an object; export it again"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_manifest_or_another_networks_is_refused(copy: Path, damage: str) -> None:
    change, message = DAMAGES[damage]
    manifest = copy / "manifest.json"
    manifest.write_text(change(json.loads(manifest.read_text())))
    with pytest.raises(BadBundle, match=message):
        read_source(copy, TINY.name)


def test_a_graph_that_the_manifest_does_not_describe_is_refused(copy: Path) -> None:
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BadBundle, match=r"model\.onnx is not the file that the manifest describes; export it again"):
        read_source(copy, TINY.name)
    (copy / "model.onnx").unlink()
    with pytest.raises(BadBundle, match=r"model\.onnx is not the file that the manifest describes; export it again"):
        read_source(copy, TINY.name)


def test_a_weight_beyond_half_precision_is_refused(bundle: Path) -> None:
    source = read_source(bundle, TINY.name)
    model = onnx.load_from_string(source.graph)
    weights = next(weights for weights in model.graph.initializer if weights.dims == [4 * TINY.dims[1], TINY.dims[1]])
    values = onnx.numpy_helper.to_array(weights)
    weights.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1e6), weights.name))
    wild = dataclasses.replace(source, graph=model.SerializeToString())
    with pytest.raises(Unable, match=r"no graph can be made for 224 in fp16: .* use bf16 or float32"):
        wild.at(224, "fp16")


def test_a_bundle_that_was_replaced_meanwhile_is_noticed(copy: Path) -> None:
    source = read_source(copy, TINY.name)
    source.check_unchanged()
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "model.onnx").write_bytes(b"another")
    manifest["files"]["model.onnx"] = hashlib.sha256(b"another").hexdigest()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Unable, match="has been replaced meanwhile"):
        source.check_unchanged()

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from app.machine.cpus import has_dot_products
from bundle.installation import NotInstalled
from export.graphs.quantization_recipe import require_quantization
from export.measurement.onnx_sessions import openvino_session
from export.measurement.photos import SHIPPED, photographs, views
from model.spec import Preprocessing

SIDES = (224, 408)


SCRIPT = """
import socket, sys
from pathlib import Path
def refuse(*_): raise AssertionError("a connection")
socket.socket.connect = refuse
import onnx_ir as ir
from export.measurement.photos import SHIPPED, crops, photographs
from export.graphs.quantize import quantize_graph
from model.spec import Preprocessing
photos = crops(Preprocessing(256, 224), 12, photographs(SHIPPED))
ir.save(quantize_graph(Path(sys.argv[1]), [view[None] for view in photos]), sys.argv[2])
import nncf.telemetry.wrapper as wrapper
assert wrapper.telemetry is not None and not isinstance(wrapper.telemetry, wrapper.NNCFTelemetry)
"""


@pytest.fixture(scope="module")
def int8(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph in 8 bits, made by a process that cannot connect to anything; alone in what was its home."""
    home = tmp_path_factory.mktemp("home")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(bundle / "model.onnx"), str(home / "model.int8.onnx")],
        env={"HOME": str(home), "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return home / "model.int8.onnx"


def test_the_graph_is_smaller_valid_and_takes_any_batch_and_side(bundle: Path, int8: Path) -> None:
    onnx.checker.check_model(int8, full_check=True)
    assert int8.stat().st_size < 0.5 * (bundle / "model.onnx").stat().st_size
    shape = onnx.load(int8).graph.input[0].type.tensor_type.shape.dim
    assert [dimension.dim_param or dimension.dim_value for dimension in shape] == ["batch", "side", "side", 3]


@pytest.mark.parametrize("side", SIDES)
def test_openvino_gives_nearly_the_logits_of_float32_at_every_side(bundle: Path, int8: Path, side: int) -> None:
    images = views(Preprocessing(side, side), 2, photographs(SHIPPED))
    expected, actual = (openvino_session(graph)(images) for graph in (bundle / "model.onnx", int8))
    distance = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
    # 8 bits, and not more of them, nor fewer. Without instructions for 8 bits sums of products saturate at 16 bits.
    assert 1e-3 < distance < (0.03 if has_dot_products() else 0.1)


def test_what_8_bits_would_spoil_stays_in_float32(int8: Path) -> None:
    model = ir.load(int8)
    names = [str(value.name) for node in model.graph if node.op_type == "Gemm" for value in node.inputs if value]
    assert len([name for name in names if name.startswith("network.head.") and name.endswith("weight")]) == 2
    products = [node for node in model.graph if node.op_type in ("MatMul", "Gemm")]
    for node in products:
        assert [_is_dequantized(value) for value in node.inputs[:2]] in ([True, True], [False, False])
    convolutions = [node for node in model.graph if node.op_type == "Conv"]
    assert len(convolutions) == 2
    assert not any(_is_dequantized(value) for node in convolutions for value in node.inputs)
    blocks = 3 * (1 + 4)  # of crossvit_tiny
    weights = [value for node in products if (value := node.inputs[1]) is not None and _is_dequantized(value)]
    of_weights = [value for value in weights if not _comes_from_images(value)]
    assert len(of_weights) == 5 * blocks  # queries, keys, values, and both of the MLP; not the projection of attention


def _comes_from_images(value: ir.Value) -> bool:
    """Whether it is computed from the input, as keys are, and not from weights alone."""
    producer = value.producer()
    inputs = [] if producer is None else [found for found in producer.inputs if found is not None]
    return value.is_graph_input() or any(_comes_from_images(found) for found in inputs)


def _is_dequantized(value: ir.Value | None) -> bool:
    producer = value.producer() if value is not None else None
    while producer is not None and producer.op_type in ("Transpose", "Reshape"):
        producer = producer.predecessors()[0] if producer.predecessors() else None
    return producer is not None and producer.op_type == "DequantizeLinear"


def test_activations_with_a_non_zero_zero_point_are_uint8(int8: Path) -> None:
    model = onnx.load(int8)
    constants = {value.name: numpy_helper.to_array(value) for value in model.graph.initializer}
    zeros = [constants[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert any(zero.dtype == np.uint8 and zero.any() for zero in zeros)
    assert not any(zero.dtype == np.int8 and zero.any() for zero in zeros)


def test_nncf_sends_and_writes_nothing(int8: Path) -> None:
    assert [path.name for path in int8.parent.iterdir()] == [int8.name]  # which was its home


@pytest.mark.parametrize("missing", ["nncf", "openvino"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr("bundle.installation.find_spec", lambda name: None if name == missing else object())
    with pytest.raises(NotInstalled, match=rf"int8 needs {missing}, not installed here: .*pip install .*quantize"):
        require_quantization()

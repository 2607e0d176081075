from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from export.graphs.fixed_side import fix_side
from tests.support import reference_network

SIDES = (224, 240, 480)


@cache
def static(bundle: Path, side: int) -> ir.Model:
    """The graph at `side`, which nobody may change."""
    model = ir.load(bundle / "model.onnx")
    fix_side(model, side)
    return model


def answers(graph: bytes, side: int) -> np.ndarray:
    return np.stack(onnxruntime.InferenceSession(graph).run(None, {"image": reference_network.images(side)}))


@pytest.mark.parametrize("side", SIDES)
def test_a_graph_at_one_side_answers_as_the_dynamic_one(bundle: Path, side: int) -> None:
    graph = ir.to_proto(static(bundle, side)).SerializeToString()
    expected = answers((bundle / "model.onnx").read_bytes(), side)
    np.testing.assert_allclose(answers(graph, side), expected, atol=1e-5)


@pytest.mark.parametrize("side", SIDES)
def test_nothing_but_the_batch_stays_open(bundle: Path, side: int) -> None:
    model = static(bundle, side)
    for node in model.graph:
        assert node.op_type not in {"Shape", "Range", "Expand", "Resize", "If", "Loop", "Where", "Identity", "Constant"}
        for value in node.outputs:
            assert value.shape is not None
            assert sum(not isinstance(size, int) for size in value.shape) == 1, value
            assert value.dtype == (ir.DataType.FLOAT), value


def test_an_image_of_the_branchs_side_is_not_resized(bundle: Path) -> None:
    def products(side: int) -> int:
        return sum(node.op_type == "MatMul" for node in static(bundle, side).graph)

    # At 224 branch L takes the image as it is, at 240 branch S, at 250 neither; each resize is two products.
    assert products(224) == products(240) == products(250) - 2


def test_constants_are_there_once(bundle: Path) -> None:
    weights = static(bundle, 224).graph.initializers.values()
    contents = [value.const_value.tobytes() for value in weights if value.const_value is not None]
    assert len(contents) == len(weights)
    shapes = [str(value.shape) for value in weights]
    assert len(set(zip(contents, shapes, strict=True))) == len(weights)

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import external_data_helper

from bundle.inspection import CLASSES, INSPECTION_OUTPUTS
from bundle.tensors import INPUT, OUTPUTS
from tests.support.reference_network import images

CHOSEN = np.array([[281, 0], [5, 999], [7, 7]])


def initializers(graph: Path) -> dict[str, onnx.TensorProto]:
    model = onnx.load(graph, load_external_data=False)
    return {tensor.name: tensor for tensor in model.graph.initializer}


def is_elsewhere(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def test_the_inspection_graph_is_valid_beside_the_served_one_and_small(bundle: Path) -> None:
    onnx.checker.check_model(bundle / "inspection.onnx", full_check=True)
    sizes = [(bundle / name).stat().st_size for name in ("inspection.onnx", "model.onnx")]
    assert sizes[0] < 0.03 * sizes[1]
    graph = onnx.load(bundle / "inspection.onnx", load_external_data=False).graph
    assert [value.name for value in graph.input] == [INPUT, CLASSES]
    assert tuple(value.name for value in graph.output) == INSPECTION_OUTPUTS


def test_no_weight_is_stored_twice(bundle: Path) -> None:
    content = (bundle / "model.onnx").read_bytes()
    held = initializers(bundle / "inspection.onnx")
    assert sum(map(is_elsewhere, held.values())) > 150
    own = [tensor for tensor in held.values() if not is_elsewhere(tensor)]
    assert [tensor.name for tensor in own if len(tensor.raw_data) >= 256 and tensor.raw_data in content] == []


def test_a_weight_that_is_elsewhere_is_the_one_of_the_served_graph(bundle: Path) -> None:
    content, served = (bundle / "model.onnx").read_bytes(), initializers(bundle / "model.onnx")
    for name, tensor in initializers(bundle / "inspection.onnx").items():
        if is_elsewhere(tensor) and name.startswith("network."):
            place = external_data_helper.ExternalDataInfo(tensor)
            assert place.location == "model.onnx"
            assert place.offset is not None
            assert place.length == 4 * np.prod(tensor.dims)
            assert content[place.offset : place.offset + place.length] == served[name].raw_data


@pytest.mark.parametrize("loaded", ["from its file", "from memory"])
def test_the_inspection_graph_gives_the_logits_of_the_served_one(bundle: Path, loaded: str) -> None:
    served = onnxruntime.InferenceSession(bundle / "model.onnx").run(list(OUTPUTS), {INPUT: images(224)})
    options = onnxruntime.SessionOptions()
    if loaded == "from memory":  # as a service loads it, since the folder may be replaced meanwhile
        weights = (bundle / "model.onnx").read_bytes()
        options.add_external_initializers_from_files_in_memory(["model.onnx"], [weights], [len(weights)])
        session = onnxruntime.InferenceSession((bundle / "inspection.onnx").read_bytes(), options)
    else:
        session = onnxruntime.InferenceSession(bundle / "inspection.onnx", options)
    outputs = session.run(list(INSPECTION_OUTPUTS), {INPUT: images(224), CLASSES: CHOSEN})
    np.testing.assert_allclose(np.stack(outputs[:3]), np.stack(served), atol=1e-5, rtol=0)
    shapes = [output.shape for output in outputs[3:]]
    assert shapes == [(3, 96), (3, 192), (3, 20, 20), (3, 14, 14), (3, 2, 20, 20), (3, 2, 14, 14)]

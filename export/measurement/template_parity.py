"""The proof of a graph template: filled with weights made by a rule, it gives PyTorch's recorded logits."""

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from export.graphs.graph_template import fill_template
from export.graphs.rule_made import rule_made_images, rule_made_parameter
from export.graphs.shipped_templates import RECORDED_CLASSES
from export.measurement.golden_images import BATCHES
from export.measurement.onnx_sessions import onnxruntime_session
from model.parameter_shapes import parameter_shapes
from model.spec import IMAGENET, Variant, patch_grids

Recorded = Mapping[int, NDArray[np.float32]]


def rule_made_graph(template: onnx.ModelProto, variant: Variant, trained_resolution: int) -> onnx.ModelProto:
    """The `template` of `variant` with rule-made weights, and position embeddings of `trained_resolution`."""
    shapes = parameter_shapes(variant, RECORDED_CLASSES, patch_grids(trained_resolution))
    return fill_template(template, {name: rule_made_parameter(name, shape) for name, shape in shapes.items()}, IMAGENET)


def recorded_differences(graph: onnx.ModelProto, recorded: Recorded, sides: Iterable[int]) -> dict[int, float]:
    """The largest difference of any logit of ONNX Runtime from the `recorded` ones, by side."""
    run = onnxruntime_session(graph.SerializeToString())
    worst = {}
    for side in sides:
        images = rule_made_images(side)
        differences = [np.abs(run(images[:size]) - recorded[side][:, :size]).max() for size in BATCHES]
        worst[side] = float(max(differences))
    return worst

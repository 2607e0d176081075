from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

from bundle.tensors import OUTPUTS
from export.graphs.graph_template import fill_template
from export.graphs.inspected_network import Inspected
from export.graphs.rule_made import rule_made_images
from export.graphs.served_graph import make_inspection_template, make_template
from export.graphs.served_network import Served
from export.measurement.inspection_parity import inspection_difference
from model.crossvit import CrossViT
from model.spec import IMAGENET, NORMALIZATIONS
from tests.support.reference_network import TINY


def test_pixels_are_normalised_with_the_statistics_that_are_asked_for() -> None:
    network = CrossViT(TINY, classes=3, resolution=64).eval()
    pixels = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        logits, _, _ = Served(network, NORMALIZATIONS["inception"])(pixels)
        expected = network((pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
        assert not torch.allclose(Served(network)(pixels)[0], expected, atol=1e-4)


def test_sides_that_follow_from_no_image_side_are_constants_of_the_template(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(TINY, dims=(24, 48), depth=1)  # with one encoder: a graph of few nodes takes half the time
    monkeypatch.setattr("model.crossvit.ENCODERS", 1)
    network = CrossViT(small, classes=3, grids=(30, 21)).eval()
    parameters = {name: value.numpy() for name, value in network.state_dict().items()}
    graph = fill_template(make_template(small, network.sides), parameters, IMAGENET).SerializeToString()
    pixels = rule_made_images(336)
    with torch.inference_mode():
        expected = torch.stack(Served(network)(torch.from_numpy(pixels))).numpy()
    actual = onnxruntime.InferenceSession(graph).run(list(OUTPUTS), {"image": pixels})
    np.testing.assert_allclose(np.stack(actual), expected, atol=1e-5, rtol=0)
    inspection = fill_template(make_inspection_template(small, network.sides), parameters, IMAGENET)
    assert inspection_difference(Inspected(network), pixels, inspection.SerializeToString(), 1e-5) < 1e-5

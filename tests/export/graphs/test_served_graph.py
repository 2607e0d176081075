import torch

from export.graphs.served_network import Served
from model.crossvit import CrossViT
from model.spec import NORMALIZATIONS
from tests.support.reference_network import TINY


def test_pixels_are_normalised_with_the_statistics_that_are_asked_for() -> None:
    network = CrossViT(TINY, classes=3, resolution=64).eval()
    pixels = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        logits, _, _ = Served(network, NORMALIZATIONS["inception"])(pixels)
        expected = network((pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
        assert not torch.allclose(Served(network)(pixels)[0], expected, atol=1e-4)

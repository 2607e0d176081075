import numpy as np
import pytest

from export.graphs.shipped_templates import NETWORKS, SIDES, TRAINED_RESOLUTIONS, recorded_logits
from export.ship_templates import pytorch_logits
from model.spec import VARIANTS
from tests.support.reference_network import TINY

EVERY_NETWORK = [TINY.name, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in NETWORKS[1:])]


@pytest.mark.parametrize("network", EVERY_NETWORK)
@pytest.mark.parametrize("trained", TRAINED_RESOLUTIONS)
def test_pytorch_gives_the_logits_that_were_recorded(network: str, trained: int) -> None:
    recorded, now = recorded_logits(network, trained), pytorch_logits(VARIANTS[network], trained)
    for side in SIDES:
        assert recorded[side].std() > 0.1
        np.testing.assert_allclose(now[side], recorded[side], atol=1e-5, rtol=0)

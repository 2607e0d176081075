import copy

import pytest
import torch

from benchmarks.cpu.network import WithKeysAndValues, as_timm
from model.bicubic import resize
from model.crossvit import CrossViT
from tests.conftest import TINY


def test_the_network_written_as_timm_s_is_answers_as_this_project_s_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.crossvit.resize", resize)  # to have it back afterwards
    network = CrossViT(TINY).eval()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(images)
        peer = as_timm(copy.deepcopy(network))
        actual = peer(images)
    assert sum(isinstance(module, WithKeysAndValues) for module in peer.modules()) == 6
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)

import copy

import pytest
import torch
from torch import nn

import model.crossvit
from benchmarks.cpu.network import WithKeysAndValues, as_timm
from model.bicubic import resize
from model.crossvit import CrossAttention


def test_the_network_written_as_timm_s_is_answers_as_this_project_s_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.crossvit.resize", resize)  # to have it back afterwards
    fusion = nn.Sequential(CrossAttention(96, 3)).eval()
    peer = as_timm(copy.deepcopy(fusion))
    assert isinstance(peer[0], WithKeysAndValues)
    tokens, maps = torch.randn(2, 20, 96), torch.randn(2, 3, 24, 24)
    with torch.inference_mode():
        torch.testing.assert_close(peer(tokens), fusion(tokens), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        model.crossvit.resize(maps, 20),  # type: ignore[attr-defined]
        resize(maps, 20),
        rtol=0,
        atol=1e-5,
    )

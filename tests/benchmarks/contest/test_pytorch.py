import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.contest.contestant import Task
from benchmarks.contest.pytorch import Pixels, PyTorch, own_network, peer_network
from model.checkpoint import load_network
from tests.support.reference_network import TINY


@pytest.mark.parametrize("side", [224, 384])
def test_the_module_that_stands_in_for_timm_answers_as_the_network_does(tiny_weights: Path, side: int) -> None:
    network = load_network(tiny_weights, TINY)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(images)
        actual = own_network(network, TINY.name, side)(images)
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)


def test_half_precision_is_close_to_float32(tiny_weights: Path) -> None:
    network = load_network(tiny_weights, TINY)
    images = torch.randint(0, 256, (2, 224, 224, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.inference_mode():
        expected, actual = (
            Pixels(own_network(network, TINY.name, 224).eval(), dtype)(images)
            for dtype in (torch.float32, torch.bfloat16)
        )
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=0, atol=0.05 * float(expected.abs().max()))


def test_the_network_that_is_asked_for_is_this_project_s_and_has_the_bundle_s_weights(tiny_weights: Path) -> None:
    network = load_network(tiny_weights, TINY)
    there, facts = peer_network(network, TINY.name, 224, source="module")
    assert facts == {"source": "this project's module"}
    assert torch.equal(there.state_dict()["head.0.weight"], network.state_dict()["head.0.weight"])


def test_without_a_compiler_the_contestant_says_what_to_install(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr("os.dup2", lambda *_: None)
    task = Task("bundle", TINY.name, 224, 224, str(tiny_weights), "cpu")
    with pytest.raises(RuntimeError, match=r"apt install g\+\+"):
        PyTorch().load(asdict(task), "module", "compile", "f32", np.empty((1, 224, 224, 3), np.uint8))

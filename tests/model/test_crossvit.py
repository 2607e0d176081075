from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from model.crossvit import CrossViT
from model.spec import IMAGENET_MEAN, IMAGENET_STD, RESOLUTIONS, VARIANTS, Variant, branch_sides, patch_grids
from tests.support import reference_network

REFERENCES = ("crossvit_tiny", "crossvit_9_dagger", "crossvit_18_dagger")


@cache
def filled(name: str) -> CrossViT:
    network = CrossViT(VARIANTS[name])
    network.load_state_dict(reference_network.tensors(VARIANTS[name]))
    return network.eval()


def normalised(side: int, dtype: torch.dtype) -> torch.Tensor:
    images = torch.from_numpy(reference_network.images(side)).permute(0, 3, 1, 2).to(dtype) / 255
    mean, std = (torch.tensor(values, dtype=dtype).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


@pytest.mark.parametrize(
    ("name", "side", "dtype", "tolerance"),
    [
        *((name, side, torch.float32, 1e-5) for name in REFERENCES[:2] for side in reference_network.SIDES),
        (REFERENCES[0], 224, torch.float64, 1e-9),
        (REFERENCES[2], 224, torch.float64, 1e-9),
        *(
            pytest.param(*more, marks=pytest.mark.exhaustive)
            for more in [
                *((REFERENCES[0], side, torch.float64, 1e-9) for side in reference_network.SIDES[1:]),
                (REFERENCES[1], 408, torch.float64, 1e-9),
                (REFERENCES[2], 480, torch.float32, 1e-5),
            ]
        ),
    ],
)
def test_logits_are_the_public_implementations(name: str, side: int, dtype: torch.dtype, tolerance: float) -> None:
    golden = np.load(reference_network.GOLDEN / f"{name}.npz")
    network = filled(name).to(dtype)
    with torch.inference_mode():
        small, large = network.forward_branches(normalised(side, dtype))
    for actual, key in ((small, "small"), (large, "large"), ((small + large) / 2, "logits")):
        np.testing.assert_allclose(actual.double(), golden[f"{key}_{side}"], atol=tolerance, rtol=0)


def test_the_answer_is_the_mean_of_the_branches() -> None:
    network = filled("crossvit_tiny").float()
    images = normalised(224, torch.float32)
    with torch.inference_mode():
        small, large = network.forward_branches(images)
        assert torch.equal(network(images), (small + large) / 2)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=lambda variant: variant.name)
def test_parameter_count_is_the_published_one(variant: Variant) -> None:
    with torch.device("meta"):
        network = CrossViT(variant)
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 2) == pytest.approx(
        variant.million_params, abs=0.011
    )


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=lambda variant: variant.name)
@pytest.mark.parametrize(
    "resolution",
    [RESOLUTIONS[0], *(pytest.param(larger, marks=pytest.mark.exhaustive) for larger in RESOLUTIONS[1:])],
)
def test_multiplications_are_the_published_ones_less_the_exact_savings(variant: Variant, resolution: int) -> None:
    with torch.device("meta"), torch.no_grad():
        network = CrossViT(variant)
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, resolution, resolution))
    gmacs = counter.get_total_flops() / 2e9 - _resizing(variant, resolution)
    published = variant.gmacs[RESOLUTIONS.index(resolution)]
    assert 0.92 * published < gmacs < 1.01 * published


def _resizing(variant: Variant, resolution: int) -> float:
    """GMACs of the two matrix products in every bicubic resize, which published counts leave out."""
    native, grids = patch_grids(variant.resolution), patch_grids(resolution)
    images = [(3, resolution, side) for side in branch_sides(resolution)]
    positions = zip(variant.dims, native, grids, strict=True)
    return sum(maps * before * after * (before + after) for maps, before, after in (*images, *positions)) / 1e9


def test_any_number_of_classes() -> None:
    assert CrossViT(VARIANTS["crossvit_tiny"], classes=7)(torch.zeros(1, 3, 224, 224)).shape == (1, 7)


def test_position_embeddings_of_384_are_interpolated_to_224_but_for_cls() -> None:
    variant = VARIANTS["crossvit_tiny"]
    large = reference_network.tensors(variant, resolution=384)
    assert [tuple(large[f"pos_embed.{branch}"].shape) for branch in (0, 1)] == [(1, 1157, 96), (1, 577, 192)]
    small = dict(large)
    for name, before, after in (("pos_embed.0", 34, 20), ("pos_embed.1", 24, 14)):
        grid = large[name][:, 1:].transpose(1, 2).unflatten(-1, (before, before))
        resized = F.interpolate(grid, size=(after, after), mode="bicubic", align_corners=False, antialias=False)
        small[name] = torch.cat((large[name][:, :1], resized.flatten(2).transpose(1, 2)), dim=1)
    logits = []
    for tensors, resolution in ((large, 384), (small, 224)):
        network = CrossViT(variant, resolution=resolution)
        network.load_state_dict(tensors)
        with torch.inference_mode():
            logits.append(network.eval()(normalised(224, torch.float32)))
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=0)


def test_gradients_reach_every_parameter_but_the_key_biases() -> None:
    network = CrossViT(VARIANTS["crossvit_tiny"], classes=3)
    network(torch.randn(2, 3, 224, 224)).sum().backward()
    unreached = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert unreached == {f"blocks.{k}.fusion.{branch}.attn.wk.bias" for k in range(3) for branch in range(2)}


@pytest.mark.parametrize(("grids", "sides"), [((40, 28), (480, 448)), ((30, 21), (360, 336)), ((5, 4), (60, 64))])
def test_a_network_sees_images_at_the_sides_it_was_trained_at(grids: tuple[int, int], sides: tuple[int, int]) -> None:
    network = CrossViT(VARIANTS["crossvit_tiny"], classes=2, grids=grids)
    assert network.sides == sides
    assert network.branch_sides(sides[1]) == sides
    assert network(torch.zeros(1, 3, max(sides), max(sides))).shape == (1, 2)


def test_sides_that_follow_from_no_image_side_are_those_of_every_image() -> None:
    network = CrossViT(VARIANTS["crossvit_tiny"], classes=2, grids=(30, 21))
    assert network.branch_sides(224) == (360, 336)

import subprocess
import sys

import pytest

from model.spec import (
    VARIANTS,
    Normalization,
    Preprocessing,
    branch_sides,
    follow_from_one_side,
    patch_grids,
    preprocessing_at,
    variant_named,
)


@pytest.mark.parametrize(
    ("side", "expected"),
    [(224, (240, 224)), (240, (240, 224)), (384, (408, 384)), (408, (408, 384)), (480, (504, 480)), (504, (504, 480))],
)
def test_branch_sides_are_the_papers(side: int, expected: tuple[int, int]) -> None:
    assert branch_sides(side) == expected


def test_token_counts_are_the_papers() -> None:
    assert [tuple(1 + grid**2 for grid in patch_grids(side)) for side in (224, 384, 480)] == [
        (401, 197),
        (1157, 577),
        (1765, 901),
    ]


def test_hub_repositories_are_named_by_the_small_side() -> None:
    assert VARIANTS["crossvit_9"].hub_repo == "timm/crossvit_9_240.in1k"
    assert VARIANTS["crossvit_18_dagger_384"].hub_repo == "timm/crossvit_18_dagger_408.in1k"


def test_only_dagger_variants_have_the_convolutional_stem() -> None:
    assert {variant.name for variant in VARIANTS.values() if variant.dagger} == {
        "crossvit_9_dagger",
        "crossvit_15_dagger",
        "crossvit_18_dagger",
        "crossvit_15_dagger_384",
        "crossvit_18_dagger_384",
    }


def test_an_unknown_variant_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown variant 'vit'; one of crossvit_tiny, .*crossvit_18_dagger_384"):
        variant_named("vit")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("crossvit_9_dagger_240", "crossvit_9_dagger"),
        ("crossvit_tiny_240.in1k", "crossvit_tiny"),
        ("timm/crossvit_9_240.in1k", "crossvit_9"),
        ("hf_hub:timm/crossvit_15_dagger_408.in1k", "crossvit_15_dagger_384"),
        ("crossvit_18_dagger_408", "crossvit_18_dagger_384"),
        ("crossvit_18_dagger_224.pth", "crossvit_18_dagger"),
        ("weights/crossvit_18_dagger_384.pth", "crossvit_18_dagger_384"),
        (" CrossViT-15-Dagger ", "crossvit_15_dagger"),
        ("CrossViT-9†", "crossvit_9_dagger"),
    ],
)
def test_variants_have_timms_and_ibms_names_too(given: str, name: str) -> None:
    assert variant_named(given).name == name


def test_timms_name_of_each_variant_is_understood() -> None:
    assert all(variant_named(variant.hub_repo) is variant for variant in VARIANTS.values())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("crossvit_9_480", "no weights of crossvit_9 at 480; for a checkpoint that was fine-tuned at that size give"),
        ("crossvit9_dagger", "the nearest: crossvit_9_dagger and"),
        ("crossvit_18_dagger_384_240", "the nearest: crossvit_18_dagger_384"),
        ("", "one of crossvit_tiny"),
    ],
)
def test_a_name_that_is_near_one_is_refused_with_what_to_write(given: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        variant_named(given)


def test_timms_480_is_the_resolution_448_here() -> None:
    assert follow_from_one_side(480, 448)
    assert not follow_from_one_side(360, 336)


def test_as_much_of_the_image_counts_at_a_size_as_at_the_papers_next_smaller_one() -> None:
    assert preprocessing_at(224) == Preprocessing(256, 224)
    assert preprocessing_at(64) == Preprocessing(73, 64)
    assert preprocessing_at(448) == Preprocessing(448, 448)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "divide them by 255"),
        ((0.5, 0.5, 0.5), (0.5, 0.0, 0.5), "must lie between"),
        ((-0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "must lie between"),
        ((float("nan"), 0.5, 0.5), (0.5, 0.5, 0.5), "must lie between"),
        ((float("inf"), 0.5, 0.5), (0.5, 0.5, 0.5), "must lie between"),
    ],
)
def test_statistics_that_cannot_be_of_pixels_are_refused(
    mean: tuple[float, float, float], std: tuple[float, float, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Normalization(mean, std)


@pytest.mark.parametrize("module", ["model.spec", "app.main", "app.cli"])
def test_import_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(any(name in sys.modules for name in ('torch', 'onnx', 'export')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

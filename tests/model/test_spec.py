import subprocess
import sys

import pytest

from model.spec import VARIANTS, branch_sides, patch_grids, variant_named


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


@pytest.mark.parametrize("module", ["model.spec", "app.main", "app.cli"])
def test_import_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(any(name in sys.modules for name in ('torch', 'onnx', 'export')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

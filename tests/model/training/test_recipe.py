from itertools import pairwise

import pytest
from pydantic import ValidationError

from model.training.recipe import PRESETS, Recipe, learning_rate


def test_the_learning_rate_rises_and_falls_as_half_a_cosine() -> None:
    recipe = Recipe(variant="crossvit_tiny", lr=1.0, min_lr=0.1, warmup_epochs=2)
    rates = [learning_rate(recipe, step, steps=100, steps_an_epoch=5) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55)
    assert 0.1 < rates[-1] < 0.101
    assert all(before > after for before, after in pairwise(rates[10:]))


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(ValidationError, match="warmup_epochs 30 must be fewer than the 10 epochs"):
        Recipe(variant="crossvit_tiny", epochs=10)


def test_the_default_resolution_is_the_variants() -> None:
    assert Recipe(variant="crossvit_18_dagger").resolution == 224
    assert Recipe(variant="crossvit_18_dagger_384").resolution == 384
    assert Recipe(variant="crossvit_18_dagger_384", resolution=64).resolution == 64


def test_timms_names_of_variants_become_our_names() -> None:
    recipe = Recipe(variant="timm/crossvit_15_dagger_408.in1k")
    assert (recipe.variant, recipe.resolution) == ("crossvit_15_dagger_384", 384)
    with pytest.raises(ValidationError, match="the nearest: crossvit_9"):
        Recipe(variant="crossvit9")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_recipes(preset: str) -> None:
    recipe = Recipe(variant="crossvit_tiny", **PRESETS[preset])
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_the_defaults_are_the_papers() -> None:
    recipe = Recipe(variant="crossvit_tiny")
    assert (recipe.epochs, recipe.batch, recipe.lr, recipe.warmup_epochs, recipe.weight_decay) == (
        *(300, 4096, 0.004, 30, 0.05),
    )


def test_a_final_learning_rate_over_the_highest_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"min_lr 0\.2 is higher than lr 0\.1"):
        Recipe(variant="crossvit_tiny", lr=0.1, min_lr=0.2)

import numpy as np
import pytest

from export.graphs.shipped_templates import SIDES, network_of, recorded_logits, shipped_template
from export.measurement.template_parity import recorded_differences, rule_made_graph
from model.spec import VARIANTS
from tests.support.reference_network import TINY

QUICK = ("crossvit_9_dagger",)
EVERY_VARIANT = [name if name in QUICK else pytest.param(name, marks=pytest.mark.exhaustive) for name in VARIANTS]


@pytest.mark.parametrize("name", EVERY_VARIANT)
def test_the_templates_filled_by_a_rule_give_the_logits_that_pytorch_gave(name: str) -> None:
    variant = VARIANTS[name]
    template = shipped_template(network_of(variant))
    recorded = recorded_logits(network_of(variant), variant.resolution)
    graph = rule_made_graph(template, variant, variant.resolution)
    worst = recorded_differences(graph, recorded, SIDES)
    assert worst.keys() == {224, 384, 480}
    assert max(worst.values()) < 1e-5


def test_a_384_grid_on_a_network_that_has_no_weights_of_it_gives_the_logits_that_pytorch_gave() -> None:
    graph = rule_made_graph(shipped_template(TINY.name), TINY, 384)
    assert max(recorded_differences(graph, recorded_logits(TINY.name, 384), SIDES).values()) < 1e-5


def test_another_grid_gives_other_logits() -> None:
    graph = rule_made_graph(shipped_template(TINY.name), TINY, 384)
    assert recorded_differences(graph, recorded_logits(TINY.name, 224), [224])[224] > 1e-3


def test_logits_that_are_nan_differ() -> None:
    recorded = {side: np.full_like(logits, np.nan) for side, logits in recorded_logits(TINY.name, 224).items()}
    graph = rule_made_graph(shipped_template(TINY.name), TINY, 224)
    assert np.isnan(recorded_differences(graph, recorded, [224])[224])

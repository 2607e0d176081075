import torch

from benchmarks.rollout import rollout
from export.ship_templates import rule_made_network
from tests.support.reference_network import TINY


def test_rollout_shares_the_answer_out_over_the_tokens_of_both_branches() -> None:
    network = rule_made_network(TINY, 224)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    small, large = rollout(network, images)
    assert (small.shape, large.shape) == ((2, 20, 20), (2, 14, 14))
    assert (small > 0).all()
    assert (large > 0).all()
    total = small.sum(dim=(1, 2)) + large.sum(dim=(1, 2))
    assert ((total > 0.3) & (total < 1)).all()  # both CLS have the rest

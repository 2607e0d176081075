import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from model.training.moving_average import moving_average


def test_the_average_decays_faster_at_the_start_of_a_run() -> None:
    network = nn.Linear(1, 1, bias=False)
    average = AveragedModel(network, multi_avg_fn=moving_average(0.99))
    assert isinstance(average.module, nn.Linear)
    weight, expected = average.module.weight, 1.0
    for step in range(1, 3001):
        with torch.no_grad():
            network.weight.fill_(step)
        average.update_parameters(network)
        kept = min(0.99, step / (9 + step))
        expected = step if step == 1 else kept * expected + (1 - kept) * step
        if step == 20:
            assert weight.item() > 15  # a decay of 0.99 from the start would leave 2.7
    assert weight.item() == pytest.approx(expected, rel=1e-4)
    assert weight.item() == pytest.approx(3000 - 99, rel=1e-3)

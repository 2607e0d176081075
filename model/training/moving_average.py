"""The moving average of the weights."""

from collections.abc import Callable

import torch
from torch import Tensor

ParameterList = tuple[Tensor, ...] | list[Tensor]
Average = Callable[[ParameterList, ParameterList, Tensor | int], None]


def moving_average(decay: float) -> Average:
    """For torch.optim.swa_utils.AveragedModel: each step keeps `decay` of the average, and less of it at first.

    After n steps (1 + n) / (10 + n) at most is kept, so that a short run's average forgets where it started, as
    TensorFlow's ExponentialMovingAverage has it.
    """

    @torch.no_grad()
    def update(averages: ParameterList, weights: ParameterList, updates: Tensor | int) -> None:
        count = float(updates)
        torch._foreach_lerp_(averages, weights, 1 - min(decay, (1 + count) / (10 + count)))

    return update

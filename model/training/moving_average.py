"""The moving average of the weights."""

from collections.abc import Callable

from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

ParameterList = tuple[Tensor, ...] | list[Tensor]


def moving_average(decay: float) -> Callable[[ParameterList, ParameterList, Tensor | int], None]:
    """For torch.optim.swa_utils.AveragedModel: each step keeps `decay` of the average, and less of it at first.

    After n steps (1 + n) / (10 + n) at most is kept, so that a short run's average forgets where it started, as
    TensorFlow's ExponentialMovingAverage has it.
    """

    def update(averages: ParameterList, weights: ParameterList, updates: Tensor | int) -> None:
        count = float(updates)
        get_ema_multi_avg_fn(min(decay, (1 + count) / (10 + count)))(averages, weights, updates)

    return update

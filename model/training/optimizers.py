"""The optimisers, with weight decay only on matrices and filters."""

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from model.training.recipe import Recipe

_NO_DECAY_PREFIXES = ("pos_embed", "cls_token")  # as in DeiT; vectors (biases and norms) do not decay either


class Optimizers:
    """One optimiser or two, stepped together; `step` sets the learning rate of all parameters."""

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
        matrices = {name for name, parameter in named if recipe.optimizer == "muon" and _is_hidden(name, parameter)}
        rest = [(name, parameter) for name, parameter in named if name not in matrices]
        decay = recipe.weight_decay
        groups: list[dict[str, Any]] = [
            {"params": [p for name, p in rest if _decays(name, p)], "weight_decay": decay},
            {"params": [p for name, p in rest if not _decays(name, p)], "weight_decay": 0.0},
        ]
        self._all: list[Optimizer] = []
        if recipe.optimizer == "sgd":
            self._all.append(torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9))
        else:
            self._all.append(torch.optim.AdamW(groups, lr=recipe.lr, fused=True))
        if matrices:
            hidden = [parameter for name, parameter in named if name in matrices]
            # With AdamW's step size both take the same learning rate and decay.
            muon = torch.optim.Muon(hidden, lr=recipe.lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
            self._all.append(muon)
        self._parameters = [parameter for _, parameter in named]

    def step(self, lr: float, clip: float) -> Tensor:
        """Update the weights and clear the gradients; returns the gradients' norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self._parameters, clip or float("inf"))
        for group in chain.from_iterable(optimizer.param_groups for optimizer in self._all):
            group["lr"] = lr
        for optimizer in self._all:
            optimizer.step()
            optimizer.zero_grad()
        return norm

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self._all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for optimizer, state in zip(self._all, states, strict=True):
            optimizer.load_state_dict(state)


def _is_hidden(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 2 and not name.startswith("head.")


def _decays(name: str, parameter: Tensor) -> bool:
    return parameter.ndim > 1 and not name.startswith(_NO_DECAY_PREFIXES)

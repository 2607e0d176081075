"""Weights to a CrossViT in PyTorch, for export, training and benchmarks."""

from pathlib import Path

import torch

from model.checkpoint import NetworkParameters, Say, read_parameters, silent
from model.crossvit import CrossViT
from model.spec import Variant
from model.variant_fit import position_grids
from model.weights import Weights


def load_network(path: Path, variant: Variant, say: Say = silent) -> CrossViT:
    """`variant` with the weights of `path`, in evaluation mode, float32.

    Reads and refuses what model.checkpoint.read_parameters does.
    """
    return network_holding(read_parameters(path, variant, say), variant)


def network_holding(parameters: NetworkParameters, variant: Variant) -> CrossViT:
    """`variant` in evaluation mode with `parameters`, which have all of its names, and its shapes."""
    grids = position_grids({name: values.shape for name, values in parameters.items()}, variant)
    with torch.device("meta"):
        network = CrossViT(variant, len(parameters["head.0.bias"]), grids=grids)
    network.to_empty(device="cpu").load_state_dict(
        {name: torch.from_numpy(values) for name, values in parameters.items()}
    )
    return network.eval()


def network_with(weights: Weights, variant: Variant, say: Say = silent) -> CrossViT:
    """`variant` with `weights` as load_network has it; untrained ones are the same each time."""
    if weights.path is not None:
        return load_network(weights.path, variant, say)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CrossViT(variant).eval()

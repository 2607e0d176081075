"""The networks behind the reference logits in tests/golden, with the weights and images of export.graphs.rule_made."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from export.graphs.rule_made import rule_made_images as images
from export.graphs.rule_made import rule_made_parameter as parameter
from model.crossvit import CrossViT
from model.spec import VARIANTS, Variant

__all__ = ["GOLDEN", "SIDES", "TINY", "checkpoint", "images", "parameter", "tensors"]

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = VARIANTS["crossvit_tiny"]
SIDES = (224, 240, 384, 408, 480)


def tensors(variant: Variant, classes: int = 1000, resolution: int = 224) -> dict[str, Tensor]:
    """All parameters of `variant`."""
    with torch.device("meta"):
        shapes = CrossViT(variant, classes, resolution).state_dict()
    return {name: torch.from_numpy(parameter(name, tuple(tensor.shape))) for name, tensor in shapes.items()}


def checkpoint(folder: Path, variant: Variant, classes: int = 1000) -> Path:
    """A safetensors file of `variant`."""
    path = folder / f"{variant.name}.safetensors"
    save_file(tensors(variant, classes), path)
    return path

"""Checkpoint files to a network: whatever wrapping they come in, every key and shape must fit."""

import argparse
import math
import re
import warnings
from pathlib import Path
from pickle import UnpicklingError

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from model.crossvit import CrossViT
from model.spec import IMAGENET_CLASSES, PATCH_SIZES, VARIANTS, Variant, patch_grids

Tensors = dict[str, Tensor]

_WRAPPERS = ("model", "state_dict", "model_ema", "state_dict_ema")
_PREFIXES = ("module.", "_orig_mod.")
_LARGEST = 1 << 30  # numbers in a tensor; a few bytes can claim to be more
_SHOWN = 2  # differences of each kind that a message names


class BadCheckpoint(ValueError):
    """A file that holds no weights, or weights of another network; the message says what would help."""


def load_network(path: Path, variant: Variant) -> CrossViT:
    """`variant` with the weights of `path`, in evaluation mode, float32.

    Takes safetensors and PyTorch files (tensors only, never a pickle's code), bare or wrapped in `model`,
    `state_dict` or `model_ema`, with IBM's or timm's names, for any number of classes and any position grid.
    Raises BadCheckpoint where the file cannot be read or any key or shape differs.
    """
    return fit(read_tensors(path), variant, path.name)


def read_tensors(path: Path) -> Tensors:
    """The weights in `path` under IBM's names, float32; BadCheckpoint if it holds none."""
    tensors = _rename(_unwrap(_read(path), path.name))
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise BadCheckpoint(f"{path.name}: {name} has values that are not finite; the checkpoint is damaged")
    return tensors


def fit(tensors: Tensors, variant: Variant, origin: str) -> CrossViT:
    """`variant` holding `tensors`; BadCheckpoint names the first differences and the variant that would fit."""
    differences = _differences(tensors, variant)
    if any(differences):
        fitting = [other.name for other in VARIANTS.values() if not any(_differences(tensors, other))]
        advice = f"it fits --variant {' or '.join(fitting)}" if fitting else "it fits no variant of CrossViT"
        shown = "; ".join(line for lines in differences for line in lines[:_SHOWN])
        count = sum(map(len, differences))
        raise BadCheckpoint(f"{origin} is not {variant.name} ({count} differences, the first: {shown}); {advice}")
    network = _blank(tensors, variant).to_empty(device="cpu")
    network.load_state_dict(tensors)
    return network.eval()


def _read(path: Path) -> object:
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as err:
        raise BadCheckpoint(f"cannot read {path}: {err.strerror}") from err
    try:
        if head[8:] == b"{":  # a length of eight bytes, then JSON
            return safetensors.torch.load_file(path)
        # Training scripts of the DeiT family keep their arguments in a Namespace: plain data, no code.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what it says of odd files is said below
            return torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as err:
        raise BadCheckpoint(f"{path.name} is a damaged safetensors file") from err
    except UnpicklingError as err:
        raise BadCheckpoint(
            f"{path.name} holds more than tensors, or is no checkpoint; it is not unpickled, since that could run "
            "code. Save the state_dict alone: torch.save(model.state_dict(), path)"
        ) from err
    except Exception as err:  # from a damaged file torch raises whatever it stumbles over
        raise BadCheckpoint(f"{path.name} is damaged, or neither a safetensors nor a PyTorch file") from err


def _unwrap(content: object, origin: str) -> Tensors:
    for _ in _WRAPPERS:
        if not isinstance(content, dict):
            break
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict) or not content:
        raise BadCheckpoint(f"{origin} holds no state_dict")
    if {"network", "optimizers"} <= content.keys():
        raise BadCheckpoint(f"{origin} is what a training run goes on from; its weights are in model.safetensors")
    tensors = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or not _is_plain(tensor):
            raise BadCheckpoint(f"{origin}: {name!r} is no plain tensor of floating-point numbers")
        tensors[name] = tensor.float()
    return tensors


def _is_plain(tensor: Tensor) -> bool:
    dense = tensor.layout == torch.strided and tensor.device.type == "cpu"
    return dense and tensor.is_floating_point() and tensor.numel() <= _LARGEST


def _rename(tensors: Tensors) -> Tensors:
    for prefix in _PREFIXES * 2:  # torch.compile and DataParallel, in either order
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    timm = re.compile(r"^(pos_embed|cls_token)_(?=\d+$)")
    return {timm.sub(r"\1.", name): tensor for name, tensor in tensors.items()}


def _differences(tensors: Tensors, variant: Variant) -> tuple[list[str], list[str], list[str]]:
    """What is missing, what is unexpected, and which shapes differ."""
    expected = {name: tensor.shape for name, tensor in _blank(tensors, variant).state_dict().items()}
    return (
        [f"{name} is missing" for name in expected if name not in tensors],
        [f"{name} is unexpected" for name in tensors if name not in expected],
        [
            f"{name} is {tuple(tensors[name].shape)}, expected {tuple(shape)}"
            for name, shape in expected.items()
            if name in tensors and tensors[name].shape != shape
        ],
    )


def _blank(tensors: Tensors, variant: Variant) -> CrossViT:
    """`variant` without memory, with as many classes as the head of `tensors` and its grids of positions."""
    head = tensors.get("head.0.weight")
    classes = head.shape[0] if head is not None and head.ndim == 2 and len(head) else IMAGENET_CLASSES
    with torch.device("meta"):
        return CrossViT(variant, classes, grids=_grids(tensors, variant))


def _grids(tensors: Tensors, variant: Variant) -> tuple[int, int]:
    """Patches along one side (S, L) that the positions of `tensors` are for; what they do not tell follows from L's."""
    small, large = (_grid(tensors.get(f"pos_embed.{branch}")) for branch in range(len(PATCH_SIZES)))
    return (small, large) if small and large else patch_grids(PATCH_SIZES[1] * large or variant.resolution)


def _grid(positions: Tensor | None) -> int:
    """0 if `positions` are no square and CLS."""
    patches = positions.shape[1] - 1 if positions is not None and positions.ndim == 3 else 0
    side = math.isqrt(max(patches, 0))
    return side if side * side == patches else 0

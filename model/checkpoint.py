"""Checkpoint files to parameters: they may be wrapped in any way, but every key and shape must fit; imports no torch.

No code of a file is run, and no class of it is needed (model/stored/pickled.py). docs/training.md says what loads.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.parameter_shapes import Shape
from model.spec import PATCH_SIZES, VARIANTS, Variant
from model.stored.bad_checkpoint import BadCheckpoint, listed, printable
from model.stored.pickled import Malformed
from model.stored.state_dicts import Leaves, StateDict, leaves, lists_in_order, optimizers, passed_over, states
from model.stored.stored_tensor import WEIGHT_DTYPES, Unusable
from model.stored.weight_file import read_weight_file
from model.stored.weight_sets import WeightSets
from model.variant_fit import differences_from, expected_shapes, fits, fitting_variants

__all__ = ["BadCheckpoint", "NetworkParameters", "checkpoint_variants", "read_parameters", "read_tensors", "silent"]

NetworkParameters = dict[str, NDArray[np.float32]]
Say = Callable[[str], None]


def silent(_: str) -> None:
    """Ignores the line, for callers that need no notes."""


def read_parameters(path: Path, variant: Variant, say: Say = silent) -> NetworkParameters:
    """The parameters of `variant` in `path`, float32, by IBM's names in the order of its state_dict.

    Takes safetensors and PyTorch files, in which the network's tensors, with IBM's or timm's names, may lie in any
    mapping and behind any prefix, for any number of classes and any position grid. Of several sets of weights the
    moving average counts, as in timm's loader. `say` is told which was taken and which tensors were passed over.
    Raises BadCheckpoint where the file cannot be read or any key or shape differs.
    """
    state = _state(path, [variant], say)
    tensors = _values(state, path.name)
    return {name: tensors[name] for name in expected_shapes(_shapes(state), variant)}


def read_tensors(path: Path, say: Say = silent) -> NetworkParameters:
    """The weights in `path`, of any variant, under IBM's names, float32. Raises BadCheckpoint if it holds none."""
    return _values(_state(path, list(VARIANTS.values()), say), path.name)


def checkpoint_variants(path: Path) -> list[Variant]:
    """The variants that the weights in `path` fit, told by names and shapes; no values are read.

    Of networks that differ in the resolution alone the first is the one of these position grids. Raises BadCheckpoint.
    """
    return fitting_variants(_shapes(_state(path, list(VARIANTS.values()), silent)))


def _state(path: Path, variants: list[Variant], say: Say) -> StateDict:
    """The one state in `path` that is one of `variants`."""
    content = read_weight_file(path)
    try:
        found = leaves(content)
        present = states(found)
    except Malformed as err:
        raise BadCheckpoint(f"{path.name}: {err}") from err
    if not present:
        raise BadCheckpoint(f"{path.name} {_instead(content, found)}")
    fitting = [state for state in present if any(fits(_shapes(state), variant) for variant in variants)]
    if not fitting:
        closest = max(present, key=lambda state: (state.is_average, len(state.tensors)))
        _refuse_parts(closest, path.name)
        raise BadCheckpoint(f"{path.name} {differences_from(_shapes(closest), variants[0])}")
    fitting += lists_in_order(found, [(state, _orders(state, variants)) for state in fitting])
    state = WeightSets(content, found, present, fitting).chosen(path.name, say)
    rest = passed_over(found, state)
    if rest:
        say(printable(f"{path.name}: passed over {listed(rest, counted=True)}"))
    return state


def _instead(content: object, found: Leaves) -> str:
    """Describes the content of a file without a CrossViT."""
    keys = [key for key in content if isinstance(key, str)] if isinstance(content, dict) else []
    if not found:
        return f"holds no state_dict{', but ' + listed(keys) if keys else ''}: save the network's"
    names = list(found)
    below = optimizers(found)
    if below and all(name.startswith(tuple(f"{key}." for key in below)) for name in names):
        return f"holds what belongs to an optimizer ({listed(below)}): give the network's weights"
    if any("lora_" in name.lower() for name in names):
        return "holds an adapter (LoRA), not the network: merge it into the network (merge_and_unload) and save that"
    if {"state", "param_groups"} <= set(keys):
        return "is the state of an optimizer: give the file with the network's weights"
    if all(name.rpartition(".")[2].isdecimal() for name in names):
        return f"holds tensors without names ({listed(names)}), which tell no network: save the network's state_dict"
    return f"holds no state_dict of a CrossViT; its tensors are called {listed(names)}"


def _refuse_parts(state: StateDict, origin: str) -> None:
    """Say what is the matter with a state that is most of a CrossViT, where that can be said plainly."""
    heads = [state.tensors.get(f"head.{branch}.weight") for branch in (0, 1)]
    if all(head is None for head in heads):
        raise BadCheckpoint(
            f"{origin} has no head, only what comes before it (as num_classes=0 makes it), so it cannot classify"
        )
    shapes = [head.shape for head in heads if head is not None and not isinstance(head, Unusable)]
    if [len(shape) for shape in shapes] == [2, 2] and shapes[0][0] != shapes[1][0] and 0 not in shapes[0]:
        raise BadCheckpoint(
            f"{origin}: head.0.weight is {shapes[0]}, head.1.weight {shapes[1]}: the answer is the mean of both, so "
            "they need the same number of classes"
        )
    for name, leaf in state.tensors.items():
        if isinstance(leaf, Unusable):
            raise BadCheckpoint(f"{origin}: {name!r} is not a plain tensor of floating-point numbers, but {leaf.what}")
    if all(0 in leaf.shape for leaf in state.tensors.values() if not isinstance(leaf, Unusable)):
        raise BadCheckpoint(
            f"{origin}: its tensors are empty, as in a part of a sharded checkpoint; DeepSpeed's zero_to_fp32.py makes "
            "one file of all parts"
        )


def _orders(state: StateDict, variants: list[Variant]) -> Iterator[Sequence[str]]:
    """The orders that the parameters of the network in `state` may have had: the file's, IBM's and timm's."""
    yield tuple(state.tensors)
    for variant in variants:
        if fits(_shapes(state), variant):
            names = list(expected_shapes(_shapes(state), variant))
            yield names
            first = [f"{name}.{branch}" for branch in range(len(PATCH_SIZES)) for name in ("pos_embed", "cls_token")]
            yield first + [name for name in names if name not in first]


def _shapes(state: StateDict) -> dict[str, Shape]:
    return {name: (0,) if isinstance(leaf, Unusable) else leaf.shape for name, leaf in state.tensors.items()}


def _values(state: StateDict, origin: str) -> NetworkParameters:
    parameters = {}
    for name, leaf in state.tensors.items():
        if isinstance(leaf, Unusable) or leaf.dtype not in WEIGHT_DTYPES:
            what = leaf.what if isinstance(leaf, Unusable) else f"a tensor of {leaf.dtype}"
            raise BadCheckpoint(f"{origin}: {name!r} is not a plain tensor of floating-point numbers, but {what}")
        try:
            with np.errstate(over="ignore"):  # of float64: what becomes infinite is refused below
                parameters[name] = leaf.load().astype(np.float32, copy=False)
        except Malformed as err:
            raise BadCheckpoint(f"{origin} is damaged: {name}: {err}") from err
        if not np.isfinite(parameters[name]).all():
            raise BadCheckpoint(f"{origin}: {name} has values that are not finite; the checkpoint is damaged")
    return parameters

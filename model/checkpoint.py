"""Checkpoint files to a network: they may be wrapped in any way, but every key and shape must fit.

No code of a file is run, and no class of it is needed (model/stored/pickled.py). docs/training.md says what loads.
"""

import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from model.crossvit import CrossViT
from model.spec import IMAGENET_CLASSES, PATCH_SIZES, VARIANTS, Variant, patch_grids
from model.stored import foreign_files, torch_file
from model.stored.pickled import Harmful, Malformed
from model.stored.state_dicts import (
    Leaf,
    Leaves,
    StateDict,
    averages,
    leaves,
    lists_in_order,
    optimizers,
    passed_over,
    states,
)
from model.stored.torch_file import StoredTensor, Unusable

Tensors = dict[str, Tensor]
Say = Callable[[str], None]

_MAX_SHOWN_DIFFERENCES = 2  # of each kind
_MAX_NAMED_KEYS = 6  # of the keys that were passed over
_MAX_MESSAGE_LETTERS = 1500
_MAX_SAFETENSORS_HEADER_BYTES = 100_000_000  # safetensors' own limit
# In a file with the first key `state_dict` is the average, and the second key has the weights it averages.
_AVERAGE_IN_STATE_DICT = (
    ("message_hub", "ema_state_dict"),  # MMEngine
    ("averaging_state", "current_model_state"),  # Lightning
)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class BadCheckpoint(ValueError):
    """A file that holds no weights, or weights of another network; the message says what would help."""

    def __init__(self, message: str) -> None:
        super().__init__(_printable(message))


def silent(_: str) -> None:
    """Ignores the line, for callers that need no notes."""


def load_network(path: Path, variant: Variant, say: Say = silent) -> CrossViT:
    """`variant` with the weights of `path`, in evaluation mode, float32.

    Takes safetensors and PyTorch files, in which the network's tensors, with IBM's or timm's names, may lie in any
    mapping and behind any prefix, for any number of classes and any position grid. Of several sets of weights the
    moving average counts, as in timm's loader. `say` is told which was taken and which tensors were passed over.
    Raises BadCheckpoint where the file cannot be read or any key or shape differs.
    """
    return fit(_weights(path, [variant], say), variant, path.name)


def read_tensors(path: Path, say: Say = silent) -> Tensors:
    """The weights in `path`, of any variant, under IBM's names, float32. Raises BadCheckpoint if it holds none."""
    return _weights(path, list(VARIANTS.values()), say)


def fit(tensors: Tensors, variant: Variant, origin: str) -> CrossViT:
    """`variant` holding `tensors`; BadCheckpoint names the first differences and the variant that would fit."""
    differences = _differences(tensors, variant)
    if any(differences):
        fitting = [other.name for other in VARIANTS.values() if not any(_differences(tensors, other))]
        advice = f"it fits --variant {' or '.join(fitting)}" if fitting else "it fits no variant of CrossViT"
        shown = "; ".join(line for lines in differences for line in lines[:_MAX_SHOWN_DIFFERENCES])
        count = sum(map(len, differences))
        raise BadCheckpoint(f"{origin} is not {variant.name} ({count} differences, the first: {shown}); {advice}")
    network = _blank(tensors, variant).to_empty(device="cpu")
    network.load_state_dict(tensors)
    return network.eval()


def _weights(path: Path, variants: list[Variant], say: Say) -> Tensors:
    """The values of the one state in `path` that is one of `variants`."""
    content = _read(path)
    try:
        found = leaves(content)
        present = states(found)
    except Malformed as err:
        raise BadCheckpoint(f"{path.name}: {err}") from err
    if not present:
        raise BadCheckpoint(f"{path.name} {_instead(content, found)}")
    outlines = [(state, {name: _outline(leaf) for name, leaf in state.tensors.items()}) for state in present]
    fitting = [s for s, outline in outlines if any(not any(_differences(outline, variant)) for variant in variants)]
    if not fitting:
        closest, outline = max(outlines, key=lambda pair: (pair[0].is_average, len(pair[1])))
        _refuse_parts(closest, path.name)
        fit(outline, variants[0], path.name)  # raises
    fitting += lists_in_order(found, [(state, _orders(state, variants)) for state in fitting])
    state = _chosen(_Sets(content, found, present, fitting), path.name, say)
    rest = passed_over(found, state)
    if rest:
        more = f" and {len(rest) - _MAX_NAMED_KEYS} more" if len(rest) > _MAX_NAMED_KEYS else ""
        say(_printable(f"{path.name}: passed over {', '.join(rest[:_MAX_NAMED_KEYS])}{more}"))
    return _values(state, path.name)


def _read(path: Path) -> object:
    """The content of the file: nested mappings with tensors in them."""
    try:
        with path.open("rb") as file:
            head = file.read(foreign_files.HEAD_BYTES)
            if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _MAX_SAFETENSORS_HEADER_BYTES:  # then JSON
                return safetensors.torch.load_file(path)
            if head[:4] == b"PK\3\4":
                with zipfile.ZipFile(file) as archive:
                    other = foreign_files.other_archive(archive.namelist())
            else:
                other = foreign_files.other_kind(path, head)
            if other is not None:
                raise BadCheckpoint(f"{path.name} {other}")
            file.seek(0)
            return torch_file.read_torch_file(file)
    except OSError as err:
        raise BadCheckpoint(f"cannot read {path}: {err.strerror}") from err
    except SafetensorError as err:
        raise BadCheckpoint(f"{path.name} is a damaged safetensors file") from err
    except Harmful as err:
        raise BadCheckpoint(
            f"{path.name} holds more than tensors: unpickling it would call {err}, which was not done. "
            "Do not trust it. Save only the state_dict: torch.save(model.state_dict(), path)"
        ) from err
    except (Malformed, zipfile.BadZipFile) as err:
        if (text := foreign_files.beginning_of_text(head)) is not None:  # a pickle of protocol 0 is text too
            raise BadCheckpoint(f"{path.name} is text, not a checkpoint ({text!r}): give the file itself") from err
        raise BadCheckpoint(f"{path.name} is damaged, or neither a safetensors nor a PyTorch file: {err}") from err


def _instead(content: object, found: Leaves) -> str:
    """Describes the content of a file without a CrossViT."""
    keys = [key for key in content if isinstance(key, str)] if isinstance(content, dict) else []
    if not found:
        return f"holds no state_dict{', but ' + _listed(keys) if keys else ''}: save the network's"
    names = list(found)
    below = optimizers(found)
    if below and all(name.startswith(tuple(f"{key}." for key in below)) for name in names):
        return f"holds what belongs to an optimizer ({_listed(below)}): give the network's weights"
    if any("lora_" in name.lower() for name in names):
        return "holds an adapter (LoRA), not the network: merge it into the network (merge_and_unload) and save that"
    if {"state", "param_groups"} <= set(keys):
        return "is the state of an optimizer: give the file with the network's weights"
    if all(name.rpartition(".")[2].isdecimal() for name in names):
        return f"holds tensors without names ({_listed(names)}), which tell no network: save the network's state_dict"
    return f"holds no state_dict of a CrossViT; its tensors are called {_listed(names)}"


def _refuse_parts(state: StateDict, origin: str) -> None:
    """Say what is the matter with a state that is most of a CrossViT, where that can be said plainly."""
    heads = [state.tensors.get(f"head.{branch}.weight") for branch in (0, 1)]
    if all(head is None for head in heads):
        raise BadCheckpoint(
            f"{origin} has no head, only what comes before it (as num_classes=0 makes it), so it cannot classify"
        )
    shapes = [tuple(head.shape) for head in heads if head is not None and not isinstance(head, Unusable)]
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
    outline = {name: _outline(leaf) for name, leaf in state.tensors.items()}
    for variant in variants:
        if not any(_differences(outline, variant)):
            names = list(_blank(outline, variant).state_dict())
            yield names
            first = [f"{name}.{branch}" for branch in range(len(PATCH_SIZES)) for name in ("pos_embed", "cls_token")]
            yield first + [name for name in names if name not in first]


@dataclass(frozen=True)
class _Sets:
    """The sets of weights in a file: `present` has all with names, `fitting` those that may be taken."""

    content: object
    found: Leaves
    present: list[StateDict]
    fitting: list[StateDict]

    @property
    def _raw_key(self) -> str | None:
        keys: set[object] = set(self.content) if isinstance(self.content, dict) else set()
        return next((raw for mark, raw in _AVERAGE_IN_STATE_DICT if {"state_dict", mark, raw} <= keys), None)

    def is_average(self, state: StateDict) -> bool:
        if self._raw_key is None:
            return state.is_average
        first = state.key.partition(".")[0]
        return first == "state_dict" or (first != self._raw_key and state.is_average)

    def unfit_average(self) -> str | None:
        """The key of an average that is not among the sets that fit."""
        taken = [state for state in self.fitting if self.is_average(state)]
        fits = set(map(id, self.fitting))
        unfit = [state.key for state in self.present if self.is_average(state) and id(state) not in fits]
        unfit += [
            key
            for key in averages(self.found, self.fitting)
            if key.partition(".")[0] != self._raw_key and not any(state.prefix.startswith(key + ".") for state in taken)
        ]
        return unfit[0] if unfit else None


def _chosen(sets: _Sets, origin: str, say: Say) -> StateDict:
    """The moving average if there is one, as timm's loader has it, else the only state.

    Raises BadCheckpoint if two differ, or if there is an average that cannot be taken.
    """
    unfit = sets.unfit_average()
    if unfit is not None:
        raise BadCheckpoint(
            f"{origin} holds a moving average under {unfit} that is not taken: its names, shapes or order are not the "
            "network's. Save the average as a whole state_dict, or, if the weights that were not averaged are meant, "
            "those alone, with torch.load and torch.save"
        )
    found = [state for state in sets.fitting if sets.is_average(state)]
    preferred = found or [state for state in sets.fitting if not state.is_backup] or sets.fitting
    first = preferred[0]
    if not all(_same(first, other) for other in preferred[1:]):
        keys = _listed([_key(state) for state in preferred])
        raise BadCheckpoint(
            f"{origin} holds different weights under {keys}, and nothing says which are meant: keep those that are, "
            "with torch.load and torch.save"
        )
    left = [_key(state) for state in sets.fitting if state not in preferred and not _same(first, state)]
    if left:
        kind = ", the moving average," if found else ""
        say(_printable(f"{origin}: takes {_key(first)}{kind} and not {_listed(left)}"))
    return first


def _key(state: StateDict) -> str:
    return state.key or "its top level"


def _same(one: StateDict, other: StateDict) -> bool:
    return one.tensors.keys() == other.tensors.keys() and all(
        _same_values(leaf, other.tensors[name]) for name, leaf in one.tensors.items()
    )


def _same_values(one: Leaf, other: Leaf) -> bool:
    if one is other or isinstance(one, Unusable) or isinstance(other, Unusable) or one.shape != other.shape:
        return one is other
    try:
        return torch.equal(_loaded(one), _loaded(other))
    except Malformed:
        return False


def _values(state: StateDict, origin: str) -> Tensors:
    tensors = {}
    for name, leaf in state.tensors.items():
        if isinstance(leaf, Unusable) or leaf.dtype not in _FLOATS:
            what = leaf.what if isinstance(leaf, Unusable) else f"a tensor of {leaf.dtype}".replace("torch.", "")
            raise BadCheckpoint(f"{origin}: {name!r} is not a plain tensor of floating-point numbers, but {what}")
        try:
            tensors[name] = _loaded(leaf).float()
        except Malformed as err:
            raise BadCheckpoint(f"{origin} is damaged: {name}: {err}") from err
        if not torch.isfinite(tensors[name]).all():
            raise BadCheckpoint(f"{origin}: {name} has values that are not finite; the checkpoint is damaged")
    return tensors


def _loaded(leaf: StoredTensor | Tensor) -> Tensor:
    return leaf.load() if isinstance(leaf, StoredTensor) else leaf


def _outline(leaf: Leaf) -> Tensor:
    """A tensor of the shape without values."""
    return torch.empty((0,) if isinstance(leaf, Unusable) else leaf.shape, device="meta")


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:_MAX_NAMED_KEYS]) + (", …" if len(keys) > _MAX_NAMED_KEYS else "")


def _printable(text: str) -> str:
    """`text` for a terminal: names come from the file."""
    shown = "".join(
        letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[: _MAX_MESSAGE_LETTERS + 1]
    )
    return shown if len(shown) <= _MAX_MESSAGE_LETTERS else shown[:_MAX_MESSAGE_LETTERS] + " …"


def _differences(tensors: Tensors, variant: Variant) -> tuple[list[str], list[str], list[str]]:
    """The missing and the unexpected names, and the shapes that differ."""
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
    """0 if `positions` are not a square and CLS."""
    patches = positions.shape[1] - 1 if positions is not None and positions.ndim == 3 else 0
    side = math.isqrt(max(patches, 0))
    return side if side * side == patches else 0

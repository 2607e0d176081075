"""The networks in what a file holds: every tensor has a path, and one of this network has its names behind a prefix.

The path of a tensor joins the keys that lead to it with dots, so a wrapping dictionary (`state_dict`), the attributes
of a wrapping module (`module`, `_orig_mod`, `model`) and any of them within each other are all one thing: a prefix.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass

from torch import Tensor

from model.stored.pickled import Malformed, Object
from model.stored.torch_file import StoredTensor, Unusable, from_numpy

Leaf = StoredTensor | Unusable | Tensor
Leaves = dict[str, Leaf]
_NODES = (StoredTensor, Unusable, Tensor, dict, list, tuple, Object)

# Every CrossViT has these names, whatever its variant. Without a head or with some names missing it still counts.
ANCHORS = frozenset(
    [f"{name}.{branch}" for name in ("pos_embed", "cls_token") for branch in (0, 1)]
    + [f"{name}.{branch}.{kind}" for name in ("norm", "head") for branch in (0, 1) for kind in ("weight", "bias")]
)
NAMESPACE = frozenset(("pos_embed", "cls_token", "patch_embed", "blocks", "norm", "head"))
_ENOUGH = len(ANCHORS) // 2
_MAX_DEPTH, _MAX_NODES, _MAX_PATH, _MAX_STATES = 64, 5_000_000, 500, 16

_TIMM = re.compile(r"(^|\.)(pos_embed|cls_token)_(?=\d+$)")
_AVERAGED = re.compile(r"(?<![a-z])(ema|ewma|swa|avg|polyak|shadow)(?![a-z])|averag|moving", re.IGNORECASE)
_NOT_AVERAGED = re.compile(
    r"(?<![a-z])(non?|not|without|current|online|raw|source|live|orig|original)(?![a-z])", re.IGNORECASE
)
# Parts of a module that serve its training alone, and buffers that profilers leave in each layer.
_TRAINING = re.compile(
    r"loss|criteri|metric|accura|(?<![a-z])(acc|auroc|f1|confmat|optim|sched|scaler|teacher|ema)(?![a-z])|averag"
)
_COUNTERS = frozenset(("total_ops", "total_params", "num_batches_tracked"))


@dataclass(frozen=True)
class State:
    """The tensors under one prefix, by their names behind it (IBM's)."""

    prefix: str
    tensors: Leaves

    @property
    def key(self) -> str:
        """Where it stands in the file, for messages; empty if it is the whole file."""
        return self.prefix.removesuffix(".")

    @property
    def is_average(self) -> bool:
        return bool(_AVERAGED.search(_words(self.prefix))) and not self.is_raw

    @property
    def is_raw(self) -> bool:
        """Whether its key says that these are the weights that were not averaged."""
        return bool(_NOT_AVERAGED.search(_words(self.prefix).replace("_orig_mod", "")))


def leaves(content: object) -> Leaves:
    """Every tensor in nested mappings, lists, objects and modules, by its path; raises Malformed if they never end."""
    found: Leaves = {}
    stack: list[tuple[str, object, tuple[int, ...]]] = [("", content, ())]
    seen = 0
    while stack:
        path, node, above = stack.pop()
        if isinstance(node, Object) and (array := from_numpy(node)) is not None:
            node = array
        if isinstance(node, Leaf):
            found.setdefault(path, node)
        elif id(node) not in above and len(above) < _MAX_DEPTH:
            seen += 1 + _size(node)
            if seen > _MAX_NODES:  # lists of the same list, and so on, look like more than there is in the file
                raise Malformed("it holds more objects than a checkpoint does")
            within = [
                (f"{path}.{key}" if path and key else f"{path}{key}", child, (*above, id(node)))
                for key, child in _children(node)
                if isinstance(child, _NODES) and len(path) + len(key) < _MAX_PATH
            ]
            stack.extend(reversed(within))
    return found


def states(found: Leaves) -> list[State]:
    """Every prefix behind which the names of a CrossViT stand, with all tensors there, in the file's order."""
    named = {_TIMM.sub(r"\1\2.", path): leaf for path, leaf in found.items()}
    votes: Counter[str] = Counter()
    for path in named:
        parts = path.rsplit(".", 3)
        for start in range(len(parts)):
            name = ".".join(parts[start:])
            if name in ANCHORS:
                votes[path.removesuffix(name)] += 1
    prefixes = [prefix for prefix, count in votes.items() if count >= _ENOUGH]
    return [State(prefix, dict(_behind(prefix, named, prefixes))) for prefix in prefixes[:_MAX_STATES]]


def _behind(prefix: str, named: Leaves, prefixes: Iterable[str]) -> Iterator[tuple[str, Leaf]]:
    """The tensors behind `prefix` but for those of other networks, of training and of profilers."""
    others = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
    for path, leaf in named.items():
        if not path.startswith(prefix) or (others and path.startswith(others)):
            continue
        name = path.removeprefix(prefix)
        first, last = name.partition(".")[0], name.rpartition(".")[2]
        if last not in _COUNTERS and (first in NAMESPACE or not (_TRAINING.search(first) or _is_counter(leaf))):
            yield name, leaf


def _is_counter(leaf: Leaf) -> bool:
    return not isinstance(leaf, Unusable) and not leaf.dtype.is_floating_point and set(leaf.shape) <= {1}


def passed_over(found: Leaves, state: State) -> list[str]:
    """What the file holds besides `state`: the keys where the paths part, each with how many tensors it has."""
    taken = {state.prefix + name for name in state.tensors}
    steps = [state.prefix[: match.end()] for match in re.finditer(r"[^.]*\.", state.prefix)]
    groups: Counter[str] = Counter()
    for path in found:
        if _TIMM.sub(r"\1\2.", path) not in taken:
            common = next((step for step in reversed(steps) if path.startswith(step)), "")
            rest = path.removeprefix(common)
            whole = common == state.prefix and rest.partition(".")[0] in NAMESPACE
            groups[common + (rest if whole else rest.partition(".")[0])] += 1
    return [f"{key} ({count} tensors)" if count > 1 else key for key, count in groups.items()]


def _words(key: str) -> str:
    """`modelEMA` as `model_EMA`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key)


def _size(node: object) -> int:
    if isinstance(node, Object):
        return 4 + sum(len(part) for part in (node.args, node.entries, node.items))
    return len(node) if isinstance(node, Sized) else 0


def _children(node: object) -> Iterator[tuple[str, object]]:
    """What a node holds, by name. A module's are those of its state_dict; other objects add no step to the path."""
    if isinstance(node, dict):
        yield from ((str(key), child) for key, child in node.items() if isinstance(key, str | int))
    elif isinstance(node, list | tuple):
        yield from ((str(index), child) for index, child in enumerate(node))
    elif isinstance(node, Object):
        state = node.state[0] if isinstance(node.state, tuple) and node.state else node.state
        if isinstance(state, dict) and "_parameters" in state and "_modules" in state:
            yield from (("", state.get(part)) for part in ("_parameters", "_buffers", "_modules"))
        else:
            yield from (("", part) for part in (node.entries, node.items, state, *node.args))

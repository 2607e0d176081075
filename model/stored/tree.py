"""The networks in what a file holds: every tensor has a path, and one of this network has its names behind a prefix.

The path of a tensor joins the keys that lead to it with dots, so a wrapping dictionary (`state_dict`), the attributes
of a wrapping module (`module`, `_orig_mod`, `model`) and any of them within each other are all one thing: a prefix.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
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
_MAX_DEPTH, _MAX_STEPS, _MAX_PATH, _MAX_STATES = 64, 2_000_000, 500, 16
_MAX_KEY = 60  # letters that a line shows

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
    stack: list[tuple[str, Iterator[tuple[str, object]], int]] = [("", iter([("", content)]), 0)]
    above: set[int] = set()
    steps = 0
    while stack:
        path, children, node = stack[-1]
        for key, child in children:
            steps += 1
            if steps > _MAX_STEPS:  # a list of lists of one list, and so on, looks like more than there is in the file
                raise Malformed("it holds more objects than a checkpoint does")
            if not isinstance(child, _NODES) or len(path) + len(key) >= _MAX_PATH:
                continue
            here = f"{path}.{key}" if path and key else f"{path}{key}"
            leaf = from_numpy(child) if isinstance(child, Object) else child
            if isinstance(leaf, Leaf):
                found.setdefault(here, leaf)
            elif id(child) not in above and len(stack) < _MAX_DEPTH:
                stack.append((here, _children(child), id(child)))
                above.add(id(child))
                break
        else:
            stack.pop()
            above.discard(node)
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
    by_name = [State(prefix, dict(_behind(prefix, named, prefixes))) for prefix in prefixes[:_MAX_STATES]]
    return by_name + [state for model in by_name[:1] for state in _in_order(found, model)]


def _in_order(found: Leaves, model: State) -> Iterator[State]:
    """Averages that are a list of tensors without names (torch_ema's `shadow_params`), in the order of `model`'s."""
    lists: dict[str, list[Leaf]] = {}
    for path, leaf in found.items():
        prefix, _, index = path.rpartition(".")
        if index == str(len(lists.get(prefix, ()))):
            lists.setdefault(prefix, []).append(leaf)
    for prefix, values in lists.items():
        if [_shape(leaf) for leaf in values] == [_shape(leaf) for leaf in model.tensors.values()]:
            state = State(f"{prefix}.", dict(zip(model.tensors, values, strict=True)))
            if state.is_average:
                yield state


def _shape(leaf: Leaf) -> tuple[int, ...]:
    return () if isinstance(leaf, Unusable) else tuple(leaf.shape)


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
    taken = set(map(id, state.tensors.values()))
    steps = [state.prefix[: match.end()] for match in re.finditer(r"[^.]*\.", state.prefix)]
    groups: Counter[str] = Counter()
    for path, leaf in found.items():
        if id(leaf) not in taken:
            common = next((step for step in reversed(steps) if path.startswith(step)), "")
            last = path.rpartition(".")[2]
            groups[f"*.{last}" if last in _COUNTERS else common + path.removeprefix(common).partition(".")[0]] += 1
    shown = ((key if len(key) <= _MAX_KEY else key[:_MAX_KEY] + "…", count) for key, count in groups.items())
    return [f"{key} ({count} tensors)" if count > 1 else key for key, count in shown]


def _words(key: str) -> str:
    """`modelEMA` as `model_EMA`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key)


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

"""The networks in what a file holds: every tensor has a path, and one of this network has its names behind a prefix.

The path of a tensor joins the keys that lead to it with dots, so a wrapping dictionary (`state_dict`), the attributes
of a wrapping module (`module`, `_orig_mod`, `model`) and any of them within each other are all one thing: a prefix.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from model.stored.pickled import Malformed, Object
from model.stored.stored_tensor import WEIGHT_DTYPES, StoredTensor, Unusable
from model.stored.torch_file import from_numpy

Leaf = StoredTensor | Unusable
Leaves = dict[str, Leaf]
_NODES = (StoredTensor, Unusable, dict, list, tuple, Object)

# Every CrossViT has these names, whatever its variant. Without a head or with some names missing it still counts.
ANCHORS = frozenset(
    [f"{name}.{branch}" for name in ("pos_embed", "cls_token") for branch in (0, 1)]
    + [f"{name}.{branch}.{kind}" for name in ("norm", "head") for branch in (0, 1) for kind in ("weight", "bias")]
)
NAMESPACE = frozenset(("pos_embed", "cls_token", "patch_embed", "blocks", "norm", "head"))
_ENOUGH = len(ANCHORS) // 2
_MAX_DEPTH, _MAX_STEPS, _MAX_LEAVES, _MAX_PATH, _MAX_STATES = 64, 400_000, 50_000, 500, 16
_MAX_KEY_LETTERS = 60  # letters that a line shows
_LARGE_TENSOR_SHARE = 0.1  # of a network's numbers, in one tensor: its parameters in a row

_TIMM = re.compile(r"(^|\.)(pos_embed|cls_token)_(?=\d+$)")
# Modules around a module, which add a step to its names wherever they stand.
_WRAPPERS = frozenset(("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "module"))
_WITHIN = re.compile(rf"\.(?:{'|'.join(sorted(_WRAPPERS))})(?=\.)")
_NAME = re.compile(rf"(?:^|\.)(?:{'|'.join(sorted(NAMESPACE))})(?=\.)")

# A step of a path is told by its words: `modelEMA`, `model_ema` and `ema.model` have the same.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")
_AVERAGED, _NEUTRAL, _NOT_AVERAGED, _OPTIMIZER, _MOMENT, _ADAMS, _NETWORK = (
    frozenset(words.split())
    for words in (
        "ema ewma swa avg average averaged averages averaging averager polyak shadow",
        "model models net network module backbone classifier crossvit state states dict weight weights param params "
        "parameter parameters decay moving exp exponential running callback handler",
        "raw backup collected online current source orig original live stored",
        "optimizer optimizers optim optims opt opts optimiser optimisers grad grads gradient gradients scheduler "
        "schedulers scaler scalers",
        "moment moments momentum momenta",
        "exp avg sq inf max",  # `exp_avg`, `exp_avg_sq`, `exp_inf`
        "model models net network encoder backbone teacher student",  # a `momentum_encoder` is a network
    )
)
# Parts of a module that serve its training alone, and buffers that profilers leave in each layer.
_TRAINING = re.compile(r"loss|criteri|metric|accura|(?<![a-z])(acc|auroc|f1|confmat|sched|teacher)(?![a-z])")
_COUNTERS = frozenset(("total_ops", "total_params", "num_batches_tracked"))


@dataclass(frozen=True)
class StateDict:
    """The tensors under one prefix, by their names behind it (IBM's)."""

    prefix: str
    tensors: Leaves

    @property
    def key(self) -> str:
        """Where it stands in the file, for messages; empty if it is the whole file."""
        return self.prefix.removesuffix(".")

    @property
    def is_average(self) -> bool:
        return _average_key(self.key) is not None and not self.is_backup

    @property
    def is_backup(self) -> bool:
        """Whether these are the weights that were not averaged, which an average keeps within it."""
        return _is_backup(self.key)


def leaves(content: object) -> Leaves:
    """Every tensor in nested mappings, lists, objects and modules, by its path; raises Malformed if they never end.

    Of two tensors with one path neither is usable: nothing says which is meant.
    """
    found: Leaves = {}
    sources: dict[str, object] = {}
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
                if sources.setdefault(here, child) is child:
                    found.setdefault(here, leaf)
                else:
                    found[here] = Unusable("one of two tensors under this key: keep the one that is meant")
                if len(found) > _MAX_LEAVES:  # a CrossViT has 400, its optimizer three times as many
                    raise Malformed(f"it holds more than {_MAX_LEAVES:,} tensors, as no checkpoint does")
            elif id(child) not in above and len(stack) < _MAX_DEPTH:
                stack.append((here, _children(child), id(child)))
                above.add(id(child))
                break
        else:
            stack.pop()
            above.discard(node)
    return found


def states(found: Leaves) -> list[StateDict]:
    """Every prefix behind which the names of a CrossViT stand, with all tensors there, in the file's order.

    What lies below an optimizer or gradients has such names too, and is none. Raises Malformed if there are too many.
    """
    named = _named(found)
    votes: Counter[str] = Counter()
    for path in named:
        parts = path.rsplit(".", 3)
        for start in range(len(parts)):
            name = ".".join(parts[start:])
            if name in ANCHORS:
                votes[path.removesuffix(name)] += 1
    prefixes = [prefix for prefix, count in votes.items() if count >= _ENOUGH]
    networks = [prefix for prefix in prefixes if not _is_optimizers(prefix)]
    if len(networks) > _MAX_STATES:
        raise Malformed(f"it holds more than {_MAX_STATES} networks: keep the one that is meant")
    return [StateDict(prefix, dict(_behind(prefix, named, prefixes))) for prefix in networks]


def optimizers(found: Leaves) -> list[str]:
    """The keys of optimizers and gradients that tensors lie below."""
    keys = (key for path in found if (key := _first_step(path, _says_optimizer)) is not None)
    return list(dict.fromkeys(keys))


def lists_in_order(found: Leaves, models: Iterable[tuple[StateDict, Iterable[Sequence[str]]]]) -> Iterator[StateDict]:
    """Averages that are a list of tensors without names (torch_ema's `shadow_params`), in the order of a model's.

    Each model comes with the orders that its parameters may have had. A list whose shapes are those of no order, or of
    several, is left out: nothing says what its tensors are.
    """
    lists: dict[str, list[Leaf]] = {}
    for path, leaf in found.items():
        prefix, _, index = path.rpartition(".")
        if index == str(len(lists.get(prefix, ()))):
            lists.setdefault(prefix, []).append(leaf)
    ema = {p: values for p, values in lists.items() if not _is_optimizers(p) and StateDict(f"{p}.", {}).is_average}
    if not ema:
        return
    orders = {
        tuple((name, _shape(model.tensors[name])) for name in order) for model, known in models for order in known
    }
    for prefix, values in ema.items():
        shapes = [_shape(leaf) for leaf in values]
        matching = [order for order in orders if len(order) == len(shapes) and [shape for _, shape in order] == shapes]
        if len(matching) == 1:
            yield StateDict(f"{prefix}.", {name: leaf for (name, _), leaf in zip(matching[0], values, strict=True)})


def averages(found: Leaves, like: Iterable[StateDict]) -> list[str]:
    """The keys that say that what lies below is an average, where that may be one of a network `like` these."""
    shapes, sizes = set[tuple[int, ...]](), [0]
    for state in like:
        held = [_shape(leaf) for leaf in state.tensors.values()]
        shapes.update(shape for shape in held if math.prod(shape) > 1)
        sizes.append(sum(map(math.prod, held)))
    keys: dict[str, None] = {}
    for path, leaf in found.items():
        shape = _shape(leaf)
        one_of_many = isinstance(leaf, Unusable) or shape in shapes
        key = _average_key(path.rpartition(".")[0] if one_of_many else path)
        if key is None or _is_backup(path) or _is_optimizers(path):
            continue
        if one_of_many or math.prod(shape) > max(sizes) * _LARGE_TENSOR_SHARE:
            keys[key] = None
    return list(keys)


def _named(found: Leaves) -> Leaves:
    """The tensors by IBM's names behind their prefixes, without the steps of wrappers within the names."""
    names = [_ibm_name(path) for path in found]
    count = Counter(names)  # where two would have one name, both keep theirs
    return {name if count[name] == 1 else path: leaf for name, (path, leaf) in zip(names, found.items(), strict=True)}


def _ibm_name(path: str) -> str:
    start = _NAME.search(path)
    if start is not None:
        path = path[: start.end()] + _WITHIN.sub("", path[start.end() :])
    return _TIMM.sub(r"\1\2.", path)


def _shape(leaf: Leaf) -> tuple[int, ...]:
    return () if isinstance(leaf, Unusable) else leaf.shape


def _behind(prefix: str, named: Leaves, prefixes: Iterable[str]) -> Iterator[tuple[str, Leaf]]:
    """The tensors behind `prefix` but for those of other networks, of training and of profilers."""
    others = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
    for path, leaf in named.items():
        if not path.startswith(prefix) or (others and path.startswith(others)):
            continue
        name = path.removeprefix(prefix)
        first, last = name.partition(".")[0], name.rpartition(".")[2]
        if last not in _COUNTERS and (first in NAMESPACE or not (_is_training(first) or _is_counter(leaf))):
            yield name, leaf


def _is_training(step: str) -> bool:
    return bool(_TRAINING.search(step)) or _says_average(step) or _says_optimizer(step)


def _is_counter(leaf: Leaf) -> bool:
    return not isinstance(leaf, Unusable) and leaf.dtype not in WEIGHT_DTYPES and set(leaf.shape) <= {1}


def passed_over(found: Leaves, state: StateDict) -> list[str]:
    """What the file holds besides `state`: the keys where the paths part, each with how many tensors it has."""
    taken = set(map(id, state.tensors.values()))
    steps = [state.prefix[: match.end()] for match in re.finditer(r"[^.]*\.", state.prefix)]
    groups: Counter[str] = Counter()
    for path, leaf in found.items():
        if id(leaf) not in taken:
            common = next((step for step in reversed(steps) if path.startswith(step)), "")
            last = path.rpartition(".")[2]
            groups[f"*.{last}" if last in _COUNTERS else common + path.removeprefix(common).partition(".")[0]] += 1
    shown = (
        (key if len(key) <= _MAX_KEY_LETTERS else key[:_MAX_KEY_LETTERS] + "…", count) for key, count in groups.items()
    )
    return [f"{key} ({count} tensors)" if count > 1 else key for key, count in shown]


@lru_cache(maxsize=4096)
def _words(step: str) -> frozenset[str]:
    """The words of one step, in small letters; none of a wrapper, whose name says nothing."""
    return frozenset() if step in _WRAPPERS else frozenset(map(str.lower, _WORD.findall(step)))


def _says_average(step: str) -> bool:
    """Whether no word of it speaks of something else, as in `avg_pool`."""
    words = _words(step)
    return bool(words & _AVERAGED) and words <= _AVERAGED | _NEUTRAL


def _says_optimizer(step: str) -> bool:
    words = _words(step)
    return (
        bool(words & _OPTIMIZER)
        or (bool(words & _MOMENT) and not words & _NETWORK)
        or ("exp" in words and len(words) > 1 and words <= _ADAMS)
    )


def _first_step(path: str, says: Callable[[str], bool]) -> str | None:
    """`path` as far as the first step of which `says` is true."""
    steps = path.split(".")
    return next((".".join(steps[: index + 1]) for index, step in enumerate(steps) if says(step)), None)


def _is_optimizers(path: str) -> bool:
    return _first_step(path, _says_optimizer) is not None


def _average_key(path: str) -> str | None:
    """`path` as far as the last step that says that it is an average."""
    steps = path.split(".")
    last = max((index for index, step in enumerate(steps) if _says_average(step)), default=None)
    return None if last is None else ".".join(steps[: last + 1])


def _is_backup(path: str) -> bool:
    """Whether a step behind one that says average says that it is not."""
    key = _first_step(path, _says_average)
    return key is not None and any(_words(step) & _NOT_AVERAGED for step in path.removeprefix(key).split("."))


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

"""The SOURCE of `crossvit pull`: a variant's name, a checkpoint, or a repository of the hub."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from model.checkpoint import checkpoint_variant
from model.spec import VARIANTS, Variant, variant_named
from model.weights import HUB, WeightsUnavailable, find_weights

_SAYS_NOTHING = ("model", "pytorch_model", "checkpoint", "best", "last", "weights")  # names of files of many networks


@dataclass(frozen=True)
class PullSource:
    """What a SOURCE names: the network, the choice of weights as find_weights takes it, and the bundle's name."""

    variant: Variant
    weights: str
    name: str


def pull_source(source: str, variant: str | None, say: Callable[[str], None]) -> PullSource:
    """The network and the weights that `source` names; `variant` is that of a checkpoint, if it is given.

    A variant's name is one even where a file is called so. Raises WeightsUnavailable and BadCheckpoint.
    """
    path = Path(source).expanduser()
    if source not in VARIANTS and path.exists():
        return PullSource(_variant_of(source, variant, say), source, _name(path))
    try:
        named = variant_named(source)
    except ValueError as err:
        raise WeightsUnavailable(f"{source} is no file and no folder, and no variant: {err}") from err
    if variant not in (None, named.name):
        raise WeightsUnavailable(f"{source} is not {variant}: --variant is for a checkpoint")
    return PullSource(named, HUB, named.name)


def _variant_of(source: str, variant: str | None, say: Callable[[str], None]) -> Variant:
    if variant is not None:
        return VARIANTS[variant]
    weights = find_weights(source, next(iter(VARIANTS.values())), say)
    assert weights.path is not None
    return checkpoint_variant(weights.path)


def _name(path: Path) -> str:
    """What the bundle is called: as the file, or as its folder where that says nothing."""
    path = path.resolve()
    stem = path.name.partition(".")[0] if path.is_file() else path.name
    return path.parent.name if path.is_file() and stem in _SAYS_NOTHING else stem

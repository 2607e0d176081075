"""The SOURCE of `crossvit pull`: a variant's name, a checkpoint, or a repository of the hub."""

from dataclasses import dataclass
from pathlib import Path

from model.checkpoint import Say
from model.hub import HUB_PREFIX
from model.spec import VARIANTS, Variant, variant_named
from model.weights import PRETRAINED, Weights, WeightsUnavailable, located_weights, variant_of

_SAYS_NOTHING = ("model", "pytorch_model", "checkpoint", "best", "last", "weights")  # names of files of many networks


@dataclass(frozen=True)
class PullSource:
    """What a SOURCE names: the network, its weights or their choice as find_weights takes it, and the bundle's name."""

    variant: Variant
    weights: Weights | str
    name: str


def pull_source(source: str, variant: str | None, say: Say) -> PullSource:
    """The network and the weights that `source` names; `variant` is that of a checkpoint, if it is given.

    A variant's name is one even where a file is called so. Raises WeightsUnavailable and BadCheckpoint.
    """
    path = Path(source).expanduser()
    if source.startswith(HUB_PREFIX):
        name = source.removeprefix(HUB_PREFIX).partition("@")[0].rpartition("/")[2]
        return _located(source, variant, name, say)
    if source not in VARIANTS and path.exists():
        return _located(source, variant, _name(path), say)
    try:
        named = variant_named(source)
    except ValueError as err:
        raise WeightsUnavailable(f"{source} is no file and no folder, and no variant: {err}") from err
    if variant not in (None, named.name):
        raise WeightsUnavailable(f"{source} is not {variant}: --variant is for a checkpoint")
    return PullSource(named, PRETRAINED, named.name)


def _located(source: str, variant: str | None, name: str, say: Say) -> PullSource:
    weights = located_weights(source, say)
    assert weights.path is not None
    return PullSource(VARIANTS[variant] if variant else variant_of(weights.path), weights, name)


def _name(path: Path) -> str:
    """What the bundle is called: as the file, or as its folder where that says nothing."""
    path = path.resolve()
    stem = path.name.partition(".")[0] if path.is_file() else path.name
    return path.parent.name if path.is_file() and stem in _SAYS_NOTHING else stem

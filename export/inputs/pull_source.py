"""The weights of `crossvit pull`'s SOURCE: a variant's name, a checkpoint, or a repository of the hub."""

from dataclasses import dataclass
from pathlib import Path

from model.checkpoint import Say
from model.hub_repository import HUB_PREFIX
from model.spec import VARIANTS, Variant, variant_named
from model.weights import PRETRAINED, Weights, WeightsUnavailable, located_weights, variant_of


@dataclass(frozen=True)
class PullSource:
    """What a SOURCE names: the network, and its weights or their choice as find_weights takes it."""

    variant: Variant
    weights: Weights | str


def pull_source(source: str, variant: str | None, say: Say) -> PullSource:
    """The network and the weights that `source` names; `variant` is that of a checkpoint, if it is given.

    A variant's name is one even where a file is called so. Raises WeightsUnavailable and BadCheckpoint.
    """
    path = Path(source).expanduser()
    if source.startswith(HUB_PREFIX) or (source not in VARIANTS and path.exists()):
        return _located(source, variant, say)
    try:
        named = variant_named(source)
    except ValueError as err:
        raise WeightsUnavailable(f"{source} is no file and no folder, and no variant: {err}") from err
    if variant not in (None, named.name):
        raise WeightsUnavailable(f"{source} is not {variant}: --variant is for a checkpoint")
    return PullSource(named, PRETRAINED)


def _located(source: str, variant: str | None, say: Say) -> PullSource:
    weights = located_weights(source, say)
    assert weights.path is not None
    return PullSource(VARIANTS[variant] if variant else variant_of(weights.path), weights)

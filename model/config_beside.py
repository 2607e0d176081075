"""The config.json that timm and Hugging Face write beside a checkpoint: network, preprocessing and names of classes.

timm's form is that of `timm.models.save_for_hf`, its preprocessing that of `timm.data.create_transform`.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from model.spec import (
    LARGEST_SIDE,
    LEAST_SIDE,
    Normalization,
    Preprocessing,
    Variant,
    branch_sides,
    follow_from_one_side,
    variant_named,
)

NAME = "config.json"
_MAX_CONFIG_BYTES = 16 << 20
_TIMMS_CROP = 0.875  # without a crop_pct
_LEAST_CROP = 0.5  # the least share that is believed


class BadConfig(ValueError):
    """The file cannot belong to the checkpoint beside it; the message says what to do."""


def config_variant(weights: Path) -> Variant | None:
    """The network that the config.json beside `weights` names, if there is one that does."""
    found = _read(weights)
    return found[1] if found is not None else None


def config_beside(weights: Path, variant: Variant) -> dict[str, Any] | None:
    """The content of the config.json beside `weights`, or None if there is none of `variant`."""
    found = _read(weights)
    if found is None or found[1].name.removesuffix("_384") != variant.name.removesuffix("_384"):
        return None
    return found[0]


def normalization_in(config: dict[str, Any]) -> Normalization | None:
    """The mean and std in timm's `pretrained_cfg`, or beside it; BadConfig if they cannot be of pixels."""
    values = _pretrained_cfg(config)
    if values.get("mean") is None or values.get("std") is None:
        return None
    try:
        return Normalization(_three(values["mean"]), _three(values["std"]))
    except (TypeError, ValueError) as err:
        raise BadConfig(f"{NAME} beside the weights: {err}; give them with --mean and --std") from err


def preprocessing_in(config: dict[str, Any], sides: tuple[int, int]) -> dict[int, Preprocessing]:
    """Resizing and cropping at the resolution that `config` is for, of a network trained at `sides` (S, L).

    timm's `input_size` is a side of S or of L: 240 with `crop_pct` 0.875 resizes to 274 and crops 240, at the
    resolution 224. Empty if `config` has no square size, or one that such a network does not see. Raises BadConfig if
    the share is none.
    """
    values = _pretrained_cfg(config)
    match values.get("input_size"):
        case [_, int(height), int(width)] if height == width and LEAST_SIDE <= height <= LARGEST_SIDE:
            crop = height
        case _:
            return {}
    if not follow_from_one_side(*sides) and crop not in sides:
        return {}
    share = values.get("crop_pct", _TIMMS_CROP)
    if not isinstance(share, int | float) or not _LEAST_CROP <= share <= 1:
        raise BadConfig(f"{NAME} beside the weights: crop_pct {share!r} is no share of an image; give --preprocess")
    resolution = branch_sides(crop)[1] if follow_from_one_side(*sides) else sides[1]
    return {resolution: Preprocessing(math.floor(crop / share), crop)}


def done_otherwise(config: dict[str, Any]) -> Iterator[str]:
    """What `config` asks of the preprocessing that this project does in another way, a sentence each."""
    values = _pretrained_cfg(config)
    for key, ours in (("interpolation", "bicubic"), ("crop_mode", "center")):
        asked = values.get(key, ours)
        if asked != ours:
            yield f"{NAME} beside the weights asks for {key} {asked!r}; {ours} is used instead"


def labels_in(config: dict[str, Any]) -> bool:
    """Whether `config` names the classes, so that it can be read as a label file."""
    return any(isinstance(config.get(key), list | dict) and config[key] for key in ("label_names", "id2label"))


def _read(weights: Path) -> tuple[dict[str, Any], Variant] | None:
    """The content of the config.json beside `weights` and the network that it names."""
    try:
        with weights.with_name(NAME).open("rb") as file:
            content = json.loads(file.read(_MAX_CONFIG_BYTES))
        return content, variant_named(content["architecture"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # of another kind


def _pretrained_cfg(config: dict[str, Any]) -> dict[str, Any]:
    nested = config.get("pretrained_cfg")
    return config | (nested if isinstance(nested, dict) else {})


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue

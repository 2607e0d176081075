"""The config.json that timm and Hugging Face write beside a checkpoint: normalisation and names of classes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.spec import Normalization, Variant, variant_named

NAME = "config.json"
_MAX_CONFIG_BYTES = 16 << 20


class BadConfig(ValueError):
    """The file cannot belong to the checkpoint beside it; the message says what to do."""


def config_beside(weights: Path, variant: Variant) -> dict[str, Any] | None:
    """The content of the config.json beside `weights`, or None if there is none of `variant`."""
    path = weights.with_name(NAME)
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MAX_CONFIG_BYTES))
        named = variant_named(content["architecture"]).name
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # of another kind, or of another network
    return content if named.removesuffix("_384") == variant.name.removesuffix("_384") else None


def normalization_in(config: dict[str, Any]) -> Normalization | None:
    """The mean and std in timm's `pretrained_cfg`, or beside it; BadConfig if they cannot be of pixels."""
    nested = config.get("pretrained_cfg")
    values = config | (nested if isinstance(nested, dict) else {})
    if values.get("mean") is None or values.get("std") is None:
        return None
    try:
        return Normalization(_three(values["mean"]), _three(values["std"]))
    except (TypeError, ValueError) as err:
        raise BadConfig(f"{NAME} beside the weights: {err}; give them with --mean and --std") from err


def labels_in(config: dict[str, Any]) -> bool:
    """Whether `config` names the classes, so that it can be read as a label file."""
    return any(isinstance(config.get(key), list | dict) and config[key] for key in ("label_names", "id2label"))


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue

"""What classes are called: WordNet's identifier and first lemma of each of ImageNet-1k's; imports no torch."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NotRequired, TypedDict

# In the order of ImageNet-1k's indices.
IMAGENET = Path(__file__).parent / "data" / "imagenet1k.json"


class Label(TypedDict):
    """A class of a network; `imagenet_index` is its place in ImageNet-1k, if it is one of those."""

    index: int
    wnid: str | None
    label: str
    imagenet_index: NotRequired[int]


def labels_of(categories: Sequence[str]) -> list[Label]:
    """The labels of classes that are called so on disk: by ImageNet-1k's wnid, else the name itself is the label."""
    known = _by_wnid()
    labels = []
    for index, category in enumerate(categories):
        if category in known:
            imagenet_index, lemma = known[category]
            labels.append(Label(index=index, wnid=category, label=lemma, imagenet_index=imagenet_index))
        else:
            labels.append(Label(index=index, wnid=None, label=category))
    return labels


def labels_beside(weights: Path) -> Path | None:
    """The file that names the classes of a checkpoint: NAME.labels.json beside NAME.safetensors, if it is there."""
    path = weights.with_suffix(".labels.json")
    return path if path.is_file() else None


def recipe_beside(weights: Path) -> Path:
    """Where it says how a checkpoint was trained."""
    return weights.with_suffix(".recipe.json")


@cache
def _by_wnid() -> dict[str, tuple[int, str]]:
    entries = json.loads(IMAGENET.read_text(encoding="utf-8"))
    return {entry["wnid"]: (index, entry["label"]) for index, entry in enumerate(entries)}

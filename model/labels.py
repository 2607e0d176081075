"""The names of classes: ImageNet-1k's, those of folders, or a file's; imports no torch."""

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NotRequired, TypedDict

from model.control_characters import controls, trimmed
from model.label_files.label_file import read_label_file
from model.label_files.structured_labels import WNID, BadLabels, ClassEntry
from model.spec import IMAGENET_CLASSES

__all__ = ["BadLabels", "LabelEntry", "can_be_label", "labels_beside", "labels_for", "labels_of", "recipe_beside"]

# WordNet's identifier and first lemma of each class, in the order of ImageNet-1k's indices.
IMAGENET = Path(__file__).parent / "data" / "imagenet1k.json"

MAX_LABEL_CHARACTERS = 500
_BACKGROUND = ("background", "__background__", "_background_", "???", "#na#", "__ignore__", "dummy", "unlabeled")
_HEADERS = ("label", "labels", "name", "names", "class", "classes", "class_name", "category", "categories", "wnid")


class LabelEntry(TypedDict):
    """A class of a network; `imagenet_index` is its place in ImageNet-1k, where that is known."""

    index: int
    wnid: str | None
    label: str
    imagenet_index: NotRequired[int]


def labels_for(path: Path | None, classes: int) -> list[LabelEntry]:
    """`classes` labels in index order, from `path` or, without one, ImageNet-1k's.

    `model.label_files` says which forms a file may have. Raises BadLabels, also if the count is not `classes`.
    """
    if path is None and classes != IMAGENET_CLASSES:
        raise BadLabels(
            f"the head has {classes} classes, so they are not ImageNet-1k's {IMAGENET_CLASSES}: "
            "give their names with --labels FILE"
        )
    path = path or IMAGENET
    entries = read_label_file(path)
    if len(entries) != classes:
        raise BadLabels(_other_count(entries, classes, path.name))
    labels = [_label(index, entry, path.name) for index, entry in enumerate(entries)]
    _check_order([label["wnid"] for label in labels], path.name)
    return labels


def labels_of(categories: Sequence[str]) -> list[LabelEntry]:
    """The labels of classes by their folders' names: a wnid of ImageNet-1k gets its label, others are the label."""
    known = _by_wnid()
    labels = []
    for index, category in enumerate(categories):
        if category in known:
            imagenet_index, lemma = known[category]
            labels.append(LabelEntry(index=index, wnid=category, label=lemma, imagenet_index=imagenet_index))
        else:
            labels.append(LabelEntry(index=index, wnid=None, label=category))
    return labels


def labels_beside(weights: Path) -> Path | None:
    """The file that names the classes of a checkpoint: NAME.labels.json beside NAME.safetensors, if it is there."""
    path = weights.with_suffix(".labels.json")
    return path if path.is_file() else None


def recipe_beside(weights: Path) -> Path:
    """The path of a checkpoint's recipe: NAME.recipe.json beside NAME.safetensors."""
    return weights.with_suffix(".recipe.json")


def _label(index: int, entry: ClassEntry, origin: str) -> LabelEntry:
    label, wnid = entry.label, entry.wnid
    if label is None and isinstance(wnid, str) and WNID.fullmatch(wnid):
        label = _by_wnid()[wnid][1] if wnid in _by_wnid() else wnid
    label = trimmed(label) if isinstance(label, str) else label
    if not isinstance(label, str) or not label or not isinstance(wnid, str | None):
        blank = f": line {index + 1} is blank" if label == "" else ""
        raise BadLabels(f"{origin}: the label of index {index} is not a name{blank}")
    if not can_be_label(label, wnid or ""):
        raise BadLabels(
            f"{origin}: the label of index {index} is not a name: {label[:40]!r} has control characters, or more "
            f"than {MAX_LABEL_CHARACTERS} characters"
        )
    return LabelEntry(index=index, wnid=wnid, label=label)


def _other_count(entries: Sequence[ClassEntry], classes: int, origin: str) -> str:
    """Why a file has another number of labels than the head has classes, as far as that can be told."""
    texts = [str(entry.label if entry.label is not None else entry.wnid)[:40] for entry in entries]
    counts = f"{origin} has {len(texts)} labels, but the head has {classes} classes"
    shown = f"the first is {texts[0]!r}, the last {texts[-1]!r}"
    if "" in texts:
        return f"{counts}: line {1 + texts.index('')} is blank"
    if len(texts) == classes + 1 and texts[0].casefold() in _BACKGROUND:
        return f"{counts}: the first is {texts[0]!r}, a background that this network does not know; remove it"
    if len(texts) == classes + 1 and texts[0].casefold() in _HEADERS:
        return f"{counts}: the first line is {texts[0]!r}, a header; remove it"
    if len(texts) == 1 and re.search(r"[,;\t]", texts[0]):
        return f"{counts}: several names are in one line ({texts[0]!r}); give one a line, or a JSON list"
    return f"{counts}; {shown}"


def _check_order(wnids: Sequence[str | None], origin: str) -> None:
    """BadLabels for all of ImageNet-1k's classes in another order than its indices, which is that of the wnids."""
    if set(wnids) == set(_by_wnid()) and list(wnids) != list(_by_wnid()):
        raise BadLabels(
            f"{origin} has ImageNet-1k's wnids in another order than its indices, that of the wnids themselves: "
            f"{wnids[0]} comes first. Without --labels the names are ImageNet-1k's"
        )


def can_be_label(*texts: str) -> bool:
    """Whether `texts` can be written and shown as they are.

    JSON may hold half of a surrogate pair, and a file's name bytes that are not UTF-8: these are as bad as a terminal's
    control characters.
    """
    return all(len(text) <= MAX_LABEL_CHARACTERS and not any(map(controls, text)) for text in texts)


@cache
def _by_wnid() -> dict[str, tuple[int, str]]:
    entries = json.loads(IMAGENET.read_text(encoding="utf-8"))
    return {entry["wnid"]: (index, entry["label"]) for index, entry in enumerate(entries)}

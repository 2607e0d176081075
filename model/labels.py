"""What classes are called: ImageNet-1k's names, those of folders, or a file's; imports no torch."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NotRequired, TypedDict

from model.spec import IMAGENET_CLASSES

# WordNet's identifier and first lemma of each class, in the order of ImageNet-1k's indices.
IMAGENET = Path(__file__).parent / "data" / "imagenet1k.json"


class Label(TypedDict):
    """A class of a network; `imagenet_index` is its place in ImageNet-1k, where that is known."""

    index: int
    wnid: str | None
    label: str
    imagenet_index: NotRequired[int]


class BadLabels(ValueError):
    """A label file that cannot be read or does not fit the head; the message says what was seen."""


def labels_for(path: Path | None, classes: int) -> list[Label]:
    """`classes` labels in index order, from `path` or, without one, ImageNet-1k's.

    A file is one name a line, or JSON: a list of names, a list of {"label": …, "wnid": …}, or an object from index
    to either. Raises BadLabels, also where the count is not `classes`.
    """
    if path is None and classes != IMAGENET_CLASSES:
        raise BadLabels(
            f"the head has {classes} classes, so they are not ImageNet-1k's {IMAGENET_CLASSES}: "
            "give their names with --labels FILE"
        )
    path = path or IMAGENET
    entries = _entries(path)
    if len(entries) != classes:
        raise BadLabels(f"{path.name} has {len(entries)} labels, but the head has {classes} classes")
    return [_label(index, entry, path.name) for index, entry in enumerate(entries)]


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


def _entries(path: Path) -> list[object]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as err:
        raise BadLabels(f"cannot read {path}: {err.strerror}") from err
    except UnicodeDecodeError as err:
        raise BadLabels(f"{path.name} is not UTF-8 text") from err
    if path.suffix.lower() != ".json":
        return [line.strip() for line in text.rstrip().split("\n")]
    try:
        content = json.loads(text)
    except json.JSONDecodeError as err:
        raise BadLabels(f"{path.name} is not JSON: line {err.lineno}, column {err.colno}") from err
    except RecursionError as err:
        raise BadLabels(f"{path.name} is nested too deeply to be a list of labels") from err
    if isinstance(content, dict):
        missing = [index for index in range(len(content)) if str(index) not in content]
        if missing:
            raise BadLabels(f"{path.name} has {len(content)} labels, but none for index {missing[0]}")
        return [content[str(index)] for index in range(len(content))]
    if isinstance(content, list):
        return content
    raise BadLabels(f"{path.name} must be a list, or an object from index to name")


def _label(index: int, entry: object, origin: str) -> Label:
    label, wnid = (entry.get("label"), entry.get("wnid")) if isinstance(entry, dict) else (entry, None)
    texts = [text for text in (label, wnid) if isinstance(text, str)]
    if not isinstance(label, str) or not label.strip() or not isinstance(wnid, str | None) or not is_text(*texts):
        raise BadLabels(f"{origin}: the label of index {index} is no name")
    return Label(index=index, wnid=wnid, label=label.strip())


def is_text(*texts: str) -> bool:
    """Whether `texts` can be written: JSON may hold half of a surrogate pair, a file's name bytes that are no UTF-8."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


@cache
def _by_wnid() -> dict[str, tuple[int, str]]:
    entries = json.loads(IMAGENET.read_text(encoding="utf-8"))
    return {entry["wnid"]: (index, entry["label"]) for index, entry in enumerate(entries)}

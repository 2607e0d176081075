"""Finds a class by what a client calls it."""

import difflib
from collections.abc import Sequence

from app.errors import BadParameter
from bundle.class_labels import ClassLabel

_SHOWN = 5  # classes in a message


def chosen_class(labels: Sequence[ClassLabel], text: str) -> int:
    """The index of the class that `text` names: an index, a wnid or a label, in this order; case does not matter.

    BadParameter says which classes are meant if there are several, and which are near if there is none.
    """
    text = text.strip()
    if text.isascii() and text.isdecimal() and int(text[:10]) < len(labels):
        return int(text[:10])
    wanted = text.casefold()
    found = [label for label in labels if label.wnid and wanted == label.wnid.casefold()]
    found = found or [label for label in labels if wanted == label.label.casefold()]
    if len(found) == 1:
        return found[0].index
    if found:
        raise BadParameter(f"{len(found)} classes are called {text[:60]!r}: {_listed(found)}; name one by its index")
    if text.isascii() and text.isdecimal():
        raise BadParameter(f"there is no class {text[:20]}: the indices are 0 to {len(labels) - 1}")
    near = _near(labels, wanted)
    raise BadParameter(
        f"there is no class {text[:60]!r}: name one by its index, its wnid or its whole label"
        + (f"; the nearest: {_listed(near)}" if near else "")
    )


def _near(labels: Sequence[ClassLabel], wanted: str) -> list[ClassLabel]:
    """The classes with `wanted` in their labels, or labels like it."""
    wanted = wanted[:100]
    within = [label for label in labels if wanted and wanted in label.label.casefold()]
    by_label = {label.label.casefold(): label for label in labels}
    return within or [by_label[name] for name in difflib.get_close_matches(wanted, by_label, n=3)]


def _listed(labels: Sequence[ClassLabel]) -> str:
    names = [f"{label.index} ({label.label[:60]})" for label in labels[:_SHOWN]]
    return ", ".join([*names, *(["…"] if len(labels) > _SHOWN else [])])

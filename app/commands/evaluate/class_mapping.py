"""Which of a model's classes a class of the data is: by WordNet id, by label, or by index."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

from app.errors import BadParameter
from bundle.class_labels import ClassLabel


class Named(Protocol):
    """A class of the model; Label and Prediction are some."""

    index: int
    wnid: str | None
    label: str


Class = TypeVar("Class", bound=Named)


def check_classes(classes: int | None) -> None:
    """BadParameter for a model of one class, which is the best one of every image."""
    if classes == 1:
        raise BadParameter(
            "the model has one class, so that every image's best class is right: accuracy says nothing of it; take "
            "the scores that `crossvit classify --format csv` prints"
        )


def match(categories: Collection[str], labels: Sequence[ClassLabel]) -> dict[str, ClassLabel]:
    """The model's class for each of `categories`: the one with this wnid, or else with this very label.

    If no category is either and all are indices of classes, they count as these. BadParameter if a class is missing, or
    a label is that of several classes.
    """
    wnids = {label.wnid: label for label in labels if label.wnid}
    names = {label.label: label for label in labels}
    found = {each: label for each in categories if (label := wnids.get(each) or names.get(each))}
    if not found and _are_numbers(categories):
        found = {each: labels[int(each)] for each in categories if int(each) < len(labels)}
    missing = sorted(set(categories) - set(found))
    if missing:
        raise BadParameter(_missing(missing, len(categories), labels))
    _check_unique([each for each, label in found.items() if each == label.label], labels)
    return found


class PredictionMatcher:
    """Finds the data's classes among the predictions of answers, where nobody tells all classes of the model.

    A prediction is right if its wnid or its label is the data's class. Where the data's classes are all indices of the
    model's `classes`, and the labels of the predictions are no numbers themselves, it is right if its index is.
    """

    def __init__(self, categories: Collection[str], classes: int | None) -> None:
        self._indices = _are_numbers(categories) and all(int(each) < (classes or 0) for each in categories)
        self._seen: dict[str, int] = {}

    def rank(self, category: str, predictions: Sequence[Class]) -> int | None:
        """The place of `category` among `predictions`, 1 for the first; None if it is not among them.

        BadParameter once it was found under two indices: a label that two classes share.
        """
        by_index = self._indices and not any(each.label.isdecimal() for each in predictions)
        for rank, each in enumerate(predictions, start=1):
            right = each.index == int(category) if by_index else category in (each.wnid, each.label)
            if right:
                self._check_unique(category, each.index)
                return rank
        return None

    def _check_unique(self, category: str, index: int) -> None:
        if self._seen.setdefault(category, index) != index:
            raise BadParameter(_shared(category, [str(self._seen[category]), str(index)]))


def _are_numbers(categories: Collection[str]) -> bool:
    return all(each.isascii() and each.isdecimal() for each in categories)


def _check_unique(names: Sequence[str], labels: Sequence[ClassLabel]) -> None:
    counts = Counter(label.label for label in labels)
    for name in names:
        if counts[name] > 1:
            raise BadParameter(_shared(name, [each.wnid or str(each.index) for each in labels if each.label == name]))


def _shared(name: str, classes: Sequence[str]) -> str:
    return f"the label {name!r} is that of several classes ({', '.join(classes)}): name the data's by wnid or by index"


def _missing(missing: Sequence[str], total: int, labels: Sequence[ClassLabel]) -> str:
    known = labels[0].wnid or labels[0].label
    return (
        f"{len(missing)} of the data's {total} classes are not among the model's {len(labels)}, "
        f"such as {missing[0]!r}; name them by wnid or label as its labels.json does ({known!r}, …), or all by index"
    )

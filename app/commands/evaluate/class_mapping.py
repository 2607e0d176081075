"""Maps classes of the data to classes of the model: by WordNet id, by label, or by index."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

from app.errors import BadParameter
from bundle.class_labels import ClassLabel


class Named(Protocol):
    """A class of the model, such as ClassLabel or Prediction."""

    index: int
    wnid: str | None
    label: str


Class = TypeVar("Class", bound=Named)


def check_classes(classes: int | None) -> None:
    """BadParameter for a model of one class: it is the best class of every image."""
    if classes == 1:
        raise BadParameter(
            "the model has one class, so every image's best class is correct and accuracy says nothing; use the "
            "scores that `crossvit classify --format csv` prints"
        )


def match_classes(categories: Collection[str], labels: Sequence[ClassLabel]) -> dict[str, ClassLabel]:
    """The model's class for each of `categories`: the one with this wnid, else the one with exactly this label.

    If no category is a wnid or label and all are indices of classes, they are taken as indices. BadParameter if a class
    is missing, or if several classes share the label.
    """
    wnids = {label.wnid: label for label in labels if label.wnid}
    names = {label.label: label for label in labels}
    matches = {name: label for name in categories if (label := wnids.get(name) or names.get(name))}
    if not matches and _are_numbers(categories):
        matches = {number: labels[int(number)] for number in categories if int(number) < len(labels)}
    missing = sorted(set(categories) - set(matches))
    if missing:
        raise BadParameter(_missing(missing, len(categories), labels))
    _check_unique([name for name, label in matches.items() if name == label.label], labels)
    return matches


class PredictionMatcher:
    """Finds the data's classes among the predictions of a server, which does not list all classes of the model.

    A prediction is correct if its wnid or its label is the data's class. If all classes of the data are indices of the
    model's `classes`, and the labels of the predictions are not numbers, it is correct if its index is the class.
    """

    def __init__(self, categories: Collection[str], classes: int | None) -> None:
        self._indices = _are_numbers(categories) and all(int(each) < (classes or 0) for each in categories)
        self._matched: dict[str, int] = {}  # index of each category so far

    def rank(self, category: str, predictions: Sequence[Class]) -> int | None:
        """The rank of `category` among `predictions`, 1 for the first; None if it is not among them.

        BadParameter once it was found under two indices: two classes share the label.
        """
        by_index = self._indices and not any(prediction.label.isdecimal() for prediction in predictions)
        for rank, prediction in enumerate(predictions, start=1):
            names = (prediction.wnid, prediction.label)
            if prediction.index == int(category) if by_index else category in names:
                self._check_unique(category, prediction.index)
                return rank
        return None

    def _check_unique(self, category: str, index: int) -> None:
        if self._matched.setdefault(category, index) != index:
            raise BadParameter(_shared(category, [str(self._matched[category]), str(index)]))


def _are_numbers(categories: Collection[str]) -> bool:
    return all(each.isascii() and each.isdecimal() for each in categories)


def _check_unique(names: Sequence[str], labels: Sequence[ClassLabel]) -> None:
    counts = Counter(label.label for label in labels)
    for name in names:
        if counts[name] > 1:
            raise BadParameter(_shared(name, [each.wnid or str(each.index) for each in labels if each.label == name]))


def _shared(name: str, classes: Sequence[str]) -> str:
    return f"several classes have the label {name!r} ({', '.join(classes)}): name the data's by wnid or by index"


def _missing(missing: Sequence[str], total: int, labels: Sequence[ClassLabel]) -> str:
    known = labels[0].wnid or labels[0].label
    return (
        f"{len(missing)} of the data's {total} classes are not among the model's {len(labels)}, "
        f"such as {missing[0]!r}; name them by wnid or label as its labels.json does ({known!r}, …), or all by index"
    )

"""Lists and objects of labels, wherever they come from, to entries in index order."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from model.label_files.nested_labels import columns, declared_class_labels

MAX_CLASSES = 100_000  # classes that a network may have; ImageNet-21k has 21,841
WANTED = "give one name a line in index order, or a JSON list of names"
AS_THEY_ARE = "If these are names, give a JSON list of them, which is taken as it is"
WNID = re.compile(r"n\d{8}")
# Of possessive parts, so that space which separates nothing is read once, not from each of its places.
SEPARATOR = r"(?:[^\S\t]*+(?:->|=>|→|[:,;=|])|[^\S\t]*+\t\s*+(?:->|=>|→|[:,;=|])?+)\s*+"
WNID_FIRST = re.compile(rf"(n\d{{8}})(?:{SEPARATOR}|\s++)(\S.*+)")

# Keys of objects and columns of tables, in lower case, the likeliest first.
NAMES = (
    *(
        "label",
        "display_name",
        "displayname",
        "name",
        "label_name",
        "class_name",
        "classname",
        "class",
        "category",
        "category_name",
    ),
    *("title", "text", "value", "description", "lemma", "word", "words", "labels"),
)
WNIDS = ("wnid", "synset", "synset_id", "wordnet_id")
INDICES = (
    *("index", "idx", "class_index", "class_idx", "class_id", "label_id", "category_id", "label_index", "id"),
    *("classid", "labelid", "target", "number", "no", "#", "unnamed:_0", ""),  # the last two are of pandas
)
# Under which larger files have their labels; the first that is there and not empty counts.
_HOLDERS = (
    *("id2label", "label2id", "idx_to_class", "class_to_idx", "names", "label_names", "class_names", "categories"),
    *("classes", "default_classes", "labels", "displaynames", "vocab", "label", "items", "tags"),
)
# Under which these lie deeper.
_OUTER = ("metainfo", "meta", "dataset_meta", "data")
_SYNSET = re.compile(r"(\d{8})-n")  # WordNet's way to write n01440764
_PLACEHOLDER = re.compile(r"LABEL_\d+")
_MACHINE_ID = re.compile(r"/(?:m/0|g/1|t/dd)\w*")  # of Freebase, as Open Images and AudioSet have them


class BadLabels(ValueError):
    """A label file that cannot be read or does not fit the head; the message says what was seen."""


@dataclass(frozen=True)
class ClassEntry:
    """What a file says of a class. Neither need be text; None for a label that is ImageNet's of the wnid."""

    label: object
    wnid: object = None


def of_content(content: object, origin: str) -> list[ClassEntry]:
    """The entries of a list or an object; BadLabels if it is neither, or has no labels where they are looked for."""
    if isinstance(content, Mapping) and content:
        return _of_object(content, origin)
    if isinstance(content, list | tuple) and content:
        return _of_list(content, origin)
    raise BadLabels(f"{origin} must be a list, or an object from index to name; {WANTED}")


def of_objects(items: Sequence[Mapping[str, object]], origin: str) -> list[ClassEntry]:
    """The entries of objects, or of a table's rows, whose keys are in lower case; by their indices if they have some.

    A column of wnids is known by what is in it, and so is one of indices that is called like one of names.
    """
    shared = [key for key in items[0] if all(key in item for item in items)]
    wnid = next((key for key in shared if all(_wnid(item[key]) for item in items)), None)
    named = [key for key in NAMES if key in shared and key != wnid]
    textual = [key for key in named if not are_indices(item[key] for item in items)]
    name = next(iter([*textual, *named]), None)
    if name is None and wnid is None:
        name = next((key for key in NAMES if any(key in item for item in items)), None)
    index = _index_key(items, [key for key in named if key != name and key not in textual], origin)
    entries = [
        ClassEntry(item.get(name) if name else None, _wnid(item[wnid]) if wnid else _given(item)) for item in items
    ]
    check_placeholders([entry.label for entry in entries], origin)
    if index is None:
        return entries
    return in_order([as_index(item[index]) for item in items], entries, origin, index)


def in_order(
    numbers: Sequence[int | None], entries: Sequence[ClassEntry], origin: str, key: str = "index"
) -> list[ClassEntry]:
    """The entries by their numbers. BadLabels unless these are a network's classes: 0, 1, 2 and so on."""
    found = dict(zip(numbers, entries, strict=True))
    missing = next((index for index in range(len(entries)) if index not in found), None)
    if missing is None:
        ordered = [found[index] for index in range(len(entries))]
        check_placeholders([entry.label for entry in ordered], origin)
        return ordered
    known = sorted(number for number in found if number is not None)
    twice = ", some of them twice," if len(found) < len(entries) else ""
    raise BadLabels(
        f"{origin} has {len(entries)} labels, but none for index {missing}: its numbers ({key}){twice} go from "
        f"{known[0]} to {known[-1]}. A network's classes are counted from 0 without a gap: number them so, or {WANTED}"
    )


def as_index(value: object) -> int | None:
    """The whole number that `value` is, or spells, also as pandas writes those of a column with gaps: 1.0."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e9:
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}\.0+", value, re.ASCII):
        return int(value.partition(".")[0])
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        return int(value)
    return None


def are_indices(values: Iterable[object]) -> bool:
    return all(as_index(value) is not None for value in values)


def folded(item: Mapping[object, object]) -> dict[str, object]:
    """`item` with its keys as they are looked for: `Class Name` is class_name."""
    return {re.sub(r"[\s-]+", "_", str(key).strip().lower()): value for key, value in item.items()}


def _of_list(content: Sequence[object], origin: str) -> list[ClassEntry]:
    if all(isinstance(item, Mapping) for item in content):
        return of_objects([folded(item) for item in content if isinstance(item, Mapping)], origin)
    if all(isinstance(item, str) for item in content):
        check_placeholders(content, origin)
    if all(isinstance(item, list | tuple) and len(item) == 1 for item in content):
        return _of_list([item[0] for item in content if isinstance(item, list | tuple)], origin)
    pairs = _indexed_pairs(content)
    if pairs is not None:
        return in_order([as_index(number) for number, _ in pairs], [ClassEntry(name) for _, name in pairs], origin)
    return [_entry(item, origin) for item in content]


def _of_object(content: Mapping[object, object], origin: str) -> list[ClassEntry]:
    keys, values = list(content), list(content.values())
    if are_indices(keys) and not all(isinstance(value, int) for value in values):
        return in_order([as_index(key) for key in keys], _entries(values, origin), origin)
    if are_indices(values):  # from name to index; of a network that knows digits, the names are numbers too
        return in_order([as_index(value) for value in values], [ClassEntry(key) for key in keys], origin)
    known = folded(content)
    features = declared_class_labels(content)
    if len(features) > 1:
        raise BadLabels(f"{origin} has {len(features)} features with names of classes; give a JSON list of one's names")
    inner = next(iter(features), None) or columns(known, NAMES)
    if inner is not None:
        return of_content(inner, origin)
    for holder in _HOLDERS:
        held = known.get(holder)
        if _holds(held) and (holder != "tags" or all(isinstance(item, Mapping) for item in held)):
            return of_content(held, origin)
    for holder in _OUTER:
        held = known.get(holder)
        if isinstance(held, list) or (isinstance(held, Mapping) and any(map(_holds, folded(held).values()))):
            return of_content(held, origin)
    if all(_wnid(key) for key in keys) and all(isinstance(value, str) for value in values):
        if keys != sorted(map(str, keys)):
            raise BadLabels(
                f"{origin} goes from wnids to names, not in the order of the wnids, which is ImageNet's: what index "
                "each has cannot be told; give an object from index to name"
            )
        return [ClassEntry(name, wnid) for wnid, name in content.items()]
    raise BadLabels(
        f"{origin} has none for index 0, and no labels under a key that is known here (names, id2label, class_to_idx, "
        f"categories, …), but {str(keys[0])[:40]!r}; {WANTED}"
    )


def _holds(held: object) -> TypeGuard[Mapping[object, object] | Sequence[object]]:
    return isinstance(held, Mapping | list | tuple) and bool(held)


def _indexed_pairs(content: Sequence[object]) -> list[tuple[object, object]] | None:
    """[[0, 'cat'], …] or [['cat', 0], …] as pairs of index and name, or None if it is none of these."""
    pairs = [tuple(item) for item in content if isinstance(item, list | tuple) and len(item) == 2]
    if len(pairs) < len(content):
        return None
    first, second = zip(*pairs, strict=True)
    if are_indices(first) != are_indices(second):
        return pairs if are_indices(first) else [(number, name) for name, number in pairs]
    return None


def _entries(values: Sequence[object], origin: str) -> list[ClassEntry]:
    """What stands behind indices: names, objects, or pairs of wnid and name."""
    if all(isinstance(value, Mapping) for value in values):
        items = [folded(value) for value in values if isinstance(value, Mapping)]
        return of_objects([{key: item[key] for key in item if key not in INDICES or key == "id"} for item in items], "")
    return [_entry(value, origin) for value in values]


def _entry(value: object, origin: str) -> ClassEntry:
    if isinstance(value, Mapping):
        return of_objects([{key: item for key, item in folded(value).items() if key not in INDICES}], origin)[0]
    if _is_pair(value):
        first, second = value
        return ClassEntry(second, first) if _wnid(first) else ClassEntry(first, second)
    if isinstance(value, str) and (found := WNID_FIRST.fullmatch(value)):
        return ClassEntry(found[2], found[1])
    return ClassEntry(None, value) if _wnid(value) else ClassEntry(value)


def _is_pair(value: object) -> TypeGuard[Sequence[str]]:
    """[wnid, name], as Keras has it, or the other way round."""
    pair = isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(text, str) for text in value)
    return pair and any(_wnid(text) for text in value)  # type: ignore[attr-defined]


def _index_key(items: Sequence[Mapping[str, object]], others: Sequence[str], origin: str) -> str | None:
    """The key of the objects' indices, one of `others` if none is called so; BadLabels if some objects lack it."""
    for key in INDICES:
        numbers = [as_index(item.get(key)) is not None for item in items]
        if all(numbers):
            return key
        if any(numbers):
            place = numbers.index(False)
            raise BadLabels(f"{origin}: entry {place} has no number as {key!r}, as others have; {WANTED}")
    return next(iter(others), None)


def _given(item: Mapping[str, object]) -> object:
    """The wnid that an object gives under a key of that name, whatever it is: the reader checks it."""
    return next((item[key] for key in WNIDS if item.get(key) is not None), None)


def _wnid(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    synset = _SYNSET.fullmatch(value)
    if synset:
        return f"n{synset[1]}"
    return value if WNID.fullmatch(value) else None


def check_placeholders(names: Sequence[object], origin: str) -> None:
    if all(isinstance(name, str) and _PLACEHOLDER.fullmatch(name) for name in names):
        raise BadLabels(f"{origin} has no names, but the placeholders of Hugging Face (LABEL_0, …); {WANTED}")
    if all(isinstance(name, str) and _MACHINE_ID.fullmatch(name) for name in names):
        raise BadLabels(f"{origin} has no names, but identifiers such as Freebase's ({next(iter(names))}); {WANTED}")

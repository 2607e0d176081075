"""Labels that lie deep in the files of Hugging Face's datasets and of pandas; imports nothing of the readers."""

from collections.abc import Collection, Iterator, Mapping, Sequence


def declared_class_labels(content: Mapping[object, object]) -> list[Mapping[object, object] | Sequence[object]]:
    """The names of each ClassLabel among the features of a dataset, those of all its configurations once."""
    features = "features" in content or "dataset_info" in content
    if not features and not any(isinstance(value, Mapping) and "features" in value for value in content.values()):
        return []
    found: list[Mapping[object, object] | Sequence[object]] = []
    for names in _class_labels(content):
        if names not in found:
            found.append(names)
    return found


def columns(content: Mapping[str, object], named: Collection[str]) -> list[dict[str, object]] | None:
    """The rows of a table that pandas wrote by columns, or with `columns` and `data` apart; None if it is none.

    `named`: what columns of names are called.
    """
    index = content.get("index")
    names, data = content.get("columns"), content.get("data")
    if isinstance(names, list) and isinstance(data, list) and all(isinstance(row, list) for row in data):
        numbers = index if isinstance(index, list) and len(index) == len(data) else [*range(len(data))]
        return _by_number(numbers, [dict(zip(map(str, names), row, strict=False)) for row in data])
    cells = {name: value for name, value in content.items() if isinstance(value, Mapping)}
    rows = next(iter(cells.values()), {})
    if (
        not rows
        or not cells.keys() & set(named)
        or len(cells) < len(content)
        or any(value.keys() != rows.keys() for value in cells.values())
    ):
        return None
    if not all(str(row).isdecimal() for row in rows) or any(isinstance(cell, Mapping | list) for cell in rows.values()):
        return None
    return _by_number([int(row) for row in rows], [{name: cells[name][row] for name in cells} for row in rows])


def _by_number(numbers: Sequence[object], rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """The rows by pandas' own numbers of them, if these go from 0; else with the numbers, for the reader to refuse."""
    if set(map(str, numbers)) == set(map(str, range(len(rows)))):
        return [row for _, row in sorted(zip(numbers, rows, strict=True), key=lambda pair: int(str(pair[0])))]
    return [{**row, "index": number} for number, row in zip(numbers, rows, strict=True)]


def _class_labels(content: object) -> Iterator[Mapping[object, object] | Sequence[object]]:
    """All that a ClassLabel names, wherever it lies in `content`."""
    open_ = [content]
    while open_:
        item = open_.pop()
        if isinstance(item, Mapping):
            label = item if item.get("_type") == "ClassLabel" else item.get("class_label")
            names = label.get("names") if isinstance(label, Mapping) else None
            if isinstance(names, Mapping | list):
                yield names
            else:
                open_.extend(item.values())
        elif isinstance(item, list):
            open_.extend(item)

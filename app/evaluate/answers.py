"""`--answers FILE.csv`: a row for each image."""

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import BadParameter
from app.evaluate.run import Failure, Outcome

_FIELDS = ("source", "name", "truth", "index", "wnid", "label", "score", "rank", "error")


@contextmanager
def written(path: Path | None) -> Iterator[Callable[[Outcome], None]]:
    """What writes an outcome to `path`, or nothing if there is none; BadParameter if it cannot be written."""
    if path is None:
        yield lambda _: None
        return
    try:
        file = path.open("w", newline="", encoding="utf-8", errors="backslashreplace")
    except OSError as err:
        raise BadParameter(f"{path} cannot be written: {err.strerror}") from err
    with file:
        rows = csv.DictWriter(file, _FIELDS)
        rows.writeheader()
        yield lambda outcome: rows.writerow(_row(outcome))


def _row(outcome: Outcome) -> dict[str, object]:
    item, result = outcome.item, outcome.result
    row: dict[str, object] = {"source": item.source, "name": item.name, "truth": item.category}
    if isinstance(result, Failure):
        return row | {"error": result.error}
    best = result.best
    answer = {"index": best.index, "wnid": best.wnid, "label": best.label, "score": result.score}
    return row | answer | {"rank": result.ranks[0]}

"""`--answers FILE.csv`: a row for each image."""

import csv
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.commands.evaluate.evaluation import ImageFailure, ImageOutcome
from app.errors import BadParameter

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, a user's share of it, a file
_FIELDS = ("source", "name", "truth", "index", "wnid", "label", "score", "rank", "error")


@contextmanager
def written(path: Path | None) -> Iterator[Callable[[ImageOutcome], None]]:
    """What writes an outcome to `path`, or nothing if there is none; BadParameter if it cannot be written.

    What stood there stays until the first outcome.
    """
    if path is None:
        yield lambda _: None
        return
    try:
        file = path.open("a", buffering=1, newline="", encoding="utf-8", errors="backslashreplace")
    except OSError as err:
        raise _unwritable(path, err) from err
    try:
        with file:
            rows = csv.DictWriter(file, _FIELDS)
            begun = False

            def write(outcome: ImageOutcome) -> None:
                nonlocal begun
                if not begun:
                    if path.is_file():  # and no pipe
                        file.truncate(0)
                    rows.writeheader()
                    begun = True
                rows.writerow(_row(outcome))

            yield write
    except OSError as err:
        if err.errno not in _FULL:
            raise  # it is of something else
        raise _unwritable(path, err) from err


def _unwritable(path: Path, err: OSError) -> BadParameter:
    return BadParameter(f"{path} cannot be written: {err.strerror}")


def _row(outcome: ImageOutcome) -> dict[str, object]:
    item, result = outcome.item, outcome.result
    row: dict[str, object] = {"source": item.source, "name": item.name, "truth": item.category}
    if isinstance(result, ImageFailure):
        return row | {"error": result.error}
    best = result.best
    answer = {"index": best.index, "wnid": best.wnid, "label": best.label, "score": result.score}
    return row | answer | {"rank": result.ranks[0]}

"""`--answers FILE.csv`: writes one row for each image."""

import csv
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.commands.evaluate.evaluation import ImageFailure, ImageOutcome
from app.errors import BadParameter

_NO_SPACE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # on the disk, in the user's quota, in the file
_FIELDS = ("source", "name", "truth", "index", "wnid", "label", "score", "rank", "error")


@contextmanager
def open_answers(path: Path | None) -> Iterator[Callable[[ImageOutcome], None]]:
    """A function that writes an outcome to `path`, or does nothing without a path. BadParameter if writing fails.

    An existing file keeps its content until the first outcome.
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
            has_header = False

            def write(outcome: ImageOutcome) -> None:
                nonlocal has_header
                if not has_header:
                    if path.is_file():  # a pipe cannot be truncated
                        file.truncate(0)
                    rows.writeheader()
                    has_header = True
                rows.writerow(_row(outcome))

            yield write
    except OSError as err:
        if err.errno not in _NO_SPACE_ERRORS:
            raise  # it is not about this file
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

"""How far a bulk run is: a bar on a terminal, else a line now and then."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from model.command_line import notes

_LINE_SECONDS = 60


class BulkProgress:
    """Counts the rows of a run, those of earlier ones too. `shown` is a context that draws the bar."""

    def __init__(self) -> None:
        self._total: int | None = None
        self._rows = self._earlier = 0
        self._began = self._written = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=notes,
            transient=True,
            disable=not notes.is_terminal,
        )
        self._task: TaskID = self._bar.add_task("starting", total=None, figures="")

    @contextmanager
    def shown(self) -> Iterator["BulkProgress"]:
        with self._bar:
            yield self

    def remark(self, text: str) -> None:
        """Print a warning."""
        notes.print(text, style="bold red")

    def begin(self, total: int | None, done: int, parts: int, parts_done: int) -> None:
        """There are `total` images, if that is known, of which earlier runs have done `done`."""
        self._total, self._earlier, self._rows = total, done, done
        self._bar.update(self._task, description="classifying", total=total, completed=done)
        if parts_done:
            notes.print(f"going on: {parts_done:,} of {parts:,} parts are there", highlight=False)

    def rows(self, count: int) -> None:
        """`count` more rows were made."""
        now = time.monotonic()
        if self._rows == self._earlier:
            self._began = self._written = now  # the engine has started by now
        self._rows += count
        self._bar.update(self._task, completed=self._rows, figures=self._figures(now))
        if not notes.is_terminal and now - self._written >= _LINE_SECONDS:
            self._written = now
            notes.print(self._figures(now), highlight=False)

    def _figures(self, now: float) -> str:
        of = f" of {self._total:,}" if self._total else ""
        seconds = now - self._began
        rate = f", {(self._rows - self._earlier) / seconds:,.1f} images/s" if seconds > 1 else ""
        return f"{self._rows:,}{of}{rate}"

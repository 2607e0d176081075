"""A log of answers as Parquet files, for tools that look for drift: never images, keys or addresses.

The event loop only appends to a list. A thread writes the files, each under a hidden name first, and renames it once
it is whole. Rows that come faster than they are written are dropped and counted.
"""

import logging
import os
import secrets
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client import Counter

from app.errors import BadParameter
from app.telemetry.metrics import Metrics
from bundle.installation import require_packages

log = logging.getLogger(__name__)

MOST_ROWS_OF_A_FILE = 10_000
MOST_WAITING_ROWS = 50_000
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")  # of the request that is answered


@dataclass(frozen=True)
class AnswerRow:
    """An answer to one image, as the columns of a file; docs/drift.md describes them."""

    time: datetime
    request_id: str
    model: str
    weights: str
    resolution: int
    precision: str
    index: int
    wnid: str | None
    label: str
    score: float
    entropy: float
    disagreement: float
    top_indices: list[int]
    top_scores: list[float]


class AnswerLog:
    """Writes AnswerRows to files in `folder`. `start` it, `close` it: that writes what is left.

    BadParameter at once if nothing can be written there, NotInstalled without pyarrow.

    Args:
        folder: is made if there is none.
        seconds: after which a file is complete, or with MOST_ROWS_OF_A_FILE rows.
        metrics: where rows are counted.
    """

    def __init__(self, folder: Path, seconds: float, metrics: Metrics) -> None:
        require_packages(("pyarrow",), "parquet", "--answer-log")
        import pyarrow.parquet  # here, since it is optional, and before the first file is due

        self._arrow = pyarrow
        self._writer = f"{os.getpid()}-{secrets.token_hex(8)}"  # containers that share a folder have equal ids
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".probe-{self._writer}"
            probe.touch()
            probe.unlink()
        except OSError as err:
            raise BadParameter(f"--answer-log {folder} cannot be written: {err.strerror}") from err
        self._folder = folder
        self._seconds = seconds
        self._rows: list[AnswerRow] = []
        self._lock = threading.Lock()
        self._full = threading.Event()
        self._closing = False
        self._files = 0
        self._thread = threading.Thread(target=self._work, name="answer-log", daemon=True)
        self._counts = Counter(
            "crossvit_answer_log_rows", "Answers for the log", ["outcome"], registry=metrics.counters
        )
        for outcome in ("written", "dropped"):
            self._counts.labels(outcome)

    def start(self) -> None:
        self._thread.start()

    def append(self, rows: Sequence[AnswerRow]) -> None:
        """Log `rows`, if there is room."""
        with self._lock:
            fits = not self._closing and len(self._rows) + len(rows) <= MOST_WAITING_ROWS
            if fits:
                self._rows += rows
            waiting = len(self._rows)
        if not fits:
            self._counts.labels("dropped").inc(len(rows))
        if waiting >= MOST_ROWS_OF_A_FILE:
            self._full.set()

    def close(self) -> None:
        """Write what is left, and end; blocks until the file is there."""
        self._closing = True
        self._full.set()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while not self._closing:
            self._full.wait(self._seconds)
            self._full.clear()
            self._write()
        self._write()  # rows that came while the file before was written

    def _write(self) -> None:
        with self._lock:
            rows, self._rows = self._rows, []
        for start in range(0, len(rows), MOST_ROWS_OF_A_FILE):
            part = rows[start : start + MOST_ROWS_OF_A_FILE]
            try:
                self._write_file(part)
                self._counts.labels("written").inc(len(part))
            except Exception as err:  # a full disk must not end the log
                log.error("%d answers cannot be written to %s: %s", len(part), self._folder, err)
                self._counts.labels("dropped").inc(len(part))

    def _write_file(self, rows: Sequence[AnswerRow]) -> None:
        self._files += 1
        stamp = rows[0].time.strftime("%Y%m%dT%H%M%SZ")
        name = f"answers-{stamp}-{self._writer}-{self._files:06}.parquet"
        partial = self._folder / f".{name}.partial"
        table = self._arrow.Table.from_pylist([vars(row) for row in rows], schema=_schema(self._arrow))
        self._folder.mkdir(parents=True, exist_ok=True)  # somebody may have removed it
        with partial.open("xb") as file:  # never into a file of another process
            try:
                self._arrow.parquet.write_table(table, file)
                file.flush()
                partial.rename(self._folder / name)
            finally:
                partial.unlink(missing_ok=True)


def utc_now() -> datetime:
    return datetime.now(UTC)


def _schema(pa: Any) -> Any:
    text, number = pa.string(), pa.float64()
    kinds: dict[str, Any] = {
        "time": pa.timestamp("us", "UTC"),
        "request_id": text,
        "model": text,
        "weights": text,
        "resolution": pa.int32(),
        "precision": text,
        "index": pa.int32(),
        "wnid": text,
        "label": text,
        "score": number,
        "entropy": number,
        "disagreement": number,
        "top_indices": pa.list_(pa.int32()),
        "top_scores": pa.list_(number),
    }
    return pa.schema(list(kinds.items()))

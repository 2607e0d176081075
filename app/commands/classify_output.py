"""How `crossvit classify` prints its answers: a table at the end, or a line at a time as JSON or CSV."""

import csv
import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from rich.markup import escape
from rich.table import Column, Table

from app.commands.terminal import print_table, take_any_name

if TYPE_CHECKING:
    from app.commands.classify import FileResult


class ClassifyFormat(StrEnum):
    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"


class ClassifyReport(Protocol):
    """Takes outcomes one by one; `close` after the last."""

    def add(self, outcome: "FileResult") -> None: ...

    def close(self) -> None: ...


def open_report(output: ClassifyFormat) -> ClassifyReport:
    """A report on standard output."""
    take_any_name()
    reports: dict[ClassifyFormat, type[ClassifyReport]] = {
        ClassifyFormat.TABLE: TableReport,
        ClassifyFormat.JSONL: JsonLines,
        ClassifyFormat.CSV: Csv,
    }
    return reports[output]()


def result_rows(outcome: "FileResult") -> list[dict[str, object]]:
    """The classes of `outcome`, one a row; none if there is an error."""
    return [
        {"rank": rank, "index": label.index, "wnid": label.wnid, "label": label.label, "score": score}
        for rank, (label, score) in enumerate(outcome.classes or [], start=1)
    ]


class JsonLines:
    def add(self, outcome: "FileResult") -> None:
        result = {"error": outcome.error} if outcome.error else {"predictions": result_rows(outcome)}
        print(json.dumps({"path": str(outcome.path), **result}, ensure_ascii=False), flush=True)

    def close(self) -> None:
        pass


class Csv:
    def __init__(self) -> None:
        fields = ["path", "rank", "index", "wnid", "label", "score", "error"]
        self._writer = csv.DictWriter(sys.stdout, fields)
        self._writer.writeheader()

    def add(self, outcome: "FileResult") -> None:
        for row in result_rows(outcome) or [{"error": outcome.error}]:
            self._writer.writerow({"path": outcome.path, **row})

    def close(self) -> None:
        pass


class TableReport:
    def __init__(self) -> None:
        self._table = Table(Column("file", overflow="fold"), "score", "label", "index", "wnid")

    def add(self, outcome: "FileResult") -> None:
        name = escape(str(outcome.path))
        for row in result_rows(outcome):
            label, index, wnid = escape(str(row["label"])), str(row["index"]), str(row["wnid"] or "")
            self._table.add_row(name, f"{row['score']:.3f}", label, index, wnid)
            name = ""
        if outcome.error:
            self._table.add_row(name, "", escape(f"error: {outcome.error}"), style="red")
        self._table.add_section()

    def close(self) -> None:
        print_table(self._table)

"""Prints the results of `crossvit classify`: a table at the end, or lines of JSON or CSV as they come."""

import csv
import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from rich.markup import escape
from rich.table import Column, Table

from app.commands.terminal import allow_any_file_name, print_table

if TYPE_CHECKING:
    from app.commands.classify import FileResult


class ClassifyFormat(StrEnum):
    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"


class ClassifyReport(Protocol):
    """Prints the results of files one by one; `close` it after the last."""

    def add(self, result: "FileResult") -> None: ...

    def close(self) -> None: ...


def open_report(output: ClassifyFormat) -> ClassifyReport:
    """A report on standard output."""
    allow_any_file_name()
    reports: dict[ClassifyFormat, type[ClassifyReport]] = {
        ClassifyFormat.TABLE: TableReport,
        ClassifyFormat.JSONL: JsonLines,
        ClassifyFormat.CSV: Csv,
    }
    return reports[output]()


def result_rows(result: "FileResult") -> list[dict[str, object]]:
    """One row for each class of `result`; no rows for an error."""
    return [
        {"rank": rank, "index": label.index, "wnid": label.wnid, "label": label.label, "score": score}
        for rank, (label, score) in enumerate(result.classes or [], start=1)
    ]


class JsonLines:
    """Prints one JSON object per file."""

    def add(self, result: "FileResult") -> None:
        content = {"error": result.error} if result.error else {"predictions": result_rows(result)}
        print(json.dumps({"path": str(result.path), **content}, ensure_ascii=False), flush=True)

    def close(self) -> None:
        pass


class Csv:
    """Prints one CSV row per class."""

    def __init__(self) -> None:
        fields = ["path", "rank", "index", "wnid", "label", "score", "error"]
        self._writer = csv.DictWriter(sys.stdout, fields)
        self._writer.writeheader()

    def add(self, result: "FileResult") -> None:
        for row in result_rows(result) or [{"error": result.error}]:
            self._writer.writerow({"path": result.path, **row})

    def close(self) -> None:
        pass


class TableReport:
    """Prints one table of all files at the end."""

    def __init__(self) -> None:
        self._table = Table(Column("file", overflow="fold"), "score", "label", "index", "wnid")

    def add(self, result: "FileResult") -> None:
        name = escape(str(result.path))
        for row in result_rows(result):
            label, index, wnid = escape(str(row["label"])), str(row["index"]), str(row["wnid"] or "")
            self._table.add_row(name, f"{row['score']:.3f}", label, index, wnid)
            name = ""
        if result.error:
            self._table.add_row(name, "", escape(f"error: {result.error}"), style="red")
        self._table.add_section()

    def close(self) -> None:
        print_table(self._table)

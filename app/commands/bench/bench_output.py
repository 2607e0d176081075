"""Prints the result of `crossvit bench`: a table for people, JSON for programs."""

import json
from dataclasses import asdict
from enum import StrEnum

from rich.markup import escape
from rich.table import Column, Table

from app.commands.bench.engine_bench import EngineReport
from app.commands.bench.load_generator import Load
from app.commands.bench.load_summary import STAGES, Latency, LoadSummary
from app.commands.bench.server_bench import ServerReport
from app.commands.terminal import print_table
from model.command_line import notes

BenchReport = ServerReport | EngineReport

_PERCENTILES = ("p50 ms", "p90 ms", "p99 ms")
_BUSY_CORES = 0.8  # above that this process itself may limit the figures


class BenchFormat(StrEnum):
    TABLE = "table"
    JSON = "json"


def print_bench(report: BenchReport, output: BenchFormat) -> None:
    """Print `report` on standard output, and notes about it on standard error."""
    if output is BenchFormat.JSON:
        print(json.dumps(asdict(report), indent=2, ensure_ascii=False))
    else:
        title, tables = _server_tables(report) if isinstance(report, ServerReport) else _engine_tables(report)
        print(title)
        for table in tables:
            print_table(table)
    if report.interrupted:
        notes.print("stopped early; these are the figures up to then", style="yellow")
    for note in _notes(report):
        notes.print(note, style="yellow", markup=False, highlight=False)


def _notes(report: BenchReport) -> list[str]:
    if isinstance(report, EngineReport):
        return []
    lines = [f"passed over: {fallback}" for fallback in report.fallbacks]
    lines += [
        f"{_load(row)}: not all were answered with 200; the last: {row.problem}" for row in report.rows if row.problem
    ]
    if any(row.client_cores > _BUSY_CORES for row in report.rows):
        lines.append("this client was at the limit of its core: the server may be faster than these figures")
    return lines


def _server_tables(report: ServerReport) -> tuple[str, list[Table]]:
    """Two tables, since one would be wider than 80 columns."""
    title = (
        f"{report.model} at {report.resolution}: {report.engine} {report.precision}, weights {_short(report.weights)}\n"
        f"{report.url}, {report.images} images"
    )
    figures = _table("load", "images/s", *_PERCENTILES, "answers", "client's cores")
    stages = _table("where the time goes", *STAGES)
    for row in report.rows:
        answers = ", ".join(f"{status}: {count}" for status, count in row.statuses.items())
        figures.add_row(
            _load(row),
            f"{row.images_per_second:.1f}",
            *_milliseconds(row.latency_ms),
            escape(answers),
            f"{row.client_cores:.2f}",
        )
        if row.shares:
            stages.add_row(_load(row), *(f"{100 * row.shares[stage]:.1f} %" for stage in STAGES))
    return title, [figures, stages] if stages.rows else [figures]


def _engine_tables(report: EngineReport) -> tuple[str, list[Table]]:
    title = (
        f"{report.bundle} at {report.resolution}: {report.engine} {report.precision}\n"
        f"best at batches of {report.best_batch}, weights {_short(report.weights)}"
    )
    table = _table("", "images/s", *_PERCENTILES, "calls")
    for row in report.rows:
        speed = f"{row.images_per_second:.1f}"
        table.add_row(f"engine, batch {row.batch}", speed, *_milliseconds(row.latency_ms), str(row.calls))
    decoding = report.decoding
    speed = f"{decoding.images_per_second:.1f}"
    table.add_row("decoding, one core", speed, *_milliseconds(decoding.latency_ms), f"{report.images} images")
    return title, [table]


def _table(first: str, *others: str) -> Table:
    columns = [Column(name, justify="right", no_wrap=name != "answers") for name in others]
    return Table(Column(first, no_wrap=True), *columns)


def _load(row: LoadSummary) -> str:
    return str(Load(row.clients, row.rate))


def _milliseconds(latency: Latency | None) -> tuple[str, str, str]:
    return (f"{latency.p50:.1f}", f"{latency.p90:.1f}", f"{latency.p99:.1f}") if latency else ("", "", "")


def _short(weights: str | None) -> str:
    return (weights or "unknown")[:19]

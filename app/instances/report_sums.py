"""Adds the reports of instances up: their metrics, and the totals of their models.

A report is JSON, as instance_report writes it:

    {"metrics": {FAMILY: {"type": "counter", "help": TEXT, "samples": [[NAME, {LABEL: VALUE}, NUMBER], ...]}, ...},
     "totals": {MODEL: {"last": UNIX_TIME, "counts": {STAGE: [COUNT, SECONDS], ...}}, ...}}
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Report = dict[str, Any]
_Families = dict[str, Any]
_Totals = dict[str, Any]
_Combine = Callable[[Sequence[float]], float]

# How the values of a gauge are combined where they do not add up.
_GAUGES: dict[str, _Combine] = {
    "crossvit_model_info": max,
    "crossvit_engine_refused": max,
    "crossvit_keys_file_ok": min,
    "crossvit_brown_out_rung": max,
    "process_max_fds": min,
    "process_start_time_seconds": min,
    "python_info": max,
}
_READY = "crossvit_model_ready"

EMPTY_REPORT: Report = {"metrics": {}, "totals": {}}


def metric_family(name: str, kind: str, text: str, values: Iterable[tuple[dict[str, str], float]]) -> _Families:
    """The metric called `name` with its values by their labels; `kind` is "counter" or "gauge"."""
    sample = f"{name}_total" if kind == "counter" else name
    return {name: {"type": kind, "help": text, "samples": [[sample, labels, value] for labels, value in values]}}


def enough(ready: float, instances: int) -> bool:
    """Whether so many instances are enough for the service to be ready: half of them."""
    return 2 * ready >= instances


def growing(report: Report) -> Report:
    """What of a report only grows: it still counts when its instance has ended."""
    kept = {
        family: content for family, content in report["metrics"].items() if content["type"] in ("counter", "histogram")
    }
    return report | {"metrics": kept}


def sum_reports(reports: Iterable[Report], instances: int) -> Report:
    """One report of all; `instances` is the number of those that should be ready."""
    reports = list(reports)

    def ready(values: Sequence[float]) -> float:
        return float(enough(sum(values), instances))

    return {
        "metrics": _sum_metrics([report["metrics"] for report in reports], _GAUGES | {_READY: ready}),
        "totals": _sum_totals([report["totals"] for report in reports]),
    }


def _sum_metrics(reports: Sequence[_Families], gauges: dict[str, _Combine]) -> _Families:
    heads: _Families = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]] = {}
    for families in reports:
        for family, content in families.items():
            heads.setdefault(family, content)
            for name, labels, value in content["samples"]:
                found = values.setdefault(family, {}).setdefault((name, tuple(labels.items())), [])
                found.append(value)
    return {
        family: head
        | {
            "samples": [
                [name, dict(labels), gauges.get(family, sum)(found)]
                for (name, labels), found in values.get(family, {}).items()
            ]
        }
        for family, head in heads.items()
    }


def _sum_totals(reports: Sequence[_Totals]) -> _Totals:
    sums: _Totals = {}
    for models in reports:
        for model, totals in models.items():
            merged = sums.setdefault(model, {"last": 0.0, "counts": {}})
            merged["last"] = max(merged["last"], totals["last"])
            for stage, (count, seconds) in totals["counts"].items():
                before = merged["counts"].get(stage, [0, 0.0])
                merged["counts"][stage] = [before[0] + count, before[1] + seconds]
    return sums

"""An instance's report for its parent, and the sum of all reports as metrics and totals again."""

from collections.abc import Iterable
from typing import Any

from prometheus_client import Metric

from app.instances.report_sums import Report
from app.telemetry.metrics import Metrics, Total, Totals

_STAGES = ("answered", "failed", "queue", "decode", "inference")
_BATCH = "batch "  # before the size of a batch


def report_of(metrics: Metrics, *, counters_only: bool) -> Report:
    """All metrics of this process or, without reading the folder of models, those that only grow; and its totals."""
    families = (metrics.counters if counters_only else metrics.registry).collect()
    return {
        "metrics": {family.name: _family(family) for family in families},
        "totals": {name: {"last": totals.last, "counts": _counts(totals)} for name, totals in metrics.totals.items()},
    }


class SummedMetrics:
    """The metrics of a report, as prometheus_client writes them."""

    def __init__(self, report: Report) -> None:
        self._families: dict[str, Any] = report["metrics"]

    def collect(self) -> Iterable[Metric]:
        for name, content in self._families.items():
            family = Metric(name, content["help"], content["type"])
            for sample in content["samples"]:
                family.add_sample(*sample)
            yield family


def read_totals(report: Report) -> dict[str, Totals]:
    """The totals of a report by the models' names."""
    return {name: _totals(totals["last"], totals["counts"]) for name, totals in report["totals"].items()}


def _family(family: Metric) -> dict[str, Any]:
    samples = [[sample.name, sample.labels, sample.value] for sample in family.samples]
    return {"type": family.type, "help": family.documentation, "samples": samples}


def _counts(totals: Totals) -> dict[str, tuple[int, float]]:
    counts = {stage: getattr(totals, stage) for stage in _STAGES}
    counts |= {f"{_BATCH}{size}": total for size, total in totals.batches.items()}
    return {stage: (total.count, total.seconds) for stage, total in counts.items()}


def _totals(last: float, counts: dict[str, tuple[int, float]]) -> Totals:
    found = {stage: Total(*total) for stage, total in counts.items()}
    stages = {stage: total for stage, total in found.items() if stage in _STAGES}
    batches = {int(stage.removeprefix(_BATCH)): total for stage, total in found.items() if stage not in _STAGES}
    return Totals(**stages, batches=batches, last=last)

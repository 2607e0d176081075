"""The results of a run: kept as JSON, shown as a table."""

import json
import math
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Round:
    """The seconds of each call, from the host's pixels to the host's logits; and on the device alone, if known."""

    seconds: list[float]
    device_seconds: list[float]

    def rate(self, batch: int) -> float:
        """Images a second."""
        return batch * len(self.seconds) / sum(self.seconds)

    def device_rate(self, batch: int) -> float | None:
        if not self.device_seconds:
            return None
        return batch * len(self.device_seconds) / sum(self.device_seconds)


@dataclass
class Entry:
    """What one contestant did.

    `first_seconds` are those of the first call of each batch size: compiling is in them. `failed` says which batch
    sizes cannot be run, and why; `error` why it was of no more use at all.
    """

    contestant: str
    error: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    load_seconds: float | None = None
    first_seconds: dict[int, float] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    memory_mb: float | None = None
    top1_agreement: float | None = None
    worst_difference: float | None = None
    rounds: dict[int, list[Round]] = field(default_factory=dict)

    def rates(self, batch: int) -> list[float]:
        """Images a second, for each round."""
        return [round_.rate(batch) for round_ in self.rounds.get(batch, [])]

    def latencies(self) -> list[float]:
        """Seconds of all calls of one image."""
        return [seconds for round_ in self.rounds.get(1, []) for seconds in round_.seconds]


@dataclass
class Section:
    """A network at a resolution: `gmac` is the published 1e9 multiply-accumulates of an image, `peaks` 1e12 FLOP/s."""

    variant: str
    resolution: int
    side: int
    gmac: float
    batches: list[int]
    weights: str
    largest_logit: float = 0.0
    peaks: list[float] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)

    def share_of_peak(self, rate: float) -> float:
        """What part of the matrix peak, measured before and after, the network's operations are at `rate` images/s."""
        return rate * 2e-3 * self.gmac / statistics.median(self.peaks)


@dataclass
class Report:
    """`facts` say on what and how it was measured."""

    facts: dict[str, Any]
    sections: list[Section] = field(default_factory=list)

    def save(self, path: Path | None) -> None:
        """Write all there is to `path`, if there is one, so that the file is whole at any time."""
        if path is None:
            return
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        beside.write_text(json.dumps(asdict(self)))
        beside.replace(path)


def agreement(expected: Any, actual: Any) -> tuple[float, float]:
    """The share of images whose best class is the same, and the worst difference of any logit, (images, classes)."""
    same = (expected.argmax(axis=1) == actual.argmax(axis=1)).mean()
    return float(same), float(abs(expected - actual).max())


def centile(values: Sequence[float], percent: int) -> float:
    """The smallest value that `percent` of them do not exceed."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100), 1) - 1]


def header(batches: Iterable[int]) -> str:
    columns = [
        "network",
        "side",
        "contestant",
        *(f"images/s at batch {batch}" for batch in batches),
        "times the fastest torch.compile",
        "on the device alone",
        "share of the bf16 peak",
        "p50, p99 ms at batch 1",
        "memory, MB",
        "top-1 as in f32",
        "worst difference, of the largest logit",
        "load, first calls, s",
    ]
    return f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|"


def row(section: Section, entry: Entry, batches: Sequence[int]) -> str:
    """A line of the table: medians of the rounds, with the least and the largest of them."""
    name = entry.contestant + (f" ({_line(entry.facts['note'])})" if "note" in entry.facts else "")
    cells = [section.variant, str(section.resolution), name]
    if not any(map(entry.rates, batches)):
        reason = entry.error or "; ".join(f"{batch}: {why}" for batch, why in entry.failed.items()) or "not measured"
        return f"| {' | '.join(cells)} | {_line(reason)} |" + " |" * (len(batches) + 7)
    cells += [_line(entry.failed[batch]) if batch in entry.failed else _rate(entry, batch) for batch in batches]
    cells += [_ratio(section, entry), _device(entry), _share(section, entry)]
    latencies = entry.latencies()
    cells.append(f"{1000 * centile(latencies, 50):.2f}, {1000 * centile(latencies, 99):.2f}" if latencies else "")
    cells.append("" if entry.memory_mb is None else f"{entry.memory_mb:.0f}")
    cells.append("" if entry.top1_agreement is None else f"{100 * entry.top1_agreement:.1f} %")
    cells.append(
        "" if entry.worst_difference is None else f"{entry.worst_difference:.1e} of {section.largest_logit:.1f}"
    )
    cells.append(f"{entry.load_seconds or 0:.1f}, {sum(entry.first_seconds.values()):.1f}")
    if entry.error:
        cells[2] += f" (then: {_line(entry.error)})"
    return f"| {' | '.join(cells)} |"


def fastest_compiled(section: Section, batch: int) -> Entry | None:
    """Of the contestants with torch.compile, the one that is fastest at `batch`."""
    compiled = [entry for entry in section.entries if "compile" in entry.contestant and entry.rates(batch)]
    return max(compiled, key=lambda entry: statistics.median(entry.rates(batch)), default=None)


def ratios(section: Section, entry: Entry, batch: int) -> list[float]:
    """How many times as fast as the fastest torch.compile `entry` was at `batch`, round by round."""
    other = fastest_compiled(section, batch)
    if other is None:
        return []
    return [mine / theirs for mine, theirs in zip(entry.rates(batch), other.rates(batch), strict=False)]


def _rate(entry: Entry, batch: int) -> str:
    rates = entry.rates(batch)
    return _spread(rates, ".0f" if min(rates, default=0) >= 100 else ".1f")


def _ratio(section: Section, entry: Entry) -> str:
    found = [(batch, ratios(section, entry, batch)) for batch in section.batches]
    return "; ".join(f"{batch}: {_spread(values, '.2f')}" for batch, values in found if values)


def _device(entry: Entry) -> str:
    cells = []
    for batch, rounds in entry.rounds.items():
        rates = [rate for round_ in rounds if (rate := round_.device_rate(batch)) is not None]
        if rates:
            cells.append(f"{batch}: {statistics.median(rates):.0f}")
    return "; ".join(cells)


def _share(section: Section, entry: Entry) -> str:
    """At the batch that makes most of it."""
    rate, batch = max((statistics.median(entry.rates(batch)), batch) for batch in entry.rounds if entry.rates(batch))
    return f"{100 * section.share_of_peak(rate):.1f} % at {batch}"


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return ""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _line(text: str) -> str:
    """`text` as one short line that does not end a cell."""
    flat = " ".join(text.split()).replace("|", "\\|")
    return flat if len(flat) <= 200 else f"{flat[:200]} …"

"""The results of a run: kept as JSON, shown as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks import machine
from benchmarks.cpu.engines import KINDS
from benchmarks.cpu.load import percentile
from benchmarks.cpu.services import PEERS, Service, ServiceSection
from benchmarks.gpu.results import Entry, Report, Section, centile

ENGINE_BASES = {"eager": "times eager", "onnxruntime": "times ONNX Runtime"}
SERVICE_BASES = {"plain": "times FastAPI + PyTorch", "litserve-pytorch": "times LitServe + PyTorch"}


@dataclass
class CpuReport(Report):
    """Engines in `sections`, services in `services`."""

    services: list[ServiceSection] = field(default_factory=list)


def markdown(report: CpuReport) -> str:
    """All tables, what they are of above them."""
    facts = report.facts
    parts = [
        f"{machine.described(facts)}; {facts['began']}; load at the start {facts['load']:.1f}.",
        f"`{facts['command']}`: {facts['rounds']} interleaved rounds, {facts['photographs']} photographs, "
        f"weights {', '.join(sorted({section.weights[:14] for section in report.sections})) or 'of the bundle'}.",
    ]
    if report.sections:
        parts += ["**Engines alone**, from pixels to logits. " + _source(report), engine_table(report.sections)]
    if report.services:
        parts += [
            "**Services**, JPEG photographs over HTTP, closed loop (wrk, on the same cores).",
            closed_table(report),
        ]
        parts += ["At a fixed rate, latency from when a request was due:", fixed_table(report)]
        parts += ["Memory after the load:", memory_table(report)]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def summary(report: CpuReport) -> str:
    """What a reader wants first: engines at one batch and services at one number of clients, all networks abreast."""
    parts = [f"{machine.described(report.facts)}; {report.facts['began']}, `{report.facts['command']}`."]
    if report.sections:
        parts.append(_engine_summary(report.sections))
    if report.services:
        parts.append(_service_summary(report.services))
    return "\n\n".join(parts) + "\n"


def _engine_summary(sections: Sequence[Section]) -> str:
    batch = _usual({batch for section in sections for batch in section.batches}, 8)
    columns = [f"engine alone, batch {batch}"]
    columns += [f"{section.variant} at {section.resolution}: images/s (times eager)" for section in sections]
    rows = [
        [
            _emphasised(KINDS[name].title, name == "ours"),
            *(_abreast(_rates(section, name, batch), _rates(section, "eager", batch)) for section in sections),
        ]
        for name in dict.fromkeys(entry.contestant for section in sections for entry in section.entries)
    ]
    return _table(columns, rows)


def _service_summary(sections: Sequence[ServiceSection]) -> str:
    clients = _usual(set.intersection(*(set(section.clients) for section in sections)), 16)
    columns = [f"service over HTTP, {clients} clients"]
    columns += [f"{section.variant}: requests/s (times LitServe + PyTorch)" for section in sections]
    rows = []
    for name in dict.fromkeys(service.name for section in sections for service in section.services):
        row = [_emphasised(PEERS[name].title, name == "ours")]
        for section in sections:
            rates = {service.name: service.rates(clients) for service in section.services}
            row.append(_abreast(rates.get(name, []), rates.get("litserve-pytorch", [])))
        rows.append(row)
    return _table(columns, rows)


def _usual(found: set[int], wanted: int) -> int:
    return min(found, key=lambda number: abs(number - wanted))


def _rates(section: Section, name: str, batch: int) -> list[float]:
    return [rate for entry in section.entries if entry.contestant == name for rate in entry.rates(batch)]


def _abreast(own: Sequence[float], other: Sequence[float]) -> str:
    found = ratios(own, other)
    return _number(own) + (f" ({median(found):.2f})" if found else "")


def _emphasised(text: str, important: bool) -> str:
    return f"**{text}**" if important else text


def engine_table(sections: Sequence[Section]) -> str:
    """Medians of the rounds; ratios at the batch that is named, with the least and the largest of the rounds."""
    batches = sorted({batch for section in sections for batch in section.batches})
    ratio_batch = _usual(set(batches), 8)
    columns = [
        *("network", "side", "engine"),
        *(f"images/s at batch {batch}" for batch in batches),
        *(f"{title}, batch {ratio_batch}" for title in ENGINE_BASES.values()),
        *("p50, p99 ms at batch 1", "best class as in f32", "memory, MB", "ready after, s"),
    ]
    rows = [_engine_row(section, entry, batches, ratio_batch) for section in sections for entry in section.entries]
    return _table(columns, rows)


def closed_table(report: CpuReport) -> str:
    """Medians of the rounds; ratios with the least and the largest of the rounds; latencies of all rounds together."""
    columns = ["network", "clients", "service", "requests/s", *SERVICE_BASES.values(), "p50 ms", "p99 ms"]
    rows = [
        [section.variant, str(clients), PEERS[service.name].title, *_closed_cells(section, service, clients)]
        for section in report.services
        for clients in section.clients
        for service in section.services
    ]
    return _table(columns, rows)


def fixed_table(report: CpuReport) -> str:
    columns = ["network", "requests/s sent", "service", "answered", "p50 ms", "p99 ms"]
    rows = [
        [section.variant, *_fixed_cells(service, share)]
        for section in report.services
        for share in section.shares
        for service in section.services
        if service.fixed.get(str(share))
    ]
    return _table(columns, rows)


def memory_table(report: CpuReport) -> str:
    columns = ["network", "service", "shared counted once, MB", "shared counted in each process, MB", "errors"]
    rows = [
        [section.variant, PEERS[service.name].title, _mb(service.proportional_mb), _mb(service.resident_mb),
         _flat(service.error) if service.error else str(service.errors())]
        for section in report.services
        for service in section.services
    ]  # fmt: skip
    return _table(columns, rows)


def ratios(own: Sequence[float], other: Sequence[float]) -> list[float]:
    """How many times as fast, round by round."""
    return [mine / theirs for mine, theirs in zip(own, other, strict=False) if theirs]


def _engine_row(section: Section, entry: Entry, batches: Sequence[int], ratio_batch: int) -> list[str]:
    names = [section.variant, str(section.resolution), _engine_name(entry)]
    if not entry.rounds:
        reason = entry.error or "; ".join(f"{batch}: {why}" for batch, why in entry.failed.items()) or "not measured"
        return [*names, _flat(reason)]
    others = {other.contestant: other for other in section.entries}
    cells = [_number(entry.rates(batch)) for batch in batches]
    for base in ENGINE_BASES:
        theirs = others[base].rates(ratio_batch) if base in others else []
        cells.append(_spread(ratios(entry.rates(ratio_batch), theirs)))
    latencies = entry.latencies()
    cells.append(f"{1000 * centile(latencies, 50):.1f}, {1000 * centile(latencies, 99):.1f}" if latencies else "")
    cells.append("" if entry.top1_agreement is None else f"{100 * entry.top1_agreement:.0f} %")
    cells.append(_mb(entry.memory_mb))
    cells.append(f"{(entry.load_seconds or 0) + sum(entry.first_seconds.values()):.1f}")
    return [*names, *cells]


def _engine_name(entry: Entry) -> str:
    title = KINDS[entry.contestant].title
    chosen = [str(entry.facts[fact]) for fact in ("engine", "precision") if fact in entry.facts]
    title += f" ({' '.join(chosen)})" if chosen else ""
    return _emphasised(title, entry.contestant == "ours")


def _source(report: CpuReport) -> str:
    sources = {e.facts["source"] for section in report.sections for e in section.entries if "source" in e.facts}
    return f"PyTorch runs {' and '.join(sorted(sources))}." if sources else ""


def _closed_cells(section: ServiceSection, service: Service, clients: int) -> list[str]:
    rounds = service.closed.get(clients, [])
    if not rounds:
        return [_flat(service.error or "not measured")]
    others = {other.name: other for other in section.services}
    cells = [_number(service.rates(clients))]
    for base in SERVICE_BASES:
        theirs = others[base].rates(clients) if base in others else []
        cells.append(_spread(ratios(service.rates(clients), theirs)))
    pairs = [(microseconds / 1000, count) for round_ in rounds for microseconds, count in round_.latencies]
    return [*cells, *(f"{percentile(pairs, percent):.0f}" if pairs else "" for percent in (50, 99))]


def _fixed_cells(service: Service, share: float) -> list[str]:
    rounds = service.fixed[str(share)]
    seconds = [taken for round_ in rounds for taken in round_.seconds]
    errors = sum(round_.errors for round_ in rounds)
    answered = f"{len(seconds)} of {len(seconds) + errors}"
    latencies = [f"{1000 * centile(seconds, percent):.0f}" for percent in (50, 99)] if seconds else ["", ""]
    return [f"{rounds[0].rate:.1f}", PEERS[service.name].title, answered, *latencies]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns)]
    lines += [[*row, *[""] * (len(columns) - len(row))] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(rates: Sequence[float]) -> str:
    return f"{median(rates):.1f}" if rates else ""


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else ""


def _mb(memory: float | None) -> str:
    return "" if memory is None else f"{memory:.0f}"


def _flat(text: str) -> str:
    """`text` as one short line that does not end a cell."""
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= 160 else f"{line[:160]} …"

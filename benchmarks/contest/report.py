"""The results of a run as Markdown: tables of engines on a CPU and on a GPU, tables of services, and a summary."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks import machine
from benchmarks.contest.results import Entry, Report, Section, Service, ServiceSection, centile
from model.spec import UNTRAINED

ENGINE_BASES = {"eager": "times eager", "onnxruntime": "times ONNX Runtime"}
SERVICE_BASES = {"plain": "times FastAPI + PyTorch", "litserve-pytorch": "times LitServe + PyTorch"}
OURS = "ours"


@dataclass(frozen=True)
class Column:
    """A column of a table of engines."""

    title: str
    cell: Callable[[Section, Entry], str]


def cpu_columns(sections: Sequence[Section]) -> list[Column]:
    """Ratios are at the batch that is named, with the least and the largest of the rounds."""
    batches = sorted({batch for section in sections for batch in section.batches})
    usual = _usual(set(batches), 8)
    return [
        *(_rate_column(batch, lambda rates: _number(rates)) for batch in batches),
        *(_base_column(base, usual) for base in ENGINE_BASES),
        Column("p50, p99 ms at batch 1", lambda _, entry: _latencies(entry, ".1f")),
        Column("best class as in f32", lambda _, entry: _percent(entry.top1_agreement, ".0f")),
        Column("memory, MB", lambda _, entry: _mb(entry.memory_mb)),
        Column(
            "ready after, s", lambda _, entry: f"{sum([entry.load_seconds or 0, *entry.first_seconds.values()]):.1f}"
        ),
    ]


def gpu_columns(batches: Sequence[int]) -> list[Column]:
    """Medians of the rounds, with the least and the largest of them."""
    return [
        *(
            _rate_column(batch, lambda rates: _spread(rates, ".0f" if min(rates) >= 100 else ".1f"))
            for batch in batches
        ),
        Column("times the fastest torch.compile", _times_compiled),
        Column("on the device alone", _device),
        Column("share of the bf16 peak", _share),
        Column("p50, p99 ms at batch 1", lambda _, entry: _latencies(entry, ".2f")),
        Column("memory, MB", lambda _, entry: _mb(entry.memory_mb)),
        Column("top-1 as in f32", lambda _, entry: _percent(entry.top1_agreement, ".1f")),
        Column("worst difference, of the largest logit", _difference),
        Column(
            "load, first calls, s",
            lambda _, entry: f"{entry.load_seconds or 0:.1f}, {sum(entry.first_seconds.values()):.1f}",
        ),
    ]


def header(columns: Sequence[Column], what: str = "contestant") -> list[str]:
    return ["network", "side", what, *(column.title for column in columns)]


def row(columns: Sequence[Column], section: Section, entry: Entry) -> list[str]:
    """What was measured, or why nothing was."""
    title = entry.title + (f" ({_flat(entry.facts['note'])})" if "note" in entry.facts else "")
    names = [section.variant, str(section.resolution), _emphasised(title, entry.contestant == OURS)]
    if not any(map(entry.rates, section.batches)):
        reason = entry.error or "; ".join(f"{batch}: {why}" for batch, why in entry.failed.items()) or "not measured"
        return [*names, _flat(reason)]
    if entry.error:
        names[2] += f" (then: {_flat(entry.error)})"
    return [*names, *(column.cell(section, entry) for column in columns)]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(table_line(line, len(columns)) for line in (columns, ["---"] * len(columns), *rows))


def table_line(cells: Sequence[str], count: int) -> str:
    """A line of a table of `count` columns; missing cells are empty."""
    return f"| {' | '.join([*cells, *[''] * (count - len(cells))])} |"


def markdown(report: Report) -> str:
    """All tables of a run on a CPU, their captions above them."""
    facts = report.facts
    parts = [
        f"{machine.described(facts)}; {facts['began']}; load at the start {facts['load']:.1f}.",
        f"`{facts['command']}`: {facts['rounds']} interleaved rounds, {facts['photographs']} photographs. "
        + weights_caption(report),
    ]
    if report.sections:
        parts += [f"**Engines alone**, from pixels to logits. {_source(report)}", engine_table(report.sections)]
    if report.services:
        parts += ["**Services**, JPEG photographs over HTTP, closed loop (the client is on the same cores)."]
        parts += [closed_table(report), "At a fixed rate, latency from when a request was due:", fixed_table(report)]
        parts += ["Memory after the load:", memory_table(report)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def summary(report: Report) -> str:
    """What a reader wants first: engines at one batch and services at one number of clients, all networks abreast."""
    head = f"{machine.described(report.facts)}; {report.facts['began']}, `{report.facts['command']}`."
    parts = [f"{head} {weights_caption(report)}"]
    if report.sections:
        parts.append(_engine_summary(report.sections))
    if report.services:
        parts.append(_service_summary(report.services))
    return "\n\n".join(parts) + "\n"


def weights_caption(report: Report) -> str:
    """Which weights each network has, and what follows where they are random."""
    found = report.facts.get("weights", {}) | {section.variant: section.weights for section in report.sections}
    random = [variant for variant, weights in found.items() if weights == UNTRAINED]
    parts = [f"{variant} has the weights {weights[:14]}" for variant, weights in found.items() if weights != UNTRAINED]
    parts += [f"{variant} has random weights: precision auto keeps float32" for variant in random]
    return "; ".join(parts) + "." if parts else ""


def engine_table(sections: Sequence[Section]) -> str:
    columns = cpu_columns(sections)
    rows = [row(columns, section, entry) for section in sections for entry in section.entries]
    return table(header(columns, "engine"), rows)


def closed_table(report: Report) -> str:
    """Medians of the rounds; ratios with the least and the largest of the rounds; latencies of all rounds together."""
    columns = ["network", "clients", "service", "requests/s", *SERVICE_BASES.values(), "p50 ms", "p99 ms"]
    rows = [
        [section.variant, str(clients), _title(service), *_closed_cells(section, service, clients)]
        for section in report.services
        for clients in section.clients
        for service in section.services
    ]
    return table([*columns, "client, cores"], rows)


def fixed_table(report: Report) -> str:
    columns = ["network", "requests/s sent", "service", "answered", "p50 ms", "p99 ms"]
    rows = [
        [section.variant, *_fixed_cells(service, share)]
        for section in report.services
        for share in section.shares
        for service in section.services
        if service.fixed.get(str(share))
    ]
    return table(columns, rows)


def memory_table(report: Report) -> str:
    columns = ["network", "service", "shared counted once, MB", "shared counted in each process, MB", "errors"]
    rows = [
        [section.variant, _title(service), _mb(service.proportional_mb), _mb(service.resident_mb),
         _flat(service.error) if service.error else str(service.errors())]
        for section in report.services
        for service in section.services
    ]  # fmt: skip
    return table(columns, rows)


def ratios(own: Sequence[float], other: Sequence[float]) -> list[float]:
    """How many times as fast, round by round."""
    return [mine / theirs for mine, theirs in zip(own, other, strict=False) if theirs]


def fastest_compiled(section: Section, batch: int) -> Entry | None:
    """Of the contestants with torch.compile, the one that is fastest at `batch`."""
    compiled = [entry for entry in section.entries if "compile" in entry.contestant and entry.rates(batch)]
    return max(compiled, key=lambda entry: median(entry.rates(batch)), default=None)


def _engine_summary(sections: Sequence[Section]) -> str:
    batch = _usual({batch for section in sections for batch in section.batches}, 8)
    columns = [f"engine alone, batch {batch}"]
    columns += [f"{section.variant} at {section.resolution}: images/s (times eager)" for section in sections]
    rates = [{entry.contestant: entry.rates(batch) for entry in section.entries} for section in sections]
    return _abreast(columns, [entry for section in sections for entry in section.entries], rates, "eager")


def _service_summary(sections: Sequence[ServiceSection]) -> str:
    clients = _usual(set.intersection(*(set(section.clients) for section in sections)), 16)
    columns = [f"service over HTTP, {clients} clients"]
    columns += [f"{section.variant}: requests/s (times LitServe + PyTorch)" for section in sections]
    rates = [{service.name: service.rates(clients) for service in section.services} for section in sections]
    return _abreast(columns, [each for section in sections for each in section.services], rates, "litserve-pytorch")


def _abreast(
    columns: list[str], all_: Sequence[Entry | Service], rates: Sequence[dict[str, list[float]]], base: str
) -> str:
    titles = {each.contestant if isinstance(each, Entry) else each.name: each.title for each in all_}
    rows = []
    for name, title in titles.items():
        cells = [_emphasised(title, name == OURS)]
        for found in rates:
            times = ratios(found.get(name, []), found.get(base, []))
            cells.append(_number(found.get(name, [])) + (f" ({median(times):.2f})" if times else ""))
        rows.append(cells)
    return table(columns, rows)


def _usual(found: set[int], wanted: int) -> int:
    return min(found, key=lambda number: abs(number - wanted))


def _rate_column(batch: int, show: Callable[[Sequence[float]], str]) -> Column:
    def cell(_: Section, entry: Entry) -> str:
        rates = entry.rates(batch)
        return show(rates) if rates else _flat(entry.failed.get(batch, ""))

    return Column(f"images/s at batch {batch}", cell)


def _base_column(base: str, batch: int) -> Column:
    def cell(section: Section, entry: Entry) -> str:
        theirs = [rate for other in section.entries if other.contestant == base for rate in other.rates(batch)]
        return _spread(ratios(entry.rates(batch), theirs))

    return Column(f"{ENGINE_BASES[base]}, batch {batch}", cell)


def _times_compiled(section: Section, entry: Entry) -> str:
    cells = []
    for batch in section.batches:
        other = fastest_compiled(section, batch)
        found = ratios(entry.rates(batch), other.rates(batch)) if other else []
        cells += [f"{batch}: {_spread(found)}"] if found else []
    return "; ".join(cells)


def _device(_: Section, entry: Entry) -> str:
    cells = []
    for batch, rounds in entry.rounds.items():
        rates = [rate for round_ in rounds if (rate := round_.device_rate(batch)) is not None]
        cells += [f"{batch}: {median(rates):.0f}"] if rates else []
    return "; ".join(cells)


def _share(section: Section, entry: Entry) -> str:
    """At the batch that makes most of it."""
    rate, batch = max((median(entry.rates(batch)), batch) for batch in entry.rounds if entry.rates(batch))
    return f"{100 * section.share_of_peak(rate):.1f} % at {batch}"


def _difference(section: Section, entry: Entry) -> str:
    worst = entry.worst_difference
    return "" if worst is None else f"{worst:.1e} of {section.largest_logit:.1f}"


def _source(report: Report) -> str:
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
    cores = [round_.client_seconds / round_.seconds for round_ in rounds]
    return [*cells, *_centiles(service.latencies(clients)), f"{median(cores):.2f}"]


def _fixed_cells(service: Service, share: float) -> list[str]:
    rounds = service.fixed[str(share)]
    latencies = [latency for round_ in rounds for latency in round_.latencies]
    answered = f"{len(latencies)} of {len(latencies) + sum(round_.errors for round_ in rounds)}"
    return [f"{rounds[0].rate:.1f}", _title(service), answered, *_centiles(latencies)]


def _title(service: Service) -> str:
    return _emphasised(service.title, service.name == OURS)


def _centiles(milliseconds: Sequence[float]) -> list[str]:
    return [f"{centile(milliseconds, percent):.0f}" if milliseconds else "" for percent in (50, 99)]


def _latencies(entry: Entry, form: str) -> str:
    found = entry.latencies()
    return ", ".join(f"{1000 * centile(found, percent):{form}}" for percent in (50, 99)) if found else ""


def _emphasised(text: str, important: bool) -> str:
    return f"**{text}**" if important else text


def _number(rates: Sequence[float]) -> str:
    return f"{median(rates):.1f}" if rates else ""


def _percent(share: float | None, form: str) -> str:
    return "" if share is None else f"{100 * share:{form}} %"


def _spread(values: Sequence[float], form: str = ".2f") -> str:
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})" if values else ""


def _mb(memory: float | None) -> str:
    return "" if memory is None else f"{memory:.0f}"


def _flat(text: str) -> str:
    """`text` as one short line that does not end a cell."""
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= 200 else f"{line[:200]} …"

"""The results of a contest as Markdown: tables of engines and of services, and a summary of both."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from benchmarks import machine
from benchmarks.contest.results import Results
from benchmarks.markdown import spread, table
from model.spec import RESOLUTIONS, UNTRAINED, variant_named

OURS = "ours"
COMPILED = "torch.compile"  # the fastest contestant of a round with it
ENGINE_BASES = {"eager": "eager", "onnxruntime": "ONNX Runtime", COMPILED: "the fastest torch.compile"}
SERVICE_BASES = {"plain": "FastAPI + PyTorch", "litserve-pytorch": "LitServe + PyTorch"}
USUAL_BATCH, USUAL_CLIENTS = 8, 16

Form = Callable[[Any], str]


def markdown(results: Results) -> str:
    """All tables, their captions above them."""
    parts = [*map(caption, results.runs), weights_caption(results)]
    if results.entries:
        parts += ["**Engines alone**, from pixels to logits.", engine_table(results)]
    if results.services:
        parts += ["**Services**, JPEG photographs over HTTP, closed loop (the client is on the same cores).",
                  load_table(results, "clients"),
                  "At a fixed rate, latency from when a request was due:", load_table(results, "rate"),
                  "Memory after the load:", memory_table(results)]  # fmt: skip
    return "\n\n".join(filter(None, parts)) + "\n"


def summary(results: Results) -> str:
    """What a reader wants first: engines at one batch and services at one number of clients, all networks abreast."""
    run = results.runs[-1]
    parts = [f"{machine.described(run)}; {run['began']}. {weights_caption(results)}"]
    if results.calls:
        rates, batch = at_nearest(engine_rates(results), "batch", USUAL_BATCH)
        titles = {entry.contestant: entry.title for entry in results.entries}
        parts.append(abreast(rates, "eager", titles, f"engine alone, batch {batch}", "images/s (times eager)"))
    if results.loads:
        rates, clients = at_nearest(load_rates(results), "clients", USUAL_CLIENTS)
        titles = {service.service: service.title for service in results.services}
        first, base = f"service over HTTP, {clients:.0f} clients", "litserve-pytorch"
        parts.append(abreast(rates, base, titles, first, f"requests/s (times {SERVICE_BASES[base]})"))
    return "\n\n".join(parts)


def caption(run: dict[str, Any]) -> str:
    """On what a run was made, and how."""
    gpu = f"{run['gpu']}; " if run.get("gpu") else ""
    return (
        f"`{run['command']}`: {run['rounds']} interleaved rounds of {run['seconds']:g} s, {run['photographs']} "
        f"photographs. {gpu}{machine.described(run)}; {run['began']}; load at the start {run['load']:.1f}."
    )


def weights_caption(results: Results) -> str:
    """Which weights each network has, and what follows where they are random."""
    found = {network: weights for run in results.runs for network, weights in run["weights"].items()}
    return " ".join(
        f"{network} has random weights: precision auto keeps float32."
        if weights == UNTRAINED
        else f"{network} has the weights {weights[:14]}."
        for network, weights in found.items()
    )


def engine_table(results: Results) -> str:
    """Medians of the rounds; ratios round by round, with the least and the largest; latencies of all calls."""
    keys = ["network", "side", "contestant"]
    entries = pd.DataFrame(results.entries).set_index(keys)
    notes = entries["note"].where(entries["error"] == "", entries["error"])
    names = entries.index.get_level_values("contestant")
    found = pd.DataFrame({"engine": map(titled, entries["title"], names, notes)}, entries.index)
    if results.calls:
        rates = engine_rates(results)
        rates[COMPILED] = rates[[name for name in rates if "compile" in str(name)]].max(axis=1)
        for batch in rates.index.unique("batch"):
            found[f"images/s at batch {batch}"] = over_rounds(rates.xs(batch, level="batch"), one)
        for base, title in ENGINE_BASES.items():
            if base in rates and rates[base].notna().any():
                ratios = rates.div(rates[base], axis=0).dropna(how="all")
                batch = ratios.index.unique("batch").max()
                found[f"times {title}, batch {batch}"] = over_rounds(ratios.xs(batch, level="batch"), spread)
        calls = pd.DataFrame(results.calls).set_index(keys)
        milliseconds = 1000 * calls["seconds"][calls["batch"] == 1].explode().astype(float)
        found["p50, p99 ms at batch 1"] = milliseconds.groupby(level=keys).agg(centiles)
        if any(run.get("gpu") for run in results.runs):
            found["share of the bf16 peak"] = cells(peak_shares(entries, rates), "{:.1%}")
    found["best class as in f32"] = cells(entries["agreement"], "{:.1%}")
    found["worst difference, of the largest logit"] = cells(entries["worst_difference"], "{:.1%}")
    found["memory, MB"] = cells(entries["memory_mb"], "{:.0f}")
    found["ready after, s"] = cells((entries["load_seconds"] + entries["first_seconds"]).replace(0, None), "{:.1f}")
    return table(found.reset_index().drop(columns="contestant"))


def engine_rates(results: Results) -> pd.DataFrame:
    """Images a second: rows are network, side, batch and round, columns contestants."""
    calls = pd.DataFrame(results.calls)
    calls["rate"] = calls["batch"] * calls["seconds"].str.len() / calls["seconds"].map(sum)
    return calls.pivot(index=["network", "side", "batch", "round"], columns="contestant", values="rate")


def load_rates(results: Results, load: str = "clients") -> pd.DataFrame:
    """Good answers a second: rows are network, load ("clients" or "rate") and round, columns services."""
    loads = pd.DataFrame(results.loads).dropna(subset=[load])
    loads["answers/s"] = loads["milliseconds"].str.len() / loads["seconds"]
    return loads.pivot(index=["network", load, "round"], columns="service", values="answers/s")


def peak_shares(entries: pd.DataFrame, rates: pd.DataFrame) -> pd.Series:
    """What part of the matrix peak a network's operations are, at the batch that makes most of it."""
    fastest = rates.groupby(level=["network", "side", "batch"]).median().groupby(level=["network", "side"]).max()
    gmacs = [variant_named(name).gmacs[RESOLUTIONS.index(side)] for name, side, _ in entries.index]
    return fastest.stack().reindex(entries.index) * 2e-3 * gmacs / entries["peak"]


def load_table(results: Results, load: str) -> str:
    """Services at each number of "clients", or at each "rate". Ratios and latencies as in `engine_table`."""
    keys = ["network", load, "service"]
    loads = pd.DataFrame(results.loads)
    if loads.empty or (loads := loads.dropna(subset=[load])).empty:
        return ""
    loads = loads.set_index(keys)
    rates = load_rates(results, load)
    good, errors = loads["milliseconds"].str.len().groupby(level=keys).sum(), loads["errors"].groupby(level=keys).sum()
    found = pd.DataFrame({"requests/s": over_rounds(rates, one)})
    for base, title in SERVICE_BASES.items():
        if load == "clients" and base in rates:
            found[f"times {title}"] = over_rounds(rates.div(rates[base], axis=0), spread)
    found["answered"] = good.astype(str) + " of " + (good + errors).astype(str)
    found["p50, p99 ms"] = loads["milliseconds"].explode().dropna().astype(float).groupby(level=keys).agg(centiles)
    found["client, cores"] = cells(loads["client_cores"].groupby(level=keys).median(), "{:.2f}")
    shown = {service.service: titled(service.title, service.service) for service in results.services}
    found = found.reset_index()
    found["service"] = pd.Categorical(found["service"].map(shown), list(shown.values()))  # in their order
    found = found.sort_values(keys)
    found[load] = cells(found[load], "{:.0f}" if load == "clients" else "{:.1f}")
    return table(found.rename(columns={"rate": "requests/s sent"}))


def memory_table(results: Results) -> str:
    """Memory of each service, and what became of it."""
    services = pd.DataFrame(results.services)
    found = services[["network"]].copy()
    found["service"] = [*map(titled, services["title"], services["service"], services["error"])]
    found["shared counted once, MB"] = cells(services["proportional_mb"], "{:.0f}")
    found["shared counted in each process, MB"] = cells(services["resident_mb"], "{:.0f}")
    return table(found)


def abreast(rates: pd.DataFrame, base: str, titles: dict[str, str], first: str, what: str) -> str:
    """Medians of `rates`, and their ratios to `base`: a row for each contestant, a column for each network and side."""
    columns = {first: [titled(title, name) for name, title in titles.items()]}
    places = [level for level in rates.index.names if level != "round"]
    for place, part in rates.groupby(level=places):
        part = part.reindex(columns=list({*titles, base}))
        rates_here, times = part.median(), part.div(part[base], axis=0).median()
        columns[f"{' at '.join(map(str, place))}: {what}"] = [
            cell(rates_here[name], "{:.1f}") + cell(times[name], " ({:.2f})") for name in titles
        ]
    return table(pd.DataFrame(columns))


def at_nearest(rates: pd.DataFrame, level: str, wanted: int) -> tuple[pd.DataFrame, int]:
    """The rows at the value of `level` that is nearest to what is `wanted`, and that value."""
    value = min(rates.index.unique(level), key=lambda found: abs(found - wanted))
    return rates.xs(value, level=level), value


def over_rounds(rates: pd.DataFrame, form: Form) -> pd.Series:
    """The rounds of each contestant as one cell."""
    levels = [level for level in rates.index.names if level != "round"]
    return rates.stack().dropna().groupby(level=[*levels, rates.columns.name]).agg(form)


def one(values: pd.Series) -> str:
    return f"{values.median():.1f}"


def centiles(values: pd.Series) -> str:
    """The smallest values that half of them and 99 % do not exceed."""
    return ", ".join(f"{values.quantile(share, 'higher'):.1f}" for share in (0.5, 0.99))


def cells(values: pd.Series, form: str) -> pd.Series:
    """Each value as `form` writes it."""
    return values.map(lambda value: cell(value, form))


def cell(value: Any, form: str) -> str:
    """The value as `form` writes it; none is an empty cell."""
    return "" if pd.isna(value) else form.format(value)


def titled(title: str, name: str, note: str = "") -> str:
    """The title of a contestant, this project's own emphasised; a note behind it is one short line."""
    line = " ".join(note.split()).replace("|", "\\|")
    shown = f"{title} ({line[:200]})" if note else title
    return f"**{shown}**" if name == OURS else shown

"""The figures: engines as bars, services as throughput against latency."""

from pathlib import Path
from typing import cast

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from benchmarks.contest.results import Results
from benchmarks.contest.tables import engine_rates, load_rates

OTHERS = ("tab:gray", "tab:blue", "tab:green", "tab:purple", "tab:brown")


def plot_engines(results: Results, path: Path) -> None:
    """Images a second at each batch size, a panel for each network and side."""
    titles = {entry.contestant: entry.title for entry in results.entries}
    medians = engine_rates(results).groupby(level=["network", "side", "batch"]).median()
    panels = list(medians.groupby(level=["network", "side"]))
    figure, axes = _panels(len(panels))
    for panel, ((network, side), part) in zip(axes, panels, strict=True):
        bars = part.droplevel(["network", "side"]).T.reindex(list(titles)[::-1]).dropna(how="all")
        bars.rename(index=titles).plot.barh(
            ax=panel, width=0.8, colormap="viridis", xlabel="images/s, median", ylabel=""
        )
        for container in panel.containers:
            panel.bar_label(cast(BarContainer, container), fmt="%.1f", padding=2, fontsize=8)
        panel.set_title(f"{network} at {side}")
        panel.margins(x=0.12)
    _save(figure, path)


def plot_services(results: Results, path: Path) -> None:
    """Median latency over requests a second, a line for each service, a point for each number of clients."""
    titles = {service.service: service.title for service in results.services}
    rates = load_rates(results).groupby(level=["network", "clients"]).median()
    loads = pd.DataFrame(results.loads).dropna(subset=["clients"]).explode("milliseconds")
    latency = loads.astype({"milliseconds": float}).groupby(["network", "service", "clients"])["milliseconds"].median()
    networks = rates.index.unique("network")
    figure, axes = _panels(len(networks))
    for panel, network in zip(axes, networks, strict=True):
        colours = iter(OTHERS)
        for service in [name for name in titles if name in rates]:
            line = pd.DataFrame({"x": rates.loc[network][service], "y": latency[network].get(service)}).dropna()
            colour, width = ("tab:red", 2.5) if service.startswith("ours") else (next(colours), 1.5)
            style = "o--" if service.endswith("int8") else "o-"
            panel.plot(line["x"], line["y"], style, label=titles[service], color=colour, linewidth=width)
            for clients, (x, y) in zip(line.index, line.to_numpy(), strict=True):
                panel.annotate(f"{clients:.0f}", (x, y), textcoords="offset points", xytext=(5, 4), fontsize=8)
        panel.set(yscale="log", xlabel="requests/s (the numbers are clients)", ylabel="p50 latency, ms")
        panel.set_xlim(left=0)
        panel.set_title(f"{network} at 224 over HTTP")
        panel.grid(visible=True, which="both", alpha=0.3)
        panel.legend()
    _save(figure, path)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(6.5 * count, 5))
    FigureCanvasAgg(figure)  # no screen is looked for
    return figure, [figure.add_subplot(1, count, number + 1) for number in range(count)]


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    # Without the time and the version in it, the same figures give the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})

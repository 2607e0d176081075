"""The figures: engines as bars, services as throughput against latency."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.contest.results import Section, Service, ServiceSection, centile

OURS, OTHERS = "tab:red", ("tab:gray", "tab:blue", "tab:green", "tab:purple", "tab:brown")


def plot_engines(sections: Sequence[Section], path: Path) -> None:
    """Images a second at each batch size, a panel for each network and side."""
    figure, panels = _panels(len(sections))
    for axes, section in zip(panels, sections, strict=True):
        entries = [entry for entry in reversed(section.entries) if entry.rounds]
        height = 0.8 / len(section.batches)
        for number, batch in enumerate(section.batches):
            rows = [row - number * height for row in range(len(entries))]
            rates = [median(entry.rates(batch) or [0.0]) for entry in entries]
            bars = axes.barh(rows, rates, height, label=f"batch {batch}", color=colormaps["viridis"](number / 3))
            axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
        axes.set_yticks(range(len(entries)), [entry.title for entry in entries])
        axes.set_xlabel("images/s, median of the rounds")
        axes.set_title(f"{section.variant} at {section.resolution}")
        axes.margins(x=0.12)
        axes.legend()
    _save(figure, path)


def plot_services(sections: Sequence[ServiceSection], path: Path) -> None:
    """Median latency over requests a second, a line for each service, a point for each number of clients."""
    figure, panels = _panels(len(sections))
    for axes, section in zip(panels, sections, strict=True):
        colours = iter(OTHERS)
        for service in section.services:
            points = _points(service)
            if not points:
                continue
            ours = service.name.startswith("ours")
            colour = OURS if ours else next(colours)
            title = service.title
            axes.plot(
                [rate for rate, _, _ in points],
                [latency for _, latency, _ in points],
                "o-",
                label=title,
                color=colour,
                linewidth=2.5 if ours else 1.5,
            )
            for rate, latency, count in points:
                axes.annotate(str(count), (rate, latency), textcoords="offset points", xytext=(5, 4), fontsize=8)
        axes.set_yscale("log")
        axes.set_xlim(left=0)
        axes.set_xlabel("requests/s (the numbers are clients)")
        axes.set_ylabel("p50 latency, ms")
        axes.set_title(f"{section.variant} at 224 over HTTP")
        axes.grid(visible=True, which="both", alpha=0.3)
        axes.legend()
    _save(figure, path)


def _points(service: Service) -> list[tuple[float, float, int]]:
    """Requests a second, milliseconds and clients."""
    found = {clients: service.latencies(clients) for clients in service.closed}
    return [(median(service.rates(clients)), centile(ms, 50), clients) for clients, ms in found.items() if ms]


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(6.5 * count, 5))
    FigureCanvasAgg(figure)  # no screen is looked for
    return figure, [figure.add_subplot(1, count, number + 1) for number in range(count)]


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    # Without the time and the version in it, the same figures give the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})

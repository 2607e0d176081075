"""`--plot FILE.png`: draws a reliability diagram. Importing this module needs matplotlib."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from app.commands.evaluate.accuracy import BINS, AccuracySummary, Bin

_WIDTH = 1 / BINS


def draw_reliability(figures: AccuracySummary, title: str, path: Path) -> None:
    """Draw the accuracy of each bin over its confidence, and the number of its images, into a PNG file."""
    figure = Figure(figsize=(6, 7), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    _draw_accuracy(above, [each for each in figures.bins if each.images])
    _draw_images(below, figures.bins)
    figure.suptitle(f"{title}\nECE {figures.ece:.4f} of {figures.images} images", fontsize=10)
    figure.savefig(path, format="png", dpi=120)


def _draw_accuracy(axes: Axes, bins: list[Bin]) -> None:
    lows, accuracies = [each.low for each in bins], [each.accuracy or 0.0 for each in bins]
    axes.bar(lows, accuracies, _WIDTH, align="edge", edgecolor="white", label="accuracy")
    axes.plot([0, 1], [0, 1], "--", color="tab:gray", label="perfectly calibrated")
    axes.plot([each.confidence or 0.0 for each in bins], accuracies, ".", color="tab:red", label="mean confidence")
    axes.set_ylabel("accuracy")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.legend(loc="upper left")


def _draw_images(axes: Axes, bins: list[Bin]) -> None:
    bars = axes.bar(
        [each.low for each in bins], [each.images for each in bins], _WIDTH, align="edge", edgecolor="white"
    )
    axes.bar_label(bars, [str(each.images) if each.images else "" for each in bins], fontsize=7)
    axes.set_xlabel("confidence: the best class's score")
    axes.set_ylabel("images")
    axes.margins(y=0.2)

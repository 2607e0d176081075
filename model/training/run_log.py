"""The log of a run: two CSV files, TensorBoard's events and a plot."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TRAINING, VALIDATION, PLOT, EVENTS = "training.csv", "validation.csv", "curves.png", "tensorboard"
_COLUMNS = {
    TRAINING: ("step", "epoch", "learning_rate", "loss", "grad_norm", "images_per_second"),
    VALIDATION: ("step", "epoch", "loss", "top1", "top5"),
}

LogRow = dict[str, float]


class RunLog:
    """The log of the run in `folder`, resumed after `step`: rows of later steps are removed, since they come again."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        self._events = SummaryWriter(str(folder / EVENTS), purge_step=step + 1)
        for name in _COLUMNS:
            _write(folder / name, [row for row in read_rows(folder / name) if row["step"] <= step])

    def add(self, kind: str, row: LogRow) -> None:
        """Add a row of "training" or "validation"; draw the curves after the latter."""
        self._add(f"{kind}.csv", row)
        if kind == "validation":
            draw(self._folder)

    def close(self) -> None:
        draw(self._folder)
        self._events.close()

    def _add(self, name: str, row: LogRow) -> None:
        with (self._folder / name).open("a", newline="") as file:
            csv.DictWriter(file, _COLUMNS[name]).writerow(_text(row))
        kind = name.partition(".")[0]
        for column in _COLUMNS[name][2:]:
            self._events.add_scalar(f"{kind}/{column}", row[column], int(row["step"]))
        self._events.flush()


def _write(path: Path, rows: Sequence[LogRow]) -> None:
    """Write atomically: a kill must not lose the old rows."""
    beside = path.with_suffix(".writing")
    with beside.open("w", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS[path.name])
        writer.writeheader()
        writer.writerows(_text(row) for row in rows)
    beside.replace(path)


def read_rows(path: Path) -> list[LogRow]:
    """The rows of a log's CSV file; an empty list if there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [_numbers(row) for row in csv.DictReader(file)]
        return [row for row in rows if row is not None]


def _numbers(row: dict[str, str]) -> LogRow | None:
    """None for a row that a kill cut; only the last one can be."""
    try:
        return {name: float(value) for name, value in row.items()}
    except (TypeError, ValueError):
        return None


def draw(folder: Path) -> None:
    """Plot loss and accuracy over epochs, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    training, validation = read_rows(folder / TRAINING), read_rows(folder / VALIDATION)
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy = figure.subplots(1, 2)
    _line(loss, training, "loss", "training")
    _line(loss, validation, "loss", "validation")
    for name in ("top1", "top5"):
        _line(accuracy, validation, name, name)
    for axes, title in ((loss, "loss"), (accuracy, "validation accuracy")):
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.savefig(folder / PLOT, dpi=110)


def _line(axes: Any, rows: Sequence[LogRow], name: str, label: str) -> None:
    if rows:
        axes.plot(
            [row["epoch"] for row in rows],
            [row[name] for row in rows],
            label=label,
            marker="." if len(rows) < 40 else "",
        )


def _text(row: LogRow) -> dict[str, str]:
    return {name: f"{value:.8g}" for name, value in row.items()}

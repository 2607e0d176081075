"""The log of a run: TensorBoard's events."""

from pathlib import Path

LogRow = dict[str, float]

EVENTS = "tensorboard"


class RunLog:
    """The log of the run in `folder`, resumed after `step`: TensorBoard drops later rows, since they come again."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(str(folder / EVENTS), purge_step=step + 1)

    def add(self, kind: str, row: LogRow) -> None:
        """Add a row of "training" or "validation"; it is in the file when this returns."""
        for name in row.keys() - {"step"}:
            self._events.add_scalar(f"{kind}/{name}", row[name], int(row["step"]))
        self._events.flush()

    def close(self) -> None:
        self._events.close()

"""The numbers in the log of a training run."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.training.run_log import EVENTS, LogRow


def read_rows(folder: Path, kind: str) -> list[LogRow]:
    """The rows of `kind` in the log of the run in `folder`, as TensorBoard shows them, in the order of their steps."""
    events = EventAccumulator(str(folder / EVENTS)).Reload()
    rows: dict[int, LogRow] = {}
    for tag in events.Tags()["scalars"]:
        if tag.startswith(f"{kind}/"):
            for event in events.Scalars(tag):
                rows.setdefault(event.step, {"step": event.step})[tag.removeprefix(f"{kind}/")] = event.value
    return [rows[step] for step in sorted(rows)]

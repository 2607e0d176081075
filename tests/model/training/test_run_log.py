from pathlib import Path

from model.training.run_log import PLOT, TRAINING, LogRow, RunLog, read_rows


def row(step: int) -> LogRow:
    return {
        "step": step,
        "epoch": step / 4,
        "learning_rate": 1e-3,
        "loss": 1 / step,
        "grad_norm": 1,
        "images_per_second": 9,
    }


def test_what_was_written_after_the_checkpoint_is_written_anew(tmp_path: Path) -> None:
    journal = RunLog(tmp_path, 0)
    for step in (1, 2, 3):
        journal.add("training", row(step))
    journal.close()
    with (tmp_path / TRAINING).open("a") as file:
        file.write("4,1.0,0.001,0.2,1,")  # killed here
    assert [each["step"] for each in read_rows(tmp_path / TRAINING)] == [1, 2, 3]
    journal = RunLog(tmp_path, 2)
    journal.add("training", row(3) | {"loss": 7})
    journal.close()
    assert [(each["step"], each["loss"]) for each in read_rows(tmp_path / TRAINING)] == [(1, 1), (2, 0.5), (3, 7)]


def test_the_curves_are_drawn_and_tensorboard_has_the_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    journal = RunLog(tmp_path, 0)
    for step in (1, 2):
        journal.add("training", row(step))
    journal.add("validation", {"step": 2, "epoch": 0.5, "loss": 0.6, "top1": 0.4, "top5": 0.9})
    journal.close()
    assert (tmp_path / PLOT).read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [round(event.value, 3) for event in events.Scalars("training/loss")] == [1, 0.5]
    assert [round(event.value, 3) for event in events.Scalars("validation/top1")] == [0.4]

from pathlib import Path

from model.training.run_log import EVENTS, LogRow, RunLog
from tests.support.training_log import read_rows


def row(step: int, loss: float) -> LogRow:
    return {
        "step": step,
        "epoch": step / 4,
        "learning_rate": 0.5,
        "loss": loss,
        "grad_norm": 1,
        "images_per_second": 9,
    }


def test_rows_after_the_checkpoint_are_replaced_also_if_a_kill_cut_the_last(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.add("training", row(step, 1 / 4))
    log.add("validation", {"step": 2, "epoch": 0.5, "loss": 0.75, "top1": 0.5, "top5": 1})
    log.close()
    (events,) = (tmp_path / EVENTS).iterdir()
    # As if the run had begun earlier: TensorBoard reads files in the order of their names, which begin with a second.
    events = events.rename(events.with_name("events.out.tfevents.1700000000.machine.1.0"))
    whole = events.read_bytes()
    events.write_bytes(whole + whole[-40:-5])  # killed here
    assert read_rows(tmp_path, "training") == [row(step, 1 / 4) for step in (1, 2, 3)]
    log = RunLog(tmp_path, 2)
    log.add("training", row(3, 7))
    log.close()
    assert read_rows(tmp_path, "training") == [row(1, 1 / 4), row(2, 1 / 4), row(3, 7)]
    assert read_rows(tmp_path, "validation") == [{"step": 2, "epoch": 0.5, "loss": 0.75, "top1": 0.5, "top5": 1}]

"""Training runs in processes of their own, for multiprocessing's forkserver, which imports PyTorch once for all."""

import os
import runpy
import signal
import sys
from unittest.mock import patch

from model.training.command import main
from model.training.run_log import LogRow, RunLog


def train_until_killed(arguments: list[str], step: int) -> None:
    """Train, and be killed as soon as the log has the row of `step`."""
    add = RunLog.add

    def add_and_die(log: RunLog, kind: str, row: LogRow) -> None:
        add(log, kind, row)
        if row["step"] == step:
            os.kill(os.getpid(), signal.SIGKILL)

    with patch.object(RunLog, "add", add_and_die):
        main(arguments)


def run_script(*arguments: str) -> object:
    """Run model/train.py with `arguments`; returns its exit code."""
    with patch.object(sys, "argv", ["train.py", *arguments]):
        try:
            runpy.run_path("model/train.py", run_name="__main__")
        except SystemExit as err:
            return err.code
    return None

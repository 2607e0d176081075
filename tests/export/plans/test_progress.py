import io
import os
import signal
import subprocess
import sys
import threading

import pytest
from rich.console import Console

from export.plans.progress import Bars, interruptibly


def test_phases_are_bars_that_lie_in_each_other_and_go_when_they_are_done() -> None:
    drawn = io.StringIO()
    with Bars(Console(file=drawn, force_terminal=True, width=100)) as bars:
        bars.start("Building", None, 4)
        bars.start("Timing", "Building", 100)
        assert bars.step("Timing", 41)
        bars._bars.refresh()
        assert "  Timing" in drawn.getvalue()
        assert "42/100" in drawn.getvalue()
        bars.finish("Timing")
        bars.start("Timing", "Building", 7)  # names come again
        drawn.truncate(0)
        bars._bars.refresh()
        assert "0/7" in drawn.getvalue()
        assert "42/100" not in drawn.getvalue()


def test_without_a_terminal_nothing_is_drawn() -> None:
    drawn = io.StringIO()
    with Bars(Console(file=drawn)) as bars:
        bars.start("Building", None, 4)
        assert bars.step("Building", 0)
        bars.finish("Building")
    assert drawn.getvalue() == ""


def test_a_build_that_was_stopped_is_told_so_at_its_next_step() -> None:
    with Bars(Console(file=io.StringIO())) as bars:
        bars.start("Building", None, 4)
        bars.stop()
        assert not bars.step("Building", 0)
        assert not bars.step("a phase that never started", 0)
        bars.finish("a phase that never started")


def test_errors_in_drawing_do_not_reach_the_builder() -> None:
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    bars = Bars(Console(file=Closed(), force_terminal=True))
    bars.start("Building", None, 4)
    bars._bars.add_task = None  # type: ignore[assignment,method-assign]
    bars.start("Timing", "Building", 4)
    assert bars.step("Timing", 0)
    bars.finish("Timing")


def test_results_and_exceptions_of_the_work_are_passed_on() -> None:
    assert interruptibly(lambda: 3, lambda: None) == 3
    with pytest.raises(ZeroDivisionError):
        interruptibly(lambda: 1 // 0, lambda: None)


def test_ctrl_c_stops_the_work_and_waits_for_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    stopped, ended = threading.Event(), threading.Event()
    before = signal.getsignal(signal.SIGINT)  # a shell's background jobs ignore it

    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped.wait(20)
        ended.set()
        raise RuntimeError("stopped")

    with pytest.raises(KeyboardInterrupt):
        interruptibly(work, stopped.set)
    assert ended.is_set()
    assert "stopping at the next step" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_the_process_at_once() -> None:
    script = (
        "import os, signal, sys, time\n"
        "from export.plans.progress import interruptibly\n"
        "interruptibly(lambda: (print('works', flush=True), time.sleep(60)), lambda: None)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "works\n"
        process.send_signal(signal.SIGINT)
        assert "Ctrl-C again" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == -signal.SIGINT

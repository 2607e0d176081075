"""Waiting for a build: progress bars, and Ctrl-C that ends it."""

import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

T = TypeVar("T")


class Bars:
    """A bar for each phase of a build, nested as the phases are. Nothing is drawn without a terminal.

    An export.plans.build_spec.Progress. The builder calls it from its own threads, in which an exception would end the
    process: errors of drawing are ignored.
    """

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._tasks: dict[str, tuple[TaskID, int]] = {}  # with the depth of nesting
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def stop(self) -> None:
        """Let the build end at its next step."""
        self._stopped.set()

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        with self._lock:
            depth = self._tasks[parent][1] + 1 if parent in self._tasks else 0
            self._draw(
                lambda: self._tasks.update({phase: (self._bars.add_task("  " * depth + phase, total=steps), depth)})
            )

    def step(self, phase: str, step: int) -> bool:
        with self._lock:
            if phase in self._tasks:
                self._draw(lambda: self._bars.update(self._tasks[phase][0], completed=step + 1))
        return not self._stopped.is_set()

    def finish(self, phase: str) -> None:
        with self._lock:
            if phase in self._tasks:
                task, _ = self._tasks.pop(phase)
                self._draw(lambda: self._bars.remove_task(task))

    def _draw(self, change: Callable[[], None]) -> None:
        try:
            change()
        except Exception:  # such as a closed terminal
            self._bars.disable = True


def interruptibly(work: Callable[[], T], stop: Callable[[], None]) -> T:
    """The result of `work`, which runs in a thread: no signal reaches Python while its main thread is in C++.

    Ctrl-C calls `stop`, waits for `work` to end and raises KeyboardInterrupt; a second one ends the process at once.
    """
    interrupted = threading.Event()

    def interrupt(*_: object) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        print("stopping at the next step; Ctrl-C again to end at once", file=sys.stderr, flush=True)
        stop()

    done: Future[T] = Future()
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        threading.Thread(target=_fulfil, args=(done, work), daemon=True).start()
        wait([done])
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted.is_set():
        raise KeyboardInterrupt
    return done.result()


def _fulfil(done: Future[T], work: Callable[[], T]) -> None:
    try:
        done.set_result(work())
    except BaseException as err:
        done.set_exception(err)

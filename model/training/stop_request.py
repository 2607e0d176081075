"""Ctrl-C during training: the step that it meets is finished, so that a checkpoint can be written."""

import signal
from types import FrameType, TracebackType

from model.command_line import notes


class StopRequest:
    """Notes Ctrl-C within its block; a second one raises KeyboardInterrupt at once.

    With several processes (`alone` is false) Ctrl-C raises at once: they would stop after different steps.
    """

    def __init__(self, *, alone: bool) -> None:
        self.requested = False
        self._alone = alone

    def __enter__(self) -> "StopRequest":
        if self._alone:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, at: TracebackType | None) -> None:
        if self._alone:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        notes.print("stopping after this step, with a checkpoint; Ctrl-C again stops at once")

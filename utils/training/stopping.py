"""Being asked to stop: Ctrl-C and SIGTERM let the step finish first."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from utils.base.interrupts import on_stop
from utils.base.output import when_output_is_lost


class StopRequest:
    """Set by Ctrl-C, SIGTERM or lost output: the step is finished and saved first. A second Ctrl-C quits at once.

    A second SIGTERM doesn't: batch systems send it to a job's processes, and those pass it on to one another.
    """

    def __init__(self) -> None:
        self.asked = self._interrupted = False
        self._process = os.getpid()

    def __bool__(self) -> bool:
        return self.asked

    def ask(self) -> None:
        """Ask for a stop after this step."""
        self.asked = True

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take over SIGINT, SIGTERM and lost output within the block."""
        with on_stop(self._request), when_output_is_lost(self.ask):
            yield self

    def _request(self, number: int, frame: object) -> None:
        if os.getpid() != self._process:  # a loader's worker, which gets the terminal's Ctrl-C too
            return
        if self._interrupted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._interrupted |= number == signal.SIGINT
        if self:
            return
        self.ask()
        # Not print: a signal may come in the middle of one.
        with contextlib.suppress(OSError):
            os.write(2, b"stopping after this step; Ctrl-C once more quits at once\n")

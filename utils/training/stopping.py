"""Being asked to stop: Ctrl-C and SIGTERM let the step finish first."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from utils.base.output import when_output_is_lost


class StopRequest:
    """Set by Ctrl-C, SIGTERM or lost output: the step is finished and saved first. A second signal quits at once."""

    def __init__(self) -> None:
        self.asked = False
        self._process = os.getpid()

    def __bool__(self) -> bool:
        return self.asked

    def ask(self) -> None:
        """Ask for a stop after this step."""
        self.asked = True

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take over SIGINT, SIGTERM and lost output within the block."""
        before = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with when_output_is_lost(self.ask):
                yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _request(self, number: int, frame: object) -> None:
        if os.getpid() != self._process:  # a loader's worker, which gets the terminal's Ctrl-C too
            return
        if self:
            raise KeyboardInterrupt
        self.ask()
        # Not print: a signal may come in the middle of one.
        with contextlib.suppress(OSError):
            os.write(2, b"stopping after this step; once more quits at once\n")

"""Being asked to stop: Ctrl-C and SIGTERM let the step finish first."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator


class StopRequest:
    """Set by Ctrl-C or SIGTERM: the step is finished and saved first. A second signal quits at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._process = os.getpid()

    def __bool__(self) -> bool:
        return self.signal is not None

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take over SIGINT and SIGTERM within the block."""
        before = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _request(self, number: int, frame: object) -> None:
        if os.getpid() != self._process:  # a loader's worker, which gets the terminal's Ctrl-C too
            return
        if self:
            raise KeyboardInterrupt
        self.signal = number
        # Not print: a signal may come in the middle of one.
        os.write(2, b"stopping after this step; once more quits at once\n")

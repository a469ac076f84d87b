"""What Ctrl-C and SIGTERM do."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def on_stop(handler: Callable[..., None]) -> Iterator[None]:
    """Call `handler`, with the signal's number and the frame, on Ctrl-C and SIGTERM within the block.

    A SIGTERM that is ignored stays so (see `utils.base.processes.join`).
    """
    ignored = signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    numbers = (signal.SIGINT,) if ignored else (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)

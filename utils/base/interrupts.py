"""What Ctrl-C and SIGTERM do. This module comes before all others, and so imports next to nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator

EXIT_INTERRUPTED = 130


def end_quietly_on_interrupt() -> None:
    """Until `command` begins, let Ctrl-C end the process in a word: while modules are imported nothing can be lost."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_quietly)


def end_quietly(number: int, frame: object) -> None:
    """Say so and end the process at once: what `signal.signal` takes."""
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(EXIT_INTERRUPTED)


def is_command() -> bool:
    """Whether Python was started with a main or a module of this project, not with a program that imports it."""
    argv = sys.orig_argv if sys.version_info >= (3, 10) else sys.argv  # an older Python is told that it is too old
    module = any(argv[i] == "-m" and argv[i + 1].startswith(("dataset.", "utils.")) for i in range(len(argv) - 1))
    return module or any(os.path.basename(argument) in ("supv_main.py", "weak_main.py") for argument in argv)


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

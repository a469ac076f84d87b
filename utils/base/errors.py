"""The error that a user can mend, and the exit codes that go with it."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator

EXIT_DONE = 0
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """Something that the user must change: one line that says what is wrong, where, and how to fix it.

    Raised wherever the cause is known, caught once, in `command`: no traceback, exit code 2.
    """

    def __init__(self, message: object) -> None:
        # One line is the promise, whatever a library's own message (quoted in ours) looks like.
        super().__init__(" ".join(str(message).split()))


class Interrupted(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and has saved its state: exit code 130."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, Python's or torch's, says that the machine's or the device's memory is used up."""
    said = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in said)
    )


def command(main: Callable[..., None]) -> Callable[..., int]:
    """Wrap a command-line `main` so that it returns the exit codes that this project promises.

    0 done; 2 the user must change something (one line on stderr); 130 interrupted. Anything else that
    escapes is a bug and keeps its traceback.
    """

    @functools.wraps(main)
    def run(*args, **kwargs) -> int:
        try:
            with _sigterm_interrupts():
                main(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_USER_ERROR
        except (Interrupted, KeyboardInterrupt) as stop:
            if threading.current_thread() is threading.main_thread():
                # One more Ctrl-C ends the process while it cleans up, without a traceback.
                signal.signal(signal.SIGINT, signal.SIG_DFL)
            print(str(stop) or "interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            print(
                "error: out of memory; end other programs or ask for less: for a training that is data.features = "
                '"stream", smaller batches or a narrower network',
                file=sys.stderr,
            )
            return EXIT_USER_ERROR
        return EXIT_DONE

    return run


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM, which batch systems send, end the block as Ctrl-C does: what cleans up after itself still does."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

"""What reaches the terminal: text of others made harmless, and what happens when it can't be written.

Within `guarded_output` standard output and standard error are wrapped:

- Control characters, which may come from a file's name or a category's, are shown as `\\x1b` instead of obeyed.
- A character that the terminal's encoding doesn't have is shown as `\\xe9`.
- Standard output that can't be written (a closed pipe, a full disk) raises `OutputLost` once and is discarded from
  then on. A long run asks to be stopped instead (`when_output_is_lost`), so that it can save its state.
- Standard error that can't be written is discarded: there is nobody left to tell.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TextIO

# Control characters but tab and newline, those that reverse the order of the text around them, and half characters,
# which stand for the bytes of a file's name that aren't UTF-8 and can't be written to a file.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# A progress bar goes back to the beginning of its line, or a line up.
_UNSAFE_BESIDE_BARS = re.compile("(?!\r|\x1b\\[A)" + _UNSAFE.pattern)


class OutputLost(Exception):
    """Standard output can't be written; why is in `Stream.error`."""


def printable(text: str) -> str:
    """Text whose control characters are written out (`\\x1b`), so that a terminal shows and doesn't obey them."""
    return _UNSAFE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    if "\udc80" <= match[0] <= "\udcff":  # a byte of a name that isn't UTF-8
        return f"\\x{ord(match[0]) - 0xDC00:02x}"
    return match[0].encode("unicode_escape").decode("ascii")


class Stream:
    """Standard output or standard error, with the promises of this module; all else is the wrapped stream's."""

    def __init__(self, stream: TextIO, unsafe: re.Pattern[str], required: bool) -> None:
        self._stream, self._unsafe, self._required = stream, unsafe, required
        self.error: OSError | None = None  # the first one; nothing is written after it

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, made printable. Raises OutputLost where that fails and nobody takes care of it."""
        self._try(self._stream.write, self._unsafe.sub(_escaped, text))
        return len(text)

    def flush(self) -> None:
        """Hand what was written to the operating system. Raises OutputLost as `write` does."""
        self._try(self._stream.flush)

    def _try(self, call: Callable[..., Any], *arguments: str) -> None:
        if self.error is not None:
            return
        try:
            call(*arguments)
        except OSError as error:
            self.error = error
            _discard_all(self._stream)
            if not self._required:
                return
            if not _stops:
                raise OutputLost from error
            _stops[-1]()


_stops: list[Callable[[], None]] = []


@contextlib.contextmanager
def when_output_is_lost(stop: Callable[[], None]) -> Iterator[None]:
    """Within the block call `stop`, once, where standard output can't be written, instead of raising OutputLost."""
    _stops.append(stop)
    try:
        yield
    finally:
        _stops.remove(stop)


@contextlib.contextmanager
def guarded_output() -> Iterator[Stream]:
    """Wrap standard output and standard error within the block; yields standard output."""
    _open_what_is_closed()
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    out = Stream(sys.stdout, _UNSAFE, required=True)
    err = Stream(sys.stderr, _UNSAFE_BESIDE_BARS, required=False)
    sys.stdout, sys.stderr = out, err
    try:
        yield out
    finally:
        with contextlib.suppress(OutputLost):
            out.flush()
        err.flush()
        sys.stdout, sys.stderr = before
        root = logging.getLogger()
        root.handlers[:] = [handler for handler in root.handlers if getattr(handler, "stream", None) not in (out, err)]


def _open_what_is_closed() -> None:
    """Give a process that was started without standard streams (`2>&-`) ones that discard everything.

    Else the next file to be opened would become standard error, and receive every message of a library.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115


def _discard_all(stream: TextIO) -> None:
    """Let a stream that can't be written go nowhere: what it still holds would fail once more at Python's end."""
    with contextlib.suppress(OSError, ValueError):  # no descriptor of its own, as in a test
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class MessageHandler(logging.StreamHandler):
    """Log messages for people: just the message, and an error in writing it ends the command."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(MessageFormatter("%(message)s"))

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # the error that is being handled


class MessageFormatter(logging.Formatter):
    """A log format whose text is printable."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def log_to_terminal(stream: TextIO | None = None) -> None:
    """Send the project's messages to standard output, or to another stream, and nowhere else."""
    threading.excepthook = _say_thread_failed
    logging.getLogger().handlers[:] = [MessageHandler(stream or sys.stdout)]
    log_from(logging.INFO)


def log_from(level: int) -> None:
    """Log the project's messages from this level on; a library's from warnings on, whatever it wants to tell."""
    logging.getLogger().setLevel(logging.WARNING)
    for package in ("dataset", "utils"):
        logging.getLogger(package).setLevel(level)


def _say_thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Report a failed thread but TensorBoard's writer: its error is raised again when the next number is written."""
    if not (isinstance(failure.exc_value, OSError) and type(failure.thread).__module__.startswith("tensorboard.")):
        threading.__excepthook__(failure)

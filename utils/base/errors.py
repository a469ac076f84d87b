"""The error that a user can mend, and the exit codes that go with it."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from utils.base.interrupts import EXIT_INTERRUPTED, end_quietly
from utils.base.output import OutputLost, guarded_output, printable

EXIT_DONE = 0
EXIT_USER_ERROR = 2
EXIT_CLOSED_PIPE = 141  # what a shell says of any program that `| head -1` ended before its work was done


class UserError(Exception):
    """Something that the user must change: one line that says what is wrong, where, and how to fix it.

    Raised wherever the cause is known, caught once, in `command`: no traceback, exit code 2.
    """

    def __init__(self, message: object) -> None:
        # One line is the promise, whatever a library's own message (quoted in ours) or a file's name looks like.
        super().__init__(printable(" ".join(str(message).split())))


class Interrupted(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and has saved its state: exit code 130."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, Python's or torch's, says that the machine's or the device's memory is used up."""
    said = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
    of_onednn = ("could not create a primitive", "could not execute a primitive")  # all that it says of it
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and (str(error) in of_onednn or any(words in str(error) for words in said))
    )


_FIXES = {
    errno.ENOSPC: "the disk is full: free some space and run the command again",
    errno.EDQUOT: "your disk quota is used up: free some space and run the command again",
    errno.EFBIG: "the file may not become that large (ulimit -f): raise the limit or choose another folder",
    errno.EACCES: "no permission to write there: choose another folder or change its permissions",
    errno.EPERM: "no permission to write there: choose another folder or change its permissions",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another folder",
    errno.EEXIST: "a file of that name is in the way: move it or choose another folder",
    errno.EISDIR: "a folder of that name is in the way: move it or choose another name",
    errno.EMFILE: "too many files are open (ulimit -n): raise the limit",
    errno.ENFILE: "too many files are open on this machine: end other programs",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
}


def write_error(path: str | os.PathLike, error: OSError) -> UserError:
    """The one-line error for a write to `path` that the operating system refused."""
    fix = _FIXES.get(error.errno, error.strerror or str(error))
    return UserError(f"{path}: could not be written; {fix}")


def command(main: Callable[..., None]) -> Callable[..., int]:
    """Wrap a command-line `main` so that it returns the exit codes that this project promises.

    0 done; 2 the user must change something (one line on stderr), also where the operating system refuses something
    that no other place handles; 130 interrupted; 141, without a word, where nobody reads its output any more. Anything
    else that escapes is a bug and keeps its traceback.
    """

    @functools.wraps(main)
    def run(*args, **kwargs) -> int:
        with guarded_output() as output:
            code, said, ended = EXIT_DONE, "", None
            try:
                with _signals_interrupt():
                    main(*args, **kwargs)
            except UserError as error:
                code, said = EXIT_USER_ERROR, f"error: {error}"
            except (Interrupted, KeyboardInterrupt) as stop:
                if threading.current_thread() is threading.main_thread():
                    # One more Ctrl-C ends the process while it cleans up, without a traceback.
                    signal.signal(signal.SIGINT, signal.SIG_DFL)
                code, said = EXIT_INTERRUPTED, str(stop) or "interrupted"
            except (MemoryError, RuntimeError) as error:
                no_thread = str(error) == "can't start new thread"
                if not no_thread and not is_out_of_memory(error):
                    raise
                code, said = EXIT_USER_ERROR, _NO_THREAD if no_thread else _OUT_OF_MEMORY
            except OutputLost:
                code = EXIT_CLOSED_PIPE
            except OSError as error:  # of the surroundings, at a place where nobody expected it
                if error.errno is None:
                    raise
                code, said = EXIT_USER_ERROR, f"error: {_refusal(error)}"
            except SystemExit as error:  # argparse's, after --help
                ended = error
            with contextlib.suppress(OutputLost):
                output.flush()
            if output.error is not None and not isinstance(output.error, BrokenPipeError) and code != EXIT_USER_ERROR:
                code, ended = EXIT_USER_ERROR, None
                said = f"error: {write_error('standard output', output.error)}" + (f" ({said})" if said else "")
            if said:
                print(said, file=sys.stderr)
        if ended is not None:
            raise ended
        return code

    return run


def _refusal(error: OSError) -> str:
    path = error.filename
    what = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else "a file"
    fix = {errno.EACCES: "change its permissions", errno.EPERM: "change its permissions", errno.ENOENT: "it is gone"}
    return f"{what}: cannot be used ({error.strerror}); {fix.get(error.errno) or _FIXES.get(error.errno, 'mend that')}"


_NO_THREAD = "error: no thread could be started; raise the limits (ulimit -u, ulimit -v) or end other programs"
_OUT_OF_MEMORY = (
    "error: out of memory; end other programs or ask for less: for a training that is data.placement = "
    '"stream", smaller batches or a narrower network'
)


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let SIGTERM, which batch systems send, end the block as Ctrl-C does: what cleans up after itself still does."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return

    def interrupt(number: int, frame: object) -> None:
        torch = sys.modules.get("torch")
        if torch is not None and getattr(torch.__spec__, "_initializing", False):
            end_quietly(number, frame)  # while it imports NumPy torch clears what is raised, and goes on without it
        raise KeyboardInterrupt

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, interrupt)}
    if signal.getsignal(signal.SIGINT) is end_quietly:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is interrupt:  # not ignored since (see `utils.base.processes.join`)
                signal.signal(number, handler)

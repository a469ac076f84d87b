"""`dataset.ingest` in a process of its own, which kills itself at a given moment."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from dataset import writing
from dataset.ingest import __main__ as ingest
from dataset.ingest import journal, make


def in_a_process(arguments: list[str], to: Path, before: Callable[[], object] = lambda: None) -> int:
    """The exit code of a run in a process of its own, negative for a signal."""
    process = os.fork()
    if process == 0:
        try:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
            before()
            os._exit(ingest.main([*arguments, "--to", str(to)]))
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


# What writes: each call is a moment at which a run may be killed.
MOMENTS = [
    (writing.RowWriter, "append"), (writing.RowWriter, "sync"), (writing.RowWriter, "finish"),
    (journal.Journal, "_append"), (make, "write_text"), (make, "write_array"), (make, "move_into"),
    (os, "replace"), (make.shutil, "rmtree"),
]  # fmt: skip


def killed_at(moment: int) -> Callable[[], None]:
    """Let the process kill itself at the given call of MOMENTS, one time in two after what the call did."""
    count = 0

    def prepare() -> None:
        for where, name in MOMENTS:
            setattr(where, name, counted(getattr(where, name)))

    def counted(function: Callable) -> Callable:
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == moment and moment % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **kwargs)
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    return prepare

"""A file that one process holds at a time, so that two runs don't write into one folder."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from utils.base.errors import UserError, write_error

_log = logging.getLogger(__name__)


def try_hold(path: str | os.PathLike, seconds: float = 0.0) -> FileLock | None:
    """Hold the lock file `path` until `release`; None where another process still holds it after some seconds.

    The operating system lets go when the process ends, however it ends. A process that is forked off, such as a
    loader's worker, doesn't hold it. On a file system without locks a warning takes the place of the lock. Raises
    UserError for a file that can't be written.
    """
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=seconds, poll_interval=0.01)
    except Timeout:
        return None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise write_error(path, error) from error
        _log.warning(f"{path}: its file system has no locks; let no second run write to this folder")
    return lock


def hold(path: str | os.PathLike, busy: str) -> FileLock:
    """Hold the lock file `path` as `try_hold`. Raises UserError, which says `busy`, where another process has it."""
    lock = try_hold(path)
    if lock is None:
        raise UserError(busy)
    return lock


@contextlib.contextmanager
def held(path: str | os.PathLike, busy: str) -> Iterator[None]:
    """Hold the lock file `path` within the block, and remove it then. Raises UserError as `hold`."""
    lock = hold(path, busy)
    try:
        yield
    finally:
        Path(path).unlink(missing_ok=True)
        lock.release()


def is_held(path: str | os.PathLike) -> bool:
    """Whether a process holds the lock file `path`; it need not be there."""
    if not os.path.isfile(path):
        return False
    lock = try_hold(path)
    if lock is not None:
        lock.release()
    return lock is None

"""Files that are either whole or not there: written beside their place, flushed, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from utils.base.errors import UserError, write_error


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turn what the operating system refuses within the block into the `write_error` of `path`."""
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error


def make_folder(path: str | os.PathLike) -> Path:
    """Create a folder and its parents; return its path. Raises UserError where that can't be."""
    path = Path(path)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def require_free_space(
    folder: str | os.PathLike, size: int, fix: str = "free some space or choose another folder"
) -> None:
    """Raise UserError unless `size` bytes are free where `folder` is or will be."""
    folder = Path(folder)
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < size:
        raise UserError(f"{folder}: {size / 1e9:.2f} GB are needed, but only {free / 1e9:.2f} GB are free there; {fix}")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, flush it and rename it to `path`.

    Until that rename an older file at `path` is untouched, and after an error the temporary file is
    gone. A killed process leaves the temporary file, whose name ends in `.part`; the next write to the
    same path replaces it. Raises UserError for a full disk, missing permission and the like.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        _discard(part)
        if error.errno is None:  # not the operating system's (h5py raises such): the caller knows better
            raise
        raise write_error(path, error) from error
    except BaseException:
        _discard(part)
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file atomically (UTF-8)."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def _discard(part: Path) -> None:
    with contextlib.suppress(OSError):
        part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the file system lets a folder be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

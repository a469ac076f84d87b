"""Files that are either whole or not there: written beside their place, flushed, then renamed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
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


def require_no_obstacle(path: str | os.PathLike) -> None:
    """Raise UserError where a file is to be written, and a folder, a pipe or a device stands in its place."""
    with writing(path):
        if os.path.lexists(path) and not os.path.isfile(path):
            raise UserError(f"{path}: is in the way of the file that is to be written there; move it")


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
    """Yield a temporary path of the same name; when the block ends well, flush that file and rename it to `path`.

    Until that rename an older file at `path` is untouched, and after an error nothing of the new one is left (see
    `private_folder` for a process that is killed). Raises UserError for a full disk, missing permission and the like.
    """
    path = Path(path)
    try:
        with private_folder(path) as folder:
            part = folder / path.name
            yield part
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
            _sync_folder(path.parent)
    except OSError as error:
        if error.errno is None:  # not the operating system's (h5py raises such): the caller knows better
            raise
        raise write_error(path, error) from error


@contextlib.contextmanager
def private_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a new folder beside `path`, for what shall be renamed to it; it is removed when the block ends.

    Nobody else can put a file or a link into it. Its name, `.NAME.xxxxxxxx.part`, can't be guessed. What a killed
    process left of such folders for the same `path` is removed first. Raises OSError where it can't be made.
    """
    path = Path(path)
    remove_leftovers(path.parent, path.name)
    folder, descriptor = _make_locked(path.parent, f".{path.name[:_NAME_LENGTH]}.")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)
        with contextlib.suppress(OSError):
            for parent, _, names in os.walk(folder, topdown=False):  # what is left where rmtree had no descriptors
                for name in names:
                    os.unlink(os.path.join(parent, name))
                os.rmdir(parent)


_NAME_LENGTH = 50  # of the final name, in that of its temporary folder: four bytes a character and the rest fit in 255


def _make_locked(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new folder, and its descriptor, through which this process holds a lock for as long as it lives."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=".part", dir=parent))
        descriptor = None
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            if _lock(descriptor) is not False and os.path.samestat(os.stat(folder), os.fstat(descriptor)):
                return folder, descriptor
        except FileNotFoundError:
            pass
        except OSError:  # no descriptor is left
            folder.rmdir()
            raise
        # Another process took it for a leftover, between its making and its locking.
        if descriptor is not None:
            os.close(descriptor)


def remove_leftovers(parent: Path, name: str = "") -> None:
    """Remove the `private_folder`s of processes that are gone, for files of a name or of all names.

    What a living process has is locked, and stays.
    """
    folder = re.compile(rf"\.{re.escape(name[:_NAME_LENGTH]) or '.+'}\.[a-z0-9_]{{8}}\.part", re.DOTALL)
    leftovers = []
    with contextlib.suppress(OSError):
        leftovers = [entry.path for entry in os.scandir(parent) if folder.fullmatch(entry.name)]
    for leftover in leftovers:
        with contextlib.suppress(OSError):
            descriptor = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if _lock(descriptor):
                    shutil.rmtree(leftover, ignore_errors=True)
            finally:
                os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Whether this process now has the lock; None where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder and its parents for the block; where this doesn't end well, those that were made are removed."""
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for path in absent:
                path.rmdir()
        raise


def new_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder with these files, all of them or none. Raises UserError where something is there already."""
    if os.path.lexists(path) and not (path.is_dir() and not path.is_symlink() and not any(path.iterdir())):
        raise UserError(f"{path}: is there already; name a new folder, or remove it")
    with made_folder(path.parent), writing(path), private_folder(path) as temporary:
        new = make_folder(temporary / "new")
        for name, content in files.items():
            with open(new / name, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        os.rename(new, path)
        _sync_folder(path.parent)


def inside(folder: str | os.PathLike, name: str) -> Path:
    """The path of the file `name` directly in `folder`, where `name` comes from a file, such as the id of a clip.

    Raises UserError for a name that would lead elsewhere, or that no file can have.
    """
    if name in ("", ".", "..") or "/" in name or os.sep in name or "\0" in name:
        raise UserError(f"{name!r} can't be the name of a file in {folder}; rename it")
    return Path(folder) / name


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file atomically (UTF-8). Half characters of file names become `\\udce9` as in JSON."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the file system lets a folder be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

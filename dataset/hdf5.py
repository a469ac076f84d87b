"""Opening an HDF5 file with care: whatever is in its place, the error names the file, what it is, and the fix."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import h5py

from dataset import files
from utils.base.errors import UserError
from utils.base.text import is_web_page, reading, require_file

# What h5py raises for damaged content, depending on which bytes are wrong.
_DAMAGE = (OSError, RuntimeError, KeyError, TypeError, ValueError)


def open_file(path: Path) -> h5py.File:
    """Open an HDF5 file for reading. Raises UserError: missing, unreadable, truncated, an HTML page, not HDF5."""
    require_file(path, advice=files.HOW_TO_GET_DATA)
    try:
        return h5py.File(path, "r")
    except _DAMAGE as error:
        with reading(path), open(path, "rb") as file:
            head = file.read(512)
        raise UserError(f"{path}: {_why_unreadable(path, head, error)}") from error


@contextlib.contextmanager
def naming_damage(path: Path, where: str = "") -> Iterator[None]:
    """Around calls of h5py: content that it stumbles over becomes a UserError."""
    try:
        yield
    except _DAMAGE as error:
        raise UserError(
            f"{path}: {where}breaks off while being read, its content is damaged; fetch or make the file again"
        ) from error


def _why_unreadable(path: Path, head: bytes, error: Exception) -> str:
    """Name what `path`, which begins with `head` and which HDF5 refused to open, is instead, and the way out."""
    if not head:
        return "is empty; fetch or make the file again"
    if is_web_page(head):
        return f"is an HTML page, {files.WHY_WEB_PAGE}; delete it and download again later, or from a signed-in browser"
    if not head.startswith(b"\x89HDF"):
        return "is not an HDF5 file; fetch or make the file again"
    if "unable to lock" in str(error):
        return "is being written by another program; wait until that closes it"
    if "already open for write" in str(error):
        return (
            "is being written by another program, or was when that was killed; wait until it closes the file, or make "
            "the file again"
        )
    if "truncated" in str(error):
        return f"is truncated (only {path.stat().st_size:,} bytes are there); its download broke off, download it again"
    return f"is a damaged HDF5 file ({error}); fetch or make the file again"

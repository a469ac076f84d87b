"""Whether a fetched file is what it should be: opened at least, and read to its end before it is trusted."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from pathlib import Path

from dataset import files
from dataset.arrays import array_file
from dataset.check.scan import scan
from utils.base.checkpoint import Checkpoint
from utils.base.errors import UserError
from utils.base.text import is_web_page, reading, require_file


def require_kind(path: Path) -> None:
    """Raise UserError when a file isn't of the kind that its name says: a web page, truncated, of another key or shape.

    A file is opened, not read, except for a checkpoint.
    """
    require_file(path)
    with reading(path), open(path, "rb") as file:
        head = file.read(512)
    if path.suffix == ".h5":
        array_file(path)
        return
    if not head:
        raise UserError(f"{path}: is empty; fetch it again")
    if is_web_page(head):
        raise UserError(f"{path}: is an HTML page, {files.WHY_WEB_PAGE}; fetch it again later")
    if path.suffix == ".tar":
        _checkpoint(path)
    elif path.suffix == ".zip" and not zipfile.is_zipfile(path):
        raise UserError(f"{path}: is not a whole zip archive; fetch it again")


def require_published(path: Path, blob: str | None) -> None:
    """Read a file to its end; raise UserError when it isn't what was published, or can't be used.

    With a git blob id `blob` the content must have it; a feature file must hold finite values; an
    archive must be free of errors.
    """
    require_kind(path)
    if blob is not None and (found := blob_id(path)) != blob:
        raise UserError(
            f"{path}: isn't the published file (git blob {found[:10]} instead of {blob[:10]}); fetch it again"
        )
    if path.name in files.FEATURES and (problems := scan(path).problems):
        raise UserError(problems[0])
    if path.suffix == ".zip":
        _archive(path)


def blob_id(path: str | os.PathLike) -> str:
    """Git's id of a file's content, as `git hash-object FILE` says it. Reads the file into memory: small files."""
    content = Path(path).read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _checkpoint(path: Path) -> None:
    """Raise UserError unless the file holds weights, all of them finite."""
    try:
        weights = Checkpoint.load(path).network
    except UserError as error:
        raise UserError(f"{path}: is not a checkpoint: it {str(error).removeprefix(f'{path}: ')}") from error
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise UserError(f"{path}: holds NaN or infinity; fetch it again")


def _archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except NotImplementedError as error:
        raise UserError(f"{path}: is compressed in a way that Python can't read ({error}); fetch it again") from error
    except RuntimeError as error:  # a password is asked for
        raise UserError(f"{path}: is an encrypted archive ({error}); fetch it again") from error
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
        raise UserError(f"{path}: is a damaged zip archive ({error}); fetch it again") from error
    if damaged is not None:
        raise UserError(f"{path}: is a damaged zip archive (in {damaged}); fetch it again")

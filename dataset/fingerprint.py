"""What tells two data folders apart, found in about a second: sizes, shapes, types, and hashes of the content.

A file of up to WHOLE bytes is hashed whole. Of a larger one a block in every STRIDE bytes is hashed, and the time of
its last change is noted. What that can't see is a change of a large file that keeps its size and lies between two
blocks, so is shorter than 2 STRIDE: the time still tells that something was written (`written_since`), unless somebody
set it back.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dataset import files
from dataset.arrays import array_file
from utils.base import nested
from utils.base.text import reading, require_file

WHOLE = 64 * 2**20
STRIDE, BLOCK = 2**19, 2**12
_READERS = 8  # a disk answers several requests at once
_TIME = "modified"

# File name -> "bytes", "shape", "type", and "sha256" or, of a large file, "blocks" and "modified".
Fingerprint = dict[str, dict[str, Any]]


def fingerprint(root: str | os.PathLike, label_regime: str | None) -> Fingerprint:
    """The fingerprint of the files of a data folder that a run reads, by its label regime (None: supervised).

    Raises UserError (see `dataset.arrays`) for a file that is not what its name says.
    """
    prints: Fingerprint = {}
    for name in files.read_with(label_regime):
        path = Path(root) / name
        if not path.exists():
            continue
        prints[name] = _content(path)
        if name not in files.TEXTS:
            array = array_file(path)
            prints[name] |= {"shape": list(array.shape), "type": str(array.dtype)}
            if array.values_in != path:
                prints[name] |= {f"linked {key}": value for key, value in _content(array.values_in).items()}
    return prints


def of_files_read(prints: Mapping[str, Any], label_regime: str | None) -> Mapping[str, Any]:
    """A fingerprint without the files that a run doesn't read; earlier versions noted some of these too."""
    return {name: values for name, values in prints.items() if name in files.read_with(label_regime)}


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """What two fingerprints say differently: (file and what of it, ours, theirs).

    What one of them doesn't say of a file, such as one made by an earlier version, is no difference, and neither is
    the time at which a file was written: copying a folder changes it.
    """
    found = []
    for what, here, there in nested.differences(ours, theirs, " "):
        name, _, key = what.partition(" ")
        said_by_both = here is not None and there is not None
        if key.endswith(_TIME) or (name in ours and name in theirs and not said_by_both):
            continue
        found.append((what, here, there))
    return found


def written_since(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The large files that were written, or copied, between two fingerprints that are otherwise the same."""
    differing = nested.differences(ours, theirs, " ")
    return [what.partition(" ")[0] for what, here, there in differing if what.endswith(_TIME) and here and there]


def _content(path: Path) -> dict[str, Any]:
    require_file(path)
    with reading(path), open(path, "rb") as file:
        state = os.fstat(file.fileno())
        if state.st_size <= WHOLE:
            return {"bytes": state.st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        modified = datetime.fromtimestamp(state.st_mtime, UTC).isoformat()
        return {"bytes": state.st_size, "blocks": _hash_of_blocks(file.fileno(), state.st_size), _TIME: modified}


def _hash_of_blocks(descriptor: int, size: int) -> str:
    if hasattr(os, "posix_fadvise"):  # else each block would bring its neighbours along
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def hash_of(starts: list[int]) -> bytes:
        return hashlib.sha256(b"".join(os.pread(descriptor, BLOCK, start) for start in starts)).digest()

    starts = list(_starts(size))
    with ThreadPoolExecutor(_READERS) as pool:
        parts = pool.map(hash_of, [starts[i : i + 256] for i in range(0, len(starts), 256)])
        return hashlib.sha256(b"".join(parts)).hexdigest()


def _starts(size: int) -> Iterator[int]:
    """Where the blocks of a file begin: one in every STRIDE bytes, each time at another distance from its beginning."""
    yield 0
    for number, stride in enumerate(range(0, size - STRIDE, STRIDE), start=1):
        yield stride + number * 2654435761 % (STRIDE // BLOCK) * BLOCK
    yield size - BLOCK

"""Reading the file of a clip: `.npy`, `.npz`, `.pkl`, `.zip` with one `.pkl`, or `.pt`. Code in a file is never run."""

from __future__ import annotations

import contextlib
import io
import math
import os
import pickle
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dataset.ingest.pickles import Refused, unpickled
from utils.base.errors import UserError
from utils.base.text import reading

LIMIT = 256 * 2**20  # bytes that the file of a clip may hold, unpacked: 16 times 100 frames of a 14 x 14 x 1024 grid

State = tuple[int, int] | None  # of a file: size and time of its last change; None: it isn't there


def state_of(path: Path) -> State:
    """What differs once a file was changed; None for a missing file. Raises UserError for a pipe or a refused path."""
    with reading(path):
        try:
            found = os.stat(path)
        except FileNotFoundError:
            return None
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path}: is no file that lies on a disk; remove it")
    return found.st_size, found.st_mtime_ns


def read_content(path: Path) -> Any:
    """The content of the file of a clip: an array, a nested list of numbers, or a dict of these.

    Raises UserError that names the file: code in it, damaged, too large, several files in a zip.
    """
    with naming(path):
        with reading(path), open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > LIMIT:
                raise Refused(_TOO_LARGE)
            content = file.read()
        try:
            return READERS[path.suffix](content)
        except Refused:
            raise
        except Exception as error:  # a damaged file makes Python's, NumPy's and torch's readers fail in any way
            what = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:100]}"
            raise Refused(f"is damaged, or no {path.suffix} file ({what}); make or fetch it again") from error


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn Refused within the block into a UserError that names the file."""
    try:
        yield
    except Refused as error:
        raise UserError(f"{path}: {error}") from error


_TOO_LARGE = f"holds more than {LIMIT // 2**20} MiB, too much for one clip; it is damaged or no file of features"


def _npy(content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if header is None:
        raise Refused("holds an array of records, not of numbers; save numbers alone")
    shape, by_column, dtype = header(file)
    if dtype.kind not in "fiub":  # objects are a pickle
        raise Refused(f"holds an array of the type {dtype}, not of numbers; save numbers alone")
    rest = memoryview(content)[file.tell() :]
    if math.prod(shape) * dtype.itemsize != len(rest):
        raise Refused("is damaged: its array's size isn't that of its content; make or fetch the file again")
    return np.frombuffer(rest, dtype).reshape(shape, order="F" if by_column else "C")


def _npz(content: bytes) -> dict[str, np.ndarray]:
    return {name.removesuffix(".npy"): _npy(member) for name, member in _members(content, ".npy").items()}


def _zipped_pickle(content: bytes) -> Any:
    members = _members(content, ".pkl")
    if len(members) != 1:
        raise Refused(f"is a zip with {len(members)} .pkl files in it; each clip's has one")
    return unpickled(*members.values())


def _members(content: bytes, ending: str) -> dict[str, bytes]:
    """The files in a zip whose names have this ending. Unpacks at most LIMIT bytes."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        wanted = [
            info for info in file.infolist() if info.filename.endswith(ending) and "__MACOSX" not in info.filename
        ]
        if sum(info.file_size for info in wanted) > LIMIT:  # zipfile reads no more than what is said here
            raise Refused(_TOO_LARGE)
        if any(info.flag_bits & 1 for info in wanted):
            raise Refused("is an encrypted archive; unpack it by its password, and pack it without one")
        return {info.filename: file.read(info) for info in wanted}


def _tensors(content: bytes) -> Any:
    import torch  # takes seconds and 220 MiB, and no other kind of file needs it

    from utils.base.state_dicts import require_dense

    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            if sum(info.file_size for info in file.infolist()) > LIMIT:
                raise Refused(_TOO_LARGE)
            if damaged := file.testzip():  # torch.load doesn't look
                raise Refused(f"is damaged (checksum of {damaged}); make or fetch it again")
    try:
        with warnings.catch_warnings(action="ignore"):  # advice on how to load unsafely
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        _, found, code = str(error).partition("GLOBAL ")
        raise Refused(
            f"holds code ({code.split()[0]}), which is not run; save tensors alone" if found else error
        ) from error
    parts = loaded if isinstance(loaded, dict) else {None: loaded}
    try:
        require_dense(parts)
    except ValueError as error:
        raise Refused(error) from error

    def plain(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if value.numel() * 8 > LIMIT:  # its values may all be the same one in memory
            raise Refused(_TOO_LARGE)
        value = value.detach()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()

    arrays = {key: plain(value) for key, value in parts.items()}
    return arrays if parts is loaded else arrays[None]


READERS: dict[str, Callable[[bytes], Any]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".pkl": unpickled,
    ".zip": _zipped_pickle,
    ".pt": _tensors,
}


def part_of(content: Any, key: str | None, path: Path) -> np.ndarray:
    """The array of numbers that a file's content holds under `key`; without a key its only one.

    Raises UserError where it isn't there, or isn't an array of numbers.
    """
    with naming(path):
        if isinstance(content, dict):
            held = [name for name in content if isinstance(name, str)]
            if key is None and len(held) == 1:
                (key,) = held
            if key not in content:
                wanted = f"no {key!r}" if key else "several arrays"
                raise Refused(f"holds {wanted} (it holds {', '.join(map(repr, held[:8])) or 'nothing'}); name one")
            content = content[key]
        try:
            array = _stacked(content)
        except (ValueError, TypeError) as error:
            raise Refused(f"holds no array of numbers ({error}); save numbers alone") from error
        if array.dtype.kind not in "fiub":
            raise Refused(f"holds an array of the type {array.dtype}, not of numbers; save numbers alone")
        return array


def _stacked(value: Any) -> np.ndarray:
    """An array, or nested lists of numbers and arrays as one. Raises ValueError where lengths differ."""
    if isinstance(value, np.ndarray):
        return value
    shape, inner = [], value
    while isinstance(inner, list | tuple) and inner and len(shape) < 4:
        shape.append(len(inner))
        inner = inner[0]
    if not isinstance(inner, int | float | np.ndarray) or math.prod(shape) * getattr(inner, "nbytes", 8) > LIMIT:
        raise ValueError(f"a {type(inner).__name__}")
    _require_lengths(value, shape)
    return np.array(value)


def _require_lengths(value: Any, shape: list[int]) -> None:
    """Raise ValueError unless nested lists have these lengths, before NumPy looks at every one of their items."""
    if not shape:
        if isinstance(value, list | tuple):
            raise ValueError("lists of different lengths")
    elif not isinstance(value, list | tuple) or len(value) != shape[0]:
        raise ValueError("lists of different lengths")
    else:
        for item in value:
            _require_lengths(item, shape[1:])

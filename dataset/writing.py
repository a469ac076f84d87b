"""Writing the files of a data folder, whole or not at all, also when the disk fills up."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from dataset import files
from dataset.arrays import row_offsets
from dataset.prefetch import ahead
from utils.base.atomic import private_folder
from utils.base.errors import UserError
from utils.base.locks import held

_HDF5_OVERHEAD = 2**20  # bytes, beyond the values themselves; generous


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Keep every other command from writing into the data folder `root` within the block.

    Raises UserError while another run does.
    """
    with held(root / ".lock", f"{root}: another run is writing there; wait until it ends"):
        yield


@contextlib.contextmanager
def working_folder(root: Path) -> Iterator[Path]:
    """Yield an empty folder in the data folder `root` while `alone` there; remove it. Raises UserError as `alone`."""
    with alone(root), private_folder(root / "generating") as part:
        yield part


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a small file of the data folder. Raises OSError where the operating system refuses it."""
    path.write_bytes(bytes_of_file(path.name, array))


def bytes_of_file(name: str, array: np.ndarray) -> bytes:
    """The content of the small file `name` of a data folder, made in memory.

    HDF5 can crash the process when it can't write a file to a disk.
    """
    with h5py.File(name, "w", driver="core", backing_store=False) as file:
        file.create_dataset(files.key_of(name), data=array)
        file.flush()
        return file.id.get_file_image()


class RowWriter:
    """A feature file with room for every row, into which rows are written in any order.

    Args:
        path: the new file.
        shape, dtype: of its array.
        chunked: each row a chunk; else contiguous, like the authors' files.
        attributes: of the array.

    Raises OSError where the operating system refuses to write, before any row is, if that can be known then.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        dtype: str,
        chunked: bool = False,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        _reserve(path, size_of_file(shape, dtype))
        # HDF5 can crash the process when a disk fills under it: it only says where the rows belong.
        self._offsets = _lay_out(path, shape, self.dtype, chunked, attributes or {})
        self._file = open(path, "rb+")  # noqa: SIM115 - held open until `close`

    def __setitem__(self, row: int, values: np.ndarray) -> None:
        if values.shape != self.shape[1:]:
            raise ValueError(f"a row has shape {list(self.shape[1:])}, not {list(values.shape)}")
        self._file.seek(self._offsets[row])
        self._file.write(np.ascontiguousarray(values, self.dtype))

    def close(self) -> None:
        """Hand everything to the operating system."""
        self._file.close()


class GrowingFile:
    """A feature file to which rows are appended; how many it has is known at its end, and a killed process goes on.

    Until `finish` it is no HDF5 file: its rows lie where those of the finished one will, behind room for the header.

    Args:
        path: a new file, or one that an earlier process has begun.
        shape: of a row.
        rows: how many rows the file already has.

    Raises OSError where the operating system refuses to write, UserError where the file breaks off before that row.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str, rows: int = 0) -> None:
        self.shape, self.dtype, self.rows, self._path = shape, np.dtype(dtype), rows, path
        self._start = len(self._header(1)[0])
        self._file = open(path, "rb+" if rows and path.exists() else "wb")  # noqa: SIM115 - held open until `close`
        end = self._start + rows * self.dtype.itemsize * math.prod(shape)
        if rows and os.fstat(self._file.fileno()).st_size < end:
            self.close()
            raise UserError(f"{path}: breaks off before row {rows}, which it had; remove {path.parent} to begin anew")
        self._file.seek(end)

    def append(self, values: np.ndarray) -> None:
        """Write the next row."""
        if values.shape != self.shape:
            raise ValueError(f"a row has shape {list(self.shape)}, not {list(values.shape)}")
        self._file.write(np.ascontiguousarray(values, self.dtype))
        self.rows += 1

    def sync(self) -> None:
        """Return once every row is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Make it an HDF5 file of the rows that it has; a second call changes nothing."""
        header, size = self._header(self.rows)
        if len(header) != self._start:
            raise RuntimeError(f"HDF5 lays out {self.rows} rows from byte {len(header)}, one row from {self._start}")
        self._file.seek(0)
        self._file.write(header)
        self._file.truncate(size)
        self.sync()

    def close(self) -> None:
        self._file.close()

    def _header(self, rows: int) -> tuple[bytes, int]:
        """What stands before the first row in a file of so many rows, and that file's size."""
        empty = self._path.with_suffix(".header")  # takes no room: nothing is written to its rows
        offsets = _lay_out(empty, (rows, *self.shape), self.dtype, False, {})
        with open(empty, "rb") as file:
            header, size = file.read(int(offsets[0])), os.fstat(file.fileno()).st_size
        empty.unlink()
        return header, size


def move_into(folder: Path, root: Path, names: Iterable[str]) -> None:
    """Move files of `folder`, those that are there, to the data folder `root`, in this order, each of them whole.

    With the visual features last `root` looks whole at no time before the last move.
    """
    there = [name for name in names if (folder / name).exists()]
    for name in there:
        with open(folder / name, "rb+") as file:
            os.fsync(file.fileno())
    for name in reversed(there):
        (root / name).unlink(missing_ok=True)
    for name in there:
        os.replace(folder / name, root / name)


def size_of_file(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of a feature file, at most."""
    return np.dtype(dtype).itemsize * math.prod(shape) + _HDF5_OVERHEAD


def write_features(
    paths: tuple[Path, Path],
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    dtype: str,
    clip: Callable[[int], tuple[np.ndarray, np.ndarray]],
    threads: int,
    bar: tqdm,
) -> None:
    """Write a visual and an audio feature file.

    Row i of the two is `clip(i)`, computed in `threads` threads with few clips in memory at a time;
    `bar` advances by one a clip.
    """
    with (
        contextlib.closing(RowWriter(paths[0], shapes[0], dtype)) as visual,
        contextlib.closing(RowWriter(paths[1], shapes[1], dtype)) as audio,
    ):
        clips = ahead((functools.partial(clip, row) for row in range(shapes[0][0])), threads, most=4 * threads)
        for row, features in enumerate(clips):
            visual[row], audio[row] = features
            bar.update()


def _reserve(path: Path, size: int) -> None:
    """Claim `size` bytes for the file `path`, so that a full disk or a quota shows before any work is done."""
    with open(path, "wb") as file:
        file.truncate(size)
        if hasattr(os, "posix_fallocate"):  # not on every system; without it, writing will notice
            os.posix_fallocate(file.fileno(), 0, size)


def _lay_out(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, chunked: bool, attributes: Mapping[str, str]
) -> np.ndarray:
    """Create the file `path` with room for the array; where each row begins in it, [rows] int64 bytes."""
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    early.set_obj_track_times(False)  # the same rows give the same file
    if chunked:
        early.set_chunk((1, *shape[1:]))
    with h5py.File(path, "w", libver="v110") as file:
        space = h5py.h5s.create_simple(shape)
        h5py.h5d.create(file.id, files.KEY.encode(), h5py.h5t.py_create(dtype), space, early)
        array = file[files.KEY]
        array.attrs.update(attributes)
        return row_offsets(array)

"""Writing the files of a data folder, whole or not at all, also when the disk fills up."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from dataset import files
from dataset.arrays import row_offsets
from dataset.prefetch import ahead
from utils.base.atomic import remove_leftovers
from utils.base.errors import UserError
from utils.base.locks import held

_HDF5_OVERHEAD = 2**20  # bytes, beyond the values themselves; generous
# The order in which files are moved to their folder: the visual features last, because a folder without them doesn't
# look whole.
MOVED = (
    *(files.CATEGORIES, files.ANNOTATIONS, *files.ORDERS, files.LABELS, files.CLIP_LABELS),
    *(files.NOISY_LABELS, files.NOISY_AUDIO, files.NOISY_VISUAL, files.AUDIO, files.VISUAL),
)


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Keep every other command from writing into the data folder `root` within the block.

    What killed ones left of files that they were writing is removed. Raises UserError while another run does.
    """
    with held(root / ".lock", f"{root}: another run is writing there; wait until it ends"):
        remove_leftovers(root)
        yield


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
    """A feature file to which rows are appended; a process that goes on after a killed one can do so too.

    Args:
        path: a new file, or the one that the killed process had begun.
        shape: of its array with every row that it may get (see `finish`).
        chunked: each row a chunk; else contiguous, like the authors' files.
        attributes: of the array.
        rows: how many the killed process had written; 0: the file is new.

    Raises OSError where the operating system refuses to write, before any row is, if that can be known then; UserError
    where the begun file breaks off before the end of its rows.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        dtype: str,
        chunked: bool = False,
        attributes: Mapping[str, str] | None = None,
        rows: int = 0,
    ) -> None:
        self.shape, self.dtype, self.rows = shape[1:], np.dtype(dtype), rows
        self._header = path.with_suffix(".header")
        if rows == 0:
            _reserve(path, size_of_file(shape, dtype))
        # HDF5 can crash the process when a disk fills under it: it only says where the rows belong.
        start = _lay_out(self._header if rows else path, shape, self.dtype, chunked, attributes)
        end = start + rows * self.dtype.itemsize * math.prod(self.shape)
        if rows and (not path.exists() or path.stat().st_size < end):
            raise UserError(f"{path}: breaks off before row {rows}, which it had; remove {path.parent} to begin anew")
        self._file = open(path, "rb+")  # noqa: SIM115 - held open until `close`
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
        """End a contiguous file after the rows that it has; a second call changes nothing."""
        start = _lay_out(self._header, (self.rows, *self.shape), self.dtype)
        with open(self._header, "rb") as file:  # takes no room: nothing is written to its rows
            header, size = file.read(start), os.fstat(file.fileno()).st_size
        self._header.unlink()
        self._file.seek(0)
        self._file.write(header)
        self._file.truncate(size)
        self.sync()

    def close(self) -> None:
        """Hand everything to the operating system."""
        self._file.close()


def move_into(folder: Path, root: Path, record: str) -> None:
    """Move `record` and the files of a data folder, those that are there, from `folder` to `root`, each of them whole.

    The visual features come last: `root` looks whole at no time before their move.
    """
    there = [name for name in (record, *MOVED) if (folder / name).exists()]
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
        for visual_row, audio_row in clips:
            visual.append(visual_row)
            audio.append(audio_row)
            bar.update()


def _reserve(path: Path, size: int) -> None:
    """Claim `size` bytes for the file `path`, so that a full disk or a quota shows before any work is done."""
    with open(path, "wb") as file:
        file.truncate(size)
        if hasattr(os, "posix_fallocate"):  # not on every system; without it, writing will notice
            os.posix_fallocate(file.fileno(), 0, size)


def _lay_out(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype,
    chunked: bool = False,
    attributes: Mapping[str, str] | None = None,
) -> int:
    """Create the file `path` with room for the array; where its rows begin, which follow one another, in bytes."""
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
        array.attrs.update(attributes or {})
        return int(row_offsets(array)[0])

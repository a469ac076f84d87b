"""The array in an HDF5 file of a data folder: found, checked once, and known from then on.

Any way of storing the same numbers gives the same array: contiguous or in chunks, compressed, in either byte order, in
any number type that HDF5 converts, under another key, or behind a link into another file.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from dataset import files
from dataset.grids import Size, grid_shape
from dataset.hdf5 import naming_damage, open_file
from utils.base.errors import UserError

BLOCK_BYTES = 64 * 2**20  # what a reader of a whole feature file holds at a time

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ArrayFile:
    """What is known of a file that `array_file` has opened and checked; nothing is held open.

    Attributes:
        path: the file.
        key: where its array is; not the expected key where that is absent and the file holds only one array.
        shape: in which the array is read; of visual features [N, T, H, W, D], however stored (`dataset.grids`).
        dtype: the NumPy type that holds its values exactly.
        values_in: the file that holds the values: `path`, or another one that the key links to.
        offsets: [rows] where each row begins in `values_in`, in bytes, when it lies there in one piece as `dtype`;
            None when HDF5 alone can read it.
        states: what the operating system says of the two files; differs once one of them is changed.
        channels_first: whether the features of a cell are stored before the cells.
    """

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype
    values_in: Path
    offsets: np.ndarray | None
    states: tuple[tuple[int, ...], ...]
    channels_first: bool = False

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """Size of a row as `dtype`, in bytes."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    @contextlib.contextmanager
    def open(self) -> Iterator[h5py.Dataset]:
        """The array, for h5py to read. Raises UserError where it can't be opened any more."""
        with open_file(self.path) as file:
            with naming_damage(self.path):
                array = file[self.key]
            yield array

    def arranged(self, rows: np.ndarray) -> np.ndarray:
        """Rows as they are stored -> as they are read, [n, *shape[1:]]."""
        if self.channels_first:
            rows = np.moveaxis(rows, 2, -1)
        return rows.reshape(len(rows), *self.shape[1:])

    def read(self) -> np.ndarray:
        """The whole array of a small file. Raises UserError for damaged content."""
        with self.open() as array, naming_damage(self.path):
            return self.arranged(array[()])

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """A file of any size in order: (first row, [rows, ...]), at most BLOCK_BYTES but at least a row at a time.

        Raises UserError for damaged content.
        """
        rows = max(1, BLOCK_BYTES // max(1, self.row_bytes))
        with self.open() as array:
            for start in range(0, len(self), rows):
                with naming_damage(self.path):
                    block = array[start : start + rows]
                yield start, self.arranged(block)


_known: dict[tuple[Path, Size | None, bool], ArrayFile] = {}


def array_file(path: str | os.PathLike, grid: Size | None = None, channels_first: bool = False) -> ArrayFile:
    """Open a file of the data folder and check it; a file that hasn't changed since isn't opened again.

    The file's name says which key and how many dimensions to expect.

    Args:
        grid, channels_first: how a visual file is stored (see `dataset.grids`); other files have no grid.

    Raises:
        UserError: names the file and the fix: missing, unreadable, truncated, an HTML page, not HDF5, no array or
            several, wrong number of dimensions, not numbers, compressed by a filter that isn't here.
    """
    wanted = Path(path), grid, channels_first
    known = _known.get(wanted)
    if known is None or states_of(known.path, known.values_in) != known.states:
        known = _known[wanted] = _checked(*wanted)
    return known


def read_order(root: str | os.PathLike, split: str) -> np.ndarray:
    """Rows of a split, [n] int64, in file order; stored as [n], [n, 1] or [1, n] whole numbers, also of a float type.

    Raises UserError when they aren't whole numbers >= 0.
    """
    path = Path(root) / files.order_file(split)
    order = array_file(path).read().reshape(-1)
    if order.dtype == np.float16:
        raise UserError(f"{path}: holds float16 numbers, which leave out most rows above 2048; save it as int64")
    whole = order.dtype.kind in "iuf" and np.array_equal(order, np.trunc(order)) and (order < 2**53).all()
    if order.size and (not whole or order.min() < 0):
        raise UserError(f"{path}: rows must be whole numbers >= 0; {files.HOW_TO_GET_DATA}")
    return order.astype(np.int64)


def rows_of_split(root: str | os.PathLike, split: str, clips: float, counted: str) -> np.ndarray:
    """Rows of a split, as `read_order`; at least one, and none beyond the clips that there are, else a UserError.

    Args:
        clips: how many there are; math.inf where nothing tells.
        counted: in words, by which file, such as "labels.h5 describes".
    """
    path, rows = Path(root) / files.order_file(split), read_order(root, split)
    if not rows.size:
        raise UserError(f"{path}: lists no clip; {files.HOW_TO_GET_DATA}")
    if rows.max() >= clips:
        raise UserError(f"{path}: lists row {rows.max()}, but {counted} {clips} clips; {files.OTHER_DATA}")
    return rows


@functools.cache
def say_once(message: str) -> None:
    """Log a message once in this process: every split of a run opens the same files, and would say the same."""
    _log.info(message)


def _checked(path: Path, grid: Size | None, channels_first: bool) -> ArrayFile:
    with open_file(path) as file, naming_damage(path):
        key, array = _find(file, path)
        _check(array, key, path)
        channels_first = channels_first and path.name in files.VISUALS
        shape = _shape(array.shape, path, grid, channels_first)
        values_in = path if array.file.filename == file.filename else Path(array.file.filename)
        if key != files.key_of(path.name):
            say_once(f"{path}: takes its only array, {key!r}, for {files.key_of(path.name)!r}")
        offsets = None if channels_first else row_offsets(array)
        return ArrayFile(path, key, shape, array.dtype, values_in, offsets, states_of(path, values_in), channels_first)


def _find(file: h5py.File, path: Path) -> tuple[str, h5py.Dataset]:
    """The array of a file and its key: the one that the file's name asks for, or else the only one that it holds."""
    key = files.key_of(path.name)
    array = _get(file, key)
    if isinstance(array, h5py.Dataset):
        return key, array
    link = file.get(key, getlink=True)
    if isinstance(link, h5py.SoftLink | h5py.ExternalLink) and array is None:
        target = f"{getattr(link, 'filename', '')} {link.path}".strip()
        raise UserError(f"{path}: its key {key!r} is a link to {target}, which cannot be opened; mend the link")
    names = [*file]  # links among them, which `visit` passes over
    file.visit(names.append)
    arrays: dict[h5py.Dataset, str] = {}
    for name in names:
        if isinstance(item := _get(file, name), h5py.Dataset):
            arrays.setdefault(item, name)
    if len(arrays) == 1:
        ((array, name),) = arrays.items()
        return name, array
    found = ", ".join(repr(name) for name in (arrays.values() or file)) or "nothing"
    raise UserError(
        f"{path}: has no array under the key {key!r} (it holds {found}); "
        f"it is not the AVE file of that name: {files.HOW_TO_GET_DATA}"
    )


def _get(file: h5py.File, name: str) -> object:
    """The object of a name in the file, links followed; None for a link that leads nowhere."""
    try:
        return file.get(name)
    except OSError:
        return None


def _check(array: h5py.Dataset, key: str, path: Path) -> None:
    """Raise UserError for an array that isn't what the name of its file `path` says, or can't be read as it is."""
    dtype = array.dtype
    if array.shape is None:
        raise UserError(
            f"{path}: its array {key!r} was made without a shape and holds nothing; {files.HOW_TO_GET_DATA}"
        )
    if dtype.kind not in "fiub" or (dtype.kind == "f" and dtype.itemsize > 8):
        raise UserError(
            f"{path}: holds values of type {dtype}, not float16, float32 or float64 numbers; save it as float32"
        )
    # Where a part of such an array is missing, HDF5 reads zeros in its place and says nothing.
    if array.is_virtual or array.external:
        raise UserError(f"{path}: {key!r} is put together from parts of other files; save it as one array")
    layout = array.id.get_create_plist()
    for code, _, _, name in (layout.get_filter(number) for number in range(layout.get_nfilters())):
        if not h5py.h5z.filter_avail(code):
            raise UserError(
                f"{path}: is compressed by filter {code} {name.decode(errors='replace')}, which this HDF5 library "
                f"cannot read; save it uncompressed or with gzip"
            )


def _shape(stored: tuple[int, ...], path: Path, grid: Size | None, channels_first: bool) -> tuple[int, ...]:
    """The shape in which an array is read. Raises UserError for one that isn't what the name of its file says."""
    wanted = files.dimensions(path.name)
    if path.name in files.VISUALS and 3 <= len(stored) <= 5:
        shape = grid_shape(stored, path, grid, channels_first)
        if len(stored) == 4 and grid is None:
            say_once(f"{path}: holds flattened grids of {shape[2] * shape[3]} cells, taken for {shape[2]} x {shape[3]}")
        return shape
    is_list = wanted == ("rows",) and len(stored) == 2 and 1 in stored
    if len(stored) != len(wanted) and not is_list:
        raise UserError(
            f"{path}: has shape {list(stored)}, but {path.name} needs {len(wanted)} dimensions "
            f"({', '.join(wanted)}); it is another file or was saved in another layout"
        )
    return stored


def row_offsets(array: h5py.Dataset) -> np.ndarray | None:
    """Where each row begins in the file that holds the array, [rows] int64 bytes, or None where HDF5 has to read it.

    Rows lie there in one piece in a contiguous array, the authors' layout, and in one of uncompressed chunks of a row
    each (`dataset.convert`), as long as NumPy has the very type in which the numbers are stored.
    """
    rows, layout = array.shape[0], array.id.get_create_plist()
    if array.id.get_type() != h5py.h5t.py_create(array.dtype) or array.file.userblock_size:
        return None
    if array.chunks is None:
        start = array.id.get_offset()
        row_bytes = array.dtype.itemsize * math.prod(array.shape[1:])
        return None if start is None else start + row_bytes * np.arange(rows)
    if layout.get_nfilters() or array.chunks != (1, *array.shape[1:]) or array.id.get_num_chunks() != rows:
        return None
    offsets = np.empty(rows, dtype=np.int64)

    def note(chunk: h5py.h5d.StoreInfo) -> None:
        offsets[chunk.chunk_offset[0]] = chunk.byte_offset

    array.id.chunk_iter(note)
    return offsets


def states_of(*paths: Path) -> tuple[tuple[int, ...], ...]:
    """Inode, size and time of last change of each file, which differ once it was changed; () for a missing file."""

    def state(path: Path) -> tuple[int, ...]:
        try:
            found = path.stat()
        except OSError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns

    return tuple(map(state, paths))


def cast(values: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, str | None]:
    """Values in another type, and what they hold that is not finite in it, in words; None: all are finite."""
    with np.errstate(over="ignore", invalid="ignore"):  # looked for next
        result = values.astype(dtype, copy=False)
    if _is_finite(result):
        return result, None
    return result, f"a value too large for {dtype}" if _is_finite(values) else "NaN or infinity"


def _is_finite(values: np.ndarray) -> bool:
    """Whether no value is NaN or infinite, found several times faster than by np.isfinite."""
    if values.dtype.kind != "f":
        return True
    if values.dtype == np.float16:  # whose numbers NumPy compares slowly: by the bits of the exponent
        return bool((values.view(np.uint16) & 0x7FFF).max(initial=0) < 0x7C00)
    with np.errstate(invalid="ignore"):
        return bool(np.isfinite(values.max(initial=0)) and np.isfinite(values.min(initial=0)))

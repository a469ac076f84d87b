"""The HDF5 contract of an AVE data folder: file names, keys and shapes, and opening a file with care.

| file | key | shape | what |
| --- | --- | --- | --- |
| visual_feature.h5 | avadataset | [N, T, H, W, Dv] | VGG-19 block5_pool, float64, float32 or float16 |
| audio_feature.h5 | avadataset | [N, T, Da] | VGGish embedding |
| labels.h5 | avadataset | [N, T, C+1] | segment labels, one-hot, the last column is background |
| mil_labels.h5 | avadataset | [N, C+1] | clip labels, one-hot |
| {train,val,test}_order.h5 | order | [n] | rows of the split |
| {visual_feature,audio_feature}_noisy.h5 | avadataset | like the above | the background-only clips |
| labels_noisy.h5 | avadataset | [n, C+1] | their clip labels, all background |
| Annotations.txt | | N lines | category&id&quality&start&end, line i describes row i |

N clips, T segments of one second, an H x W grid, C categories. Names, keys and meaning are the authors'.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from utils.base.errors import UserError
from utils.base.text import require_file

KEY = "avadataset"
ORDER_KEY = "order"

VISUAL = "visual_feature.h5"
AUDIO = "audio_feature.h5"
LABELS = "labels.h5"
CLIP_LABELS = "mil_labels.h5"
NOISY_VISUAL = "visual_feature_noisy.h5"
NOISY_AUDIO = "audio_feature_noisy.h5"
NOISY_LABELS = "labels_noisy.h5"
ANNOTATIONS = "Annotations.txt"
GENERATED = "generated.json"  # only in a folder of generated data: says so, and with which settings

FEATURES = (VISUAL, AUDIO, NOISY_VISUAL, NOISY_AUDIO)
SPLITS = ("train", "val", "test")
ORDERS = tuple(f"{split}_order.h5" for split in SPLITS)
WEAK_FILES = (CLIP_LABELS, NOISY_VISUAL, NOISY_AUDIO, NOISY_LABELS)  # what weakly supervised training needs besides
EVERY_FILE = (VISUAL, AUDIO, LABELS, ANNOTATIONS, *ORDERS, *WEAK_FILES)
BLOCK_BYTES = 64 * 2**20  # what a reader of a whole feature file holds at a time

WHY_WEB_PAGE = (
    "not the file itself (Google Drive sends such a page when the file's download quota is used up or it is "
    "not shared any more)"
)
HOW_TO_GET_DATA = (
    "get the AVE files with `python -m dataset.download`, "
    "or try the demo on generated data: `bash supv_train.sh --config configs/demo.json`"
)

_DIMENSIONS = {
    VISUAL: ("clips", "segments", "grid height", "grid width", "visual features"),
    NOISY_VISUAL: ("clips", "segments", "grid height", "grid width", "visual features"),
    AUDIO: ("clips", "segments", "audio features"),
    NOISY_AUDIO: ("clips", "segments", "audio features"),
    LABELS: ("clips", "segments", "categories and background"),
    CLIP_LABELS: ("clips", "categories and background"),
    NOISY_LABELS: ("clips", "categories and background"),
}


def order_file(split: str) -> str:
    """Name of the file that lists the rows of a split. Raises UserError for an unknown split."""
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    return f"{split}_order.h5"


def dimensions(name: str) -> tuple[str, ...]:
    """What each dimension of the data-folder file `name` counts, e.g. ("clips", "segments", ...)."""
    return ("rows",) if name.endswith("_order.h5") else _DIMENSIONS[name]


def key_of(name: str) -> str:
    """The key under which the data-folder file `name` keeps its array."""
    return ORDER_KEY if name.endswith("_order.h5") else KEY


@contextlib.contextmanager
def open_array(path: str | os.PathLike) -> Iterator[h5py.Dataset]:
    """Open a file of the data folder and yield its array, an `h5py.Dataset`.

    The file's name says which key and how many dimensions to expect. Raises UserError that names the
    file and the fix: missing, unreadable, truncated, an HTML page, not HDF5, wrong key, wrong number of
    dimensions, not numbers.
    """
    with _open(path) as file:
        yield checked_array(file, path)


def open_file(path: str | os.PathLike) -> h5py.File:
    """Open a file of the data folder and leave it open, for a reader that keeps it. Errors as `open_array`."""
    file = _open(path)
    try:
        checked_array(file, path)
    except BaseException:
        file.close()
        raise
    return file


def checked_array(file: h5py.File, path: str | os.PathLike) -> h5py.Dataset:
    """The array of an open data-folder file, its key, dimensions and type checked (see `open_array`)."""
    path = Path(path)
    key, wanted = key_of(path.name), dimensions(path.name)
    with _naming_damage(path):
        array = file.get(key)
        if not isinstance(array, h5py.Dataset):
            found = ", ".join(repr(k) for k in file) or "nothing"
            raise UserError(
                f"{path}: has no array under the key {key!r} (it holds {found}); "
                f"it is not the AVE file of that name: {HOW_TO_GET_DATA}"
            )
        shape, dtype = array.shape, array.dtype
    if shape is None:
        raise UserError(f"{path}: its array {key!r} was made without a shape and holds nothing; {HOW_TO_GET_DATA}")
    if len(shape) != len(wanted):
        raise UserError(
            f"{path}: has shape {list(shape)}, but {path.name} needs {len(wanted)} dimensions "
            f"({', '.join(wanted)}); it is another file or was saved in another layout"
        )
    if dtype.kind not in "fiub" or (dtype.kind == "f" and dtype.itemsize > 8):
        raise UserError(
            f"{path}: holds values of type {dtype}, not float16, float32 or float64 numbers; save it as float32"
        )
    return array


def row_offsets(array: h5py.Dataset) -> np.ndarray | None:
    """Where each row's bytes begin in the file, [rows] int64, when every row lies there in one piece as stored.

    That is so in a contiguous array, the authors' layout, and in one of uncompressed chunks of a row each
    (`dataset.convert`). None for any other layout, which HDF5 alone can read.
    """
    rows, plain = array.shape[0], array.id.get_create_plist().get_nfilters() == 0
    if array.chunks is None:
        start = array.id.get_offset()
        row_bytes = array.dtype.itemsize * math.prod(array.shape[1:])
        return None if start is None else start + row_bytes * np.arange(rows)
    if not plain or array.chunks != (1, *array.shape[1:]) or array.id.get_num_chunks() != rows:
        return None
    offsets = np.empty(rows, dtype=np.int64)

    def note(chunk: h5py.h5d.StoreInfo) -> None:
        offsets[chunk.chunk_offset[0]] = chunk.byte_offset

    array.id.chunk_iter(note)
    return offsets


def read_array(path: str | os.PathLike) -> np.ndarray:
    """Read a whole (small) file of the data folder into memory; errors as `open_array`."""
    with open_array(path) as array, _naming_damage(path):
        return array[()]


def native(array: np.ndarray) -> np.ndarray:
    """An array in this machine's byte order, which is the only one that torch takes."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def read_blocks(path: str | os.PathLike) -> Iterator[tuple[int, np.ndarray]]:
    """Read a file of any size in order: (first row, [rows, ...] as stored) of at most BLOCK_BYTES, at least a row.

    Errors as `open_array`.
    """
    with open_array(path) as array:
        row_bytes = max(1, array.dtype.itemsize * math.prod(array.shape[1:]))
        rows = max(1, BLOCK_BYTES // row_bytes)
        for start in range(0, array.shape[0], rows):
            with _naming_damage(path):
                block = array[start : start + rows]
            yield start, block


def read_order(root: str | os.PathLike, split: str) -> np.ndarray:
    """Rows of a split, [n] int64, in file order. Raises UserError when they aren't whole numbers >= 0."""
    path = Path(root) / order_file(split)
    order = read_array(path)
    if order.size and (order.dtype.kind not in "iu" or order.min() < 0):
        raise UserError(f"{path}: rows must be whole numbers >= 0; {HOW_TO_GET_DATA}")
    return order.astype(np.int64)


# What h5py raises, depending on which bytes are wrong.
_DAMAGE = (OSError, RuntimeError, KeyError, TypeError, ValueError)


@contextlib.contextmanager
def _naming_damage(path: str | os.PathLike) -> Iterator[None]:
    """Around calls of h5py: content that it stumbles over becomes a UserError."""
    try:
        yield
    except _DAMAGE as error:
        raise UserError(
            f"{path}: breaks off while being read, its content is damaged; fetch or make the file again"
        ) from error


def _open(path: str | os.PathLike) -> h5py.File:
    path = Path(path)
    require_file(path, advice=HOW_TO_GET_DATA)
    try:
        return h5py.File(path, "r")
    except _DAMAGE as error:
        raise UserError(f"{path}: {_why_unreadable(path, error)}") from error


def is_web_page(head: bytes) -> bool:
    """Whether a file that begins with `head` is an HTML page, saved under another file's name."""
    return head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))


def _why_unreadable(path: Path, error: Exception) -> str:
    """Name what `path`, which HDF5 refused to open, is instead, and the way out."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as reason:
        return f"cannot be read ({reason.strerror}); change its permissions or copy it again"
    if not head:
        return "is empty; fetch or make the file again"
    if is_web_page(head):
        return f"is an HTML page, {WHY_WEB_PAGE}; delete it and download again later, or from a signed-in browser"
    if not head.startswith(b"\x89HDF"):
        return "is not an HDF5 file; fetch or make the file again"
    if "truncated" in str(error):
        return f"is truncated (only {path.stat().st_size:,} bytes are there); its download broke off, download it again"
    return f"is a damaged HDF5 file ({error}); fetch or make the file again"

"""A clip's arrays, from the form of its files to that of a data folder: channels last, of one length, finite."""

from __future__ import annotations

import math

import numpy as np

from dataset.arrays import cast
from dataset.ingest.pickles import Refused

Grid = tuple[int, int]


def visual_of(array: np.ndarray, grid: Grid | None = None) -> np.ndarray:
    """Visual features, channels last: [T, h, w, D], or [T, D] where they have no grid.

    Args:
        array: [T, h, w, D], [T, D, h, w], [T, h * w, D], [T, D, h * w] or [T, D]. Channels are the last dimension
            unless only the other way has the given grid or, without one, a square grid or the larger dimension.
        grid: the h and w that the features have.

    Raises Refused for another shape.
    """
    if array.ndim == 2 and array.size:
        return array
    if array.ndim == 4 and array.size:
        _, a, b, c = array.shape
        first = (b, c) == grid and (a, b) != grid if grid else a > c
        if grid is None or grid in ((a, b), (b, c)):
            return array.transpose(0, 2, 3, 1) if first else array
    if array.ndim == 3 and array.size:
        _, a, b = array.shape
        sizes = {cells: _grid_of(cells, grid) for cells in (a, b)}
        first = sizes[a] is None or (sizes[b] is not None and a > b)
        if size := sizes[b] if first else sizes[a]:
            cells_first = array.transpose(0, 2, 1) if first else array
            return cells_first.reshape(len(array), *size, -1)
    wanted = "a grid of {} x {}".format(*grid) if grid else "a square grid (--grid H W names another)"
    raise Refused(
        f"has visual features of shape {list(array.shape)}; taken are [T, h, w, D], [T, D, h, w], [T, h*w, D] of "
        f"{wanted} and [T, D]"
    )


def _grid_of(cells: int, grid: Grid | None) -> Grid | None:
    """Height and width of a grid of so many cells: `grid`, or a square; None where that has another number of cells."""
    if grid is not None:
        return grid if math.prod(grid) == cells else None
    side = math.isqrt(cells)
    return (side, side) if side * side == cells else None


def audio_of(array: np.ndarray) -> np.ndarray:
    """Audio features [T, D]. Raises Refused for another shape."""
    if array.ndim != 2 or not array.size:
        raise Refused(f"has audio features of shape {list(array.shape)}; taken are [T, D]")
    return array


def fitted(audio: np.ndarray, segments: int) -> np.ndarray:
    """Audio of `segments` segments: the last one repeated, or cut."""
    return np.concatenate([audio, np.repeat(audio[-1:], max(0, segments - len(audio)), axis=0)])[:segments]


def stored(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Features in the type in which they are stored. Raises Refused for a value that is not finite in it."""
    values, fault = cast(array, dtype)
    if fault is not None:
        raise Refused(f"holds {fault}; make it again, or remove it to leave its clip out")
    return np.ascontiguousarray(values)


def labels_of(array: np.ndarray, segments: int, categories: int) -> np.ndarray:
    """Stored labels as [T, C] bool or, where they don't tell the category, [T] bool; background is all false.

    Args:
        array: [T] or [1, T] of 0 and 1; or one-hot [T, C], or [T, C + 1] with a last column for background.

    Raises Refused for another shape or other values.
    """
    if not np.isin(array, (0, 1)).all():
        raise Refused("has labels other than 0 and 1; make it again")
    if array.shape in ((segments,), (1, segments)):
        return array.reshape(-1).astype(bool)
    if array.shape in ((segments, categories), (segments, categories + 1)):
        return array[:, :categories].astype(bool)
    raise Refused(
        f"has labels of shape {list(array.shape)}; taken are [{segments}], [1, {segments}], [{segments}, {categories}] "
        f"and, with background, [{segments}, {categories + 1}]"
    )

"""The grid of visual features: [N, T, H, W, D] is what is read, whatever a file keeps.

| stored | read as |
| --- | --- |
| [N, T, H, W, D] | it is |
| [N, T, D], features without a grid (CLIP, ImageBind) | a grid of 1 x 1: the same numbers |
| [N, T, K, D], flattened grids | a square grid where K is a square and not above D, which is said; else refused |
| the channels before the grid, [N, T, D, H, W] or [N, T, D, K] | only where somebody says so (`dataset.convert`) |

Numbers alone can't tell a grid of 512 x 7 cells with 7 features from one of 7 x 7 with 512, so the order of dimensions
is never guessed; and `dataset.convert` changes it once, because a training would do so anew in each epoch.
"""

from __future__ import annotations

import math
from pathlib import Path

from utils.base.errors import UserError

Size = tuple[int, int]  # H and W


def grid_shape(
    stored: tuple[int, ...], path: Path, grid: Size | None = None, channels_first: bool = False
) -> tuple[int, ...]:
    """The shape [N, T, H, W, D] in which an array of the shape `stored`, of 3 to 5 dimensions, is read.

    Args:
        path: of the file, named in errors.
        grid: of the cells of flattened grids, row by row; None: they are square.
        channels_first: D stands before the cells.

    Raises UserError where that can't be.
    """
    clips, segments, *rest = stored
    if channels_first and (len(rest) == 1 or (len(rest) == 3 and rest[0] < rest[-1])):
        raise UserError(
            f"{path}: has shape {list(stored)}, whose channels come last already; leave out --channels-first"
        )
    *cells, channels = [*rest[1:], rest[0]] if channels_first else rest
    if len(cells) == 1:
        side = math.isqrt(cells[0])
        known = grid or ((side, side) if channels_first or cells[0] <= channels else None)
        if known is None or math.prod(known) != cells[0]:
            raise UserError(
                f"{path}: has shape {list(stored)}, but needs 5 dimensions (clips, segments a clip, grid rows, grid "
                f"columns, visual features), or 3 without a grid; if it holds flattened grids, `python -m "
                f"dataset.convert --grid H W` writes them as such, with --channels-first where the features of a "
                f"cell come before the cells"
            )
        cells = list(known)
    elif grid is not None:
        raise UserError(f"{path}: has shape {list(stored)}, no flattened grids; leave out --grid")
    return clips, segments, *(cells or (1, 1)), channels


def channels_seem_first(shape: tuple[int, ...]) -> bool:
    """Whether [N, T, H, W, D] has more rows of cells than features of a cell, which no network's features have."""
    return shape[2] > shape[4]

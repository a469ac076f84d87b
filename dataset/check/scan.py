"""Reading a feature file from end to end, for values that aren't finite and clips that were never filled."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from dataset.arrays import array_file

# A black or silent clip may have features of zero; so many in succession are a file that was never filled, such
# as one whose download was interrupted after its space had been allocated.
ZERO_CLIPS = 10


class Scan(NamedTuple):
    """What was found in the values of a feature file.

    problems: a line each: values that aren't finite, or clips that were never filled. least, most: over all values.
    whole: whether all are whole numbers.
    """

    problems: list[str]
    least: float = 0.0
    most: float = 0.0
    whole: bool = False


def scan(path: str | os.PathLike) -> Scan:
    """Read a feature file from end to end, in bounded memory, with progress. Raises UserError as `array_file`."""
    not_finite, zero = [], []
    least, most, whole = np.inf, -np.inf, True
    file = array_file(path)
    with tqdm(
        total=len(file) * file.row_bytes, desc=f"scanning {path}", unit="B", unit_scale=True, disable=None
    ) as progress:
        for start, block in file.blocks():
            by_clip = block.reshape(len(block), -1)
            not_finite += (start + np.flatnonzero(~np.isfinite(by_clip).all(axis=1))).tolist()
            zero += (start + np.flatnonzero(~by_clip.any(axis=1))).tolist()
            least, most = min(least, float(block.min())), max(most, float(block.max()))
            whole = whole and bool((block == np.rint(block)).all())
            progress.update(block.nbytes)
    found = []
    if not_finite:
        found.append(
            f"{path}: {len(not_finite)} of {len(file)} clips hold NaN or infinity (first in row {not_finite[0]}); "
            f"the file is damaged or was saved in a type too small for its values: fetch or convert it again"
        )
    unfilled = max(np.split(zero, 1 + np.flatnonzero(np.diff(zero) > 1)), key=len)
    if len(unfilled) >= ZERO_CLIPS:
        found.append(
            f"{path}: rows {unfilled[0]:.0f} to {unfilled[-1]:.0f} are nothing but zeros, they were never filled; "
            f"fetch or make it again"
        )
    return Scan(found, least, most, whole)

"""Smaller feature files that load faster: `python -m dataset.convert --to data32 [--data_root data] [--dtype float32]`.

AVE's features are stored in float64; float32 takes half the space and time to read, float16 a quarter.
The new folder is a whole data folder: features in chunks of a clip each, the other files as they are.
"""

from __future__ import annotations

import filecmp
import json
import math
import os
import sys
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from tqdm import tqdm

from dataset import files
from dataset.arrays import ArrayFile, array_file, row_offsets
from utils.base.atomic import atomic_path, make_folder, require_free_space
from utils.base.errors import UserError, command
from utils.base.flags import Parser
from utils.base.paths import project_path

DTYPES = ("float32", "float16")
_HDF5_OVERHEAD = 2**20  # bytes, beyond the values themselves; generous

# Attribute of a converted array: what it was made from, so that a second run knows its own work.
_SOURCE = "converted_from"


class Rounding(NamedTuple):
    """What a conversion did to the values: the largest |error| and the largest |value|, both as stored before."""

    largest_error: float
    largest_value: float

    def __str__(self) -> str:
        if self.largest_error == 0:
            return "bit-exact"
        return f"largest rounding error {self.largest_error:.2g} (largest value {self.largest_value:.3g})"


def convert(source: str | os.PathLike, destination: str | os.PathLike, dtype: str) -> Rounding:
    """Write the feature file `source` again at `destination`, in another type and in chunks of a clip.

    Memory stays bounded, and until the new file is whole nothing stands at `destination`.

    Raises:
        UserError: the source can't be read, holds a value that isn't finite or is too large for `dtype`;
            the destination can't be written, a full disk included.
    """
    source, destination = Path(source), Path(destination)
    file = array_file(source)
    largest_error = largest_value = 0.0
    with atomic_path(destination) as part:
        _reserve(part, _converted_bytes(file, dtype))
        offsets = _lay_out(part, file.shape, dtype, _fingerprint(source))
        # HDF5 crashes the process, at its end, when a disk fills under it; so it only says where a clip's
        # values belong, and they are written there without it.
        with (
            open(part, "rb+") as target,
            tqdm(total=len(file), desc=f"converting {source}", unit="clip", disable=None) as progress,
        ):
            for start, block in file.blocks():
                converted = _converted(block, dtype, source, start)
                error = np.abs(converted.astype(block.dtype) - block).max(initial=0)
                largest_error = max(largest_error, float(error))
                largest_value = max(largest_value, float(np.abs(block).max(initial=0)))
                for offset, clip in zip(offsets[start : start + len(block)], converted, strict=True):
                    target.seek(offset)
                    target.write(clip.tobytes())
                progress.update(len(block))
    return Rounding(largest_error, largest_value)


def _converted(block: np.ndarray, dtype: str, source: Path, first_row: int) -> np.ndarray:
    with np.errstate(over="ignore"):  # looked for below
        converted = block.astype(dtype)
    for bad, what, fix in (
        (~np.isfinite(block), "holds NaN or infinity", "the file is damaged: fetch or make it again"),
        (~np.isfinite(converted), f"holds a value too large for {dtype}", "convert to float32"),
    ):
        rows = bad.reshape(len(bad), -1).any(axis=1)
        if rows.any():
            raise UserError(f"{source}: row {first_row + int(rows.argmax())} {what}; {fix}")
    return converted


def _reserve(part: Path, size: int) -> None:
    """Claim `size` bytes for the file `part`, so that a full disk or a quota shows before any work is done."""
    with open(part, "wb") as file:
        file.truncate(size)
        if hasattr(os, "posix_fallocate"):  # not on every system; without it, writing will notice
            os.posix_fallocate(file.fileno(), 0, size)


def _lay_out(part: Path, shape: tuple[int, ...], dtype: str, fingerprint: str) -> np.ndarray:
    """Create the file `part` with room for the array, in chunks of a clip; the offset of each clip, [clips] int64."""
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_chunk((1, *shape[1:]))
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(part, "w", libver="v110") as file:
        h5py.h5d.create(
            file.id,
            files.KEY.encode(),
            h5py.h5t.py_create(np.dtype(dtype)),
            h5py.h5s.create_simple(shape),
            early,
        )
        array = file[files.KEY]
        array.attrs[_SOURCE] = fingerprint
        return row_offsets(array)


def _fingerprint(source: Path) -> str:
    stat = source.stat()
    return json.dumps({"bytes": stat.st_size, "modified": stat.st_mtime_ns})


def _is_converted(source: Path, destination: Path, dtype: str) -> bool:
    """Whether `destination` is the finished conversion of `source`; UserError when it is something else."""
    if not os.path.lexists(destination):
        return False
    with array_file(destination).open() as array:
        if array.dtype == dtype and array.attrs.get(_SOURCE) == _fingerprint(source):
            return True
    raise UserError(
        f"{destination}: is already there and isn't {source} in {dtype}; remove it, or choose another folder with --to"
    )


def _copy(source: Path, destination: Path) -> None:
    """Copy a small file; UserError when another file of that name is in the way."""
    if destination.exists():
        if not filecmp.cmp(source, destination, shallow=False):
            raise UserError(
                f"{destination}: is already there and differs from {source}; "
                f"remove it, or choose another folder with --to"
            )
        return
    try:
        content = source.read_bytes()
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror}); change its permissions") from error
    with atomic_path(destination) as part:
        part.write_bytes(content)


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m dataset.convert", description="Make a smaller data folder that loads faster.")
    parser.add_argument(
        "--data_root", "--root", dest="root", type=Path, default=project_path("data"), metavar="DIR",
        help="the data folder (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--to", type=Path, required=True, help="the new data folder")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the features (default: %(default)s)")
    args = parser.parse_args(argv)

    features = [name for name in files.FEATURES if os.path.lexists(args.root / name)]
    if not features:
        raise UserError(f"{args.root}: holds no feature file such as {files.VISUAL}; {files.HOW_TO_GET_DATA}")
    make_folder(args.to)
    if args.to.samefile(args.root):
        raise UserError(f"{args.to}: is the data folder itself; name another folder with --to")
    waiting = [name for name in features if not _is_converted(args.root / name, args.to / name, args.dtype)]
    sizes = {name: _converted_bytes(array_file(args.root / name), args.dtype) for name in waiting}
    require_free_space(args.to, sum(sizes.values()))

    for name in (*files.EVERY_FILE, files.GENERATED):
        source, destination = args.root / name, args.to / name
        if name in waiting:
            rounding = convert(source, destination, args.dtype)
            before, after = source.stat().st_size / 1e9, destination.stat().st_size / 1e9
            print(f"{destination}: {args.dtype}, {after:.2f} GB instead of {before:.2f} GB, {rounding}")
        elif name in features:
            print(f"{destination}: already converted")
        elif os.path.lexists(source):
            _copy(source, destination)
    print(f"Train on it with --data_root {args.to}")


def _converted_bytes(file: ArrayFile, dtype: str) -> int:
    return np.dtype(dtype).itemsize * math.prod(file.shape) + _HDF5_OVERHEAD


if __name__ == "__main__":
    sys.exit(main())

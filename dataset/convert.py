"""Smaller feature files that load faster: `python -m dataset.convert --to data32 [--data_root data] [--dtype float32]`.

AVE's features are stored in float64; float32 takes half the space and time to read, float16 a quarter.
The new folder is a whole data folder: features in chunks of a clip each, the other files as they are. Visual features
become [clips, segments, height, width, features]: --channels-first and --grid say how they are stored where these
dimensions come in another order, or height and width as one.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from dataset import files
from dataset.arrays import ArrayFile, array_file, cast, states_of
from dataset.grids import Size
from dataset.writing import RowWriter, alone, bytes_of_file, size_of_file
from utils.base.atomic import atomic_path, make_folder, require_free_space, require_no_obstacle
from utils.base.errors import UserError, command
from utils.base.flags import Parser
from utils.base.output import log_to_terminal
from utils.base.text import reading, require_file

DTYPES = ("float32", "float16")
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


def convert(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    dtype: str,
    grid: Size | None = None,
    channels_first: bool = False,
) -> Rounding:
    """Write the feature file `source` again at `destination`, in another type and in chunks of a clip.

    Memory stays bounded, and until the new file is whole nothing stands at `destination`. `grid` and `channels_first`
    say how a visual file is stored, as for `array_file`.

    Raises:
        UserError: the source can't be read, holds a value that isn't finite or is too large for `dtype`;
            the destination can't be written, a full disk included.
    """
    source, destination = Path(source), Path(destination)
    file = array_file(source, grid, channels_first)
    largest_error = largest_value = 0.0
    with atomic_path(destination) as part:
        with (
            contextlib.closing(
                RowWriter(part, file.shape, dtype, chunked=True, attributes={_SOURCE: _made_from(file)})
            ) as target,
            tqdm(total=len(file), desc=f"converting {source}", unit="clip", disable=None) as progress,
        ):
            for start, block in file.blocks():
                converted = _converted(block, dtype, source, start)
                error = np.abs(converted.astype(block.dtype) - block).max(initial=0)
                largest_error = max(largest_error, float(error))
                largest_value = max(largest_value, float(np.abs(block).max(initial=0)))
                for clip in converted:
                    target.append(clip)
                progress.update(len(block))
        if states_of(file.path, file.values_in) != file.states:
            raise UserError(f"{source}: was changed while it was converted; run this again")
    return Rounding(largest_error, largest_value)


def _converted(block: np.ndarray, dtype: str, source: Path, first_row: int) -> np.ndarray:
    converted, fault = cast(block, dtype)
    if fault is not None:
        row, fault = next((row, fault) for row, clip in enumerate(block, first_row) if (fault := cast(clip, dtype)[1]))
        fix = "the file is damaged: fetch or make it again" if "NaN" in fault else "convert to float32"
        raise UserError(f"{source}: row {row} holds {fault}; {fix}")
    return converted


def _made_from(file: ArrayFile) -> str:
    """Size and time of last change of a feature file, and of the file that it links to, as JSON."""
    states = [path.stat() for path in dict.fromkeys((file.path, file.values_in))]
    return json.dumps([{"bytes": state.st_size, "modified": state.st_mtime_ns} for state in states])


def _is_converted(source: ArrayFile, destination: Path, dtype: str) -> bool:
    """Whether `destination` is the finished conversion of `source`; UserError when it is something else."""
    if not os.path.lexists(destination):
        return False
    with array_file(destination).open() as array:
        if (array.dtype, array.shape, array.attrs.get(_SOURCE)) == (dtype, source.shape, _made_from(source)):
            return True
    raise UserError(
        f"{destination}: is already there and isn't {source.path} in {dtype}; remove it, or choose another folder with "
        f"--to"
    )


def _copy(source: Path, destination: Path) -> None:
    """Copy a small file; UserError when another file of that name is in the way."""
    require_file(source)
    with reading(source):
        content = source.read_bytes()
    if source.suffix == ".h5" and (file := array_file(source)).values_in != source:
        content = bytes_of_file(source.name, file.read())  # a link may lead nowhere from another folder
    require_no_obstacle(destination)
    if destination.exists():
        with reading(destination):
            same = destination.read_bytes() == content
        if not same:
            raise UserError(
                f"{destination}: is already there and differs from {source}; "
                f"remove it, or choose another folder with --to"
            )
        return
    with atomic_path(destination) as part:
        part.write_bytes(content)


def _convert_folder(
    root: Path, to: Path, dtype: str, features: list[str], grid: Size | None, channels_first: bool
) -> None:
    """Convert the feature files named, copy the other files, and say so for each."""
    names = (*files.EVERY_FILE, files.MADE_WITH, files.GENERATED)
    for name in names:
        if os.path.lexists(to / name) and not os.path.lexists(root / name):
            raise UserError(f"{to / name}: is there already, but not in {root}; remove it, or choose another folder")
    sources = {name: array_file(root / name, grid, channels_first) for name in features}
    waiting = [name for name, source in sources.items() if not _is_converted(source, to / name, dtype)]
    require_free_space(to, sum(size_of_file(sources[name].shape, dtype) for name in waiting))

    for name in names:
        source, destination = root / name, to / name
        if name in waiting:
            rounding = convert(source, destination, dtype, grid, channels_first)
            before, after = source.stat().st_size / 1e9, destination.stat().st_size / 1e9
            print(f"{destination}: {dtype}, {after:.2f} GB instead of {before:.2f} GB, {rounding}")
        elif name in features:
            print(f"{destination}: already converted")
        elif os.path.lexists(source):
            _copy(source, destination)
    needed = (name for name in files.EVERY_FILE if name != files.CATEGORIES)
    absent = [name for name in needed if not os.path.lexists(root / name)]
    if absent:
        print(f"not in {root}, and so not in {to} either: {', '.join(absent)}")


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m dataset.convert", description="Make a smaller data folder that loads faster.")
    parser.add_data_root("root")
    parser.add_argument("--to", type=Path, required=True, help="the new data folder")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the features (default: %(default)s)")
    parser.add_argument(
        "--channels-first",
        action="store_true",
        help="visual features are stored with the features of a cell first",
    )
    parser.add_argument(
        "--grid", type=int, nargs=2, metavar=("H", "W"),
        help="visual features are stored with flattened grids, row by row, of this height and width",
    )  # fmt: skip
    args = parser.parse_args(argv)
    log_to_terminal(sys.stderr)

    files.require_folder(args.root)
    features = [name for name in files.FEATURES if os.path.lexists(args.root / name)]
    if not features:
        raise UserError(f"{args.root}: holds no feature file such as {files.VISUAL}; {files.HOW_TO_GET_DATA}")
    make_folder(args.to)
    if args.to.samefile(args.root):
        raise UserError(f"{args.to}: is the data folder itself; name another folder with --to")
    with alone(args.to):
        _convert_folder(args.root, args.to, args.dtype, features, args.grid and tuple(args.grid), args.channels_first)
    print(f"Train on it with --data_root {args.to}")


if __name__ == "__main__":
    sys.exit(main())

"""Whether a data folder can be trained on: `python -m dataset.check [--root data] [--weak]`.

`require_trainable` runs the cheap checks of `dataset.folder` when a training starts; the command shows
them as a table, a row a file, and also reads the feature files from end to end for values that aren't
finite.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset import files
from dataset.folder import WEAK_FILES, FileReport, check_folder
from utils.errors import UserError, command
from utils.flags import Parser

# A black or silent clip may have features of zero; so many in succession are a file that was never filled, such
# as one whose download was interrupted after its space had been allocated.
ZERO_CLIPS = 10


def require_trainable(root: str | os.PathLike, weak: bool, splits: tuple[str, ...] = files.SPLITS) -> None:
    """Raise UserError with the first thing that keeps a training on the folder `root` from starting.

    No feature is read, so this takes a fraction of a second on AVE.

    Args:
        weak: whether the weakly supervised setting is wanted, which needs the weak files too.
        splits: the splits that the run will use.
    """
    found = problems(check_folder(root, splits), weak)
    if found:
        raise UserError(found[0])


def problems(reports: dict[str, FileReport], weak: bool) -> list[str]:
    """The problems that matter for one setting, in the order of the files."""
    return [line for name, report in reports.items() if weak or name not in WEAK_FILES for line in report.problems]


def scan(path: str | os.PathLike) -> list[str]:
    """Read a feature file from end to end, in bounded memory, with progress: what is wrong with its values.

    Returns problems (one line each): values that aren't finite, or clips that were never filled. Raises
    UserError as `files.open_array`.
    """
    not_finite, zero = [], []
    with files.open_array(path) as array:
        clips, size = array.shape[0], array.size * array.dtype.itemsize
    with tqdm(total=size, desc=f"scanning {path}", unit="B", unit_scale=True, disable=None) as progress:
        for start, block in files.read_blocks(path):
            by_clip = block.reshape(len(block), -1)
            not_finite += (start + np.flatnonzero(~np.isfinite(by_clip).all(axis=1))).tolist()
            zero += (start + np.flatnonzero(~by_clip.any(axis=1))).tolist()
            progress.update(block.nbytes)
    found = []
    if not_finite:
        found.append(
            f"{path}: {len(not_finite)} of {clips} clips hold NaN or infinity (first in row {not_finite[0]}); "
            f"the file is damaged or was saved in a type too small for its values: fetch or convert it again"
        )
    unfilled = max(np.split(zero, 1 + np.flatnonzero(np.diff(zero) > 1)), key=len)
    if len(unfilled) >= ZERO_CLIPS:
        found.append(
            f"{path}: rows {unfilled[0]:.0f} to {unfilled[-1]:.0f} are nothing but zeros, they were never filled; "
            f"fetch or make it again"
        )
    return found


def _table(reports: dict[str, FileReport]) -> Iterator[str]:
    rows = [("file", "present", "key", "shape", "type", "finite", "belongs")]
    for name, report in reports.items():
        opened = report.shape is not None
        rows.append(
            (
                name,
                "yes" if report.present else "no",
                files.key_of(name) if opened and name.endswith(".h5") else "-",
                " x ".join(map(str, report.shape)) if opened else "-",
                report.dtype if opened else "-",
                "-" if report.finite is None else "yes" if report.finite else "NO",
                "-" if not report.present else "NO" if report.problems else "yes",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m dataset.check", description="Can this data folder be trained on?")
    parser.add_argument("--root", type=Path, default=Path("data"), help="the data folder (default: %(default)s)")
    parser.add_argument(
        "--weak", action="store_true", help="can weakly supervised training start? (default: supervised)"
    )
    args = parser.parse_args(argv)

    reports = check_folder(args.root)
    for name in files.FEATURES:
        report = reports[name]
        if report.shape is not None:
            try:
                found = scan(args.root / name)
            except UserError as error:  # damaged inside, where opening it didn't look
                found = [str(error)]
            report.finite = not found
            report.problems += found
    print(*_table(reports), sep="\n")
    for_supervised, for_weak = problems(reports, weak=False), problems(reports, weak=True)
    _print_list("Problems", for_supervised)
    _print_list("Problems for weakly supervised training alone", [p for p in for_weak if p not in for_supervised])
    _print_list("Worth knowing", [note for report in reports.values() for note in report.notes])
    print(f"\nSupervised training: {_verdict(for_supervised)}\nWeakly supervised training: {_verdict(for_weak)}")
    if found := for_weak if args.weak else for_supervised:
        others = f" (and {len(found) - 1} more, see the list)" if len(found) > 1 else ""
        raise UserError(f"{found[0]}{others}")


def _print_list(title: str, lines: list[str]) -> None:
    if lines:
        print(f"\n{title}:", *(f"- {line}" for line in lines), sep="\n")


def _verdict(found: list[str]) -> str:
    return f"cannot start, {len(found)} to mend" if found else "can start"


if __name__ == "__main__":
    sys.exit(main())

"""What each file of a data folder is, and whether the files belong together.

Do the row counts agree, is every row of a split in range, are the splits disjoint, are the labels one-hot,
and do they say what `Annotations.txt` says? Sizes (clips, segments, grid, categories) are read from the
files, so that other data sets in this format are held to the same rules. No feature is read.
"""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path

import numpy as np

from dataset import files, labels
from dataset.arrays import array_file, read_order, rows_of_split
from dataset.check.file_report import FileReport
from dataset.check.label_files import check_labels
from dataset.grids import channels_seem_first
from dataset.official import fewer_clips
from utils.base.errors import UserError

TRAINED_WITH = ("train", "test")  # val, which only chooses an epoch, may be absent


def check_folder(root: str | os.PathLike, splits: tuple[str, ...] = TRAINED_WITH) -> dict[str, FileReport]:
    """Open every file of a data folder and compare it with the others: file name -> FileReport.

    A split's order file may only be absent when the split isn't one of `splits`. Raises UserError when
    there is no such folder; what is wrong with a file stands in its report.
    """
    root = Path(root)
    files.require_folder(root)
    return _Folder(root, splits).reports


class _Folder:
    """The checks of a data folder, run in `__init__`: `reports` is the outcome, the checks share the rest."""

    def __init__(self, root: Path, splits: tuple[str, ...]) -> None:
        self.root = root
        present = {name: os.path.lexists(root / name) for name in files.EVERY_FILE}
        self.reports = {
            name: FileReport(root / name, there) for name, there in present.items() if there or name != files.CATEGORIES
        }
        self.wanted_orders = [files.order_file(split) for split in splits]
        self.annotations = self._read_texts()
        self.arrays: dict[str, np.ndarray] = {}
        for name, report in self.reports.items():
            if name not in files.TEXTS and (report.present or self._is_needed(name)):
                with report.noting_errors():
                    self._read_array(name, report)
        self.sizes = self._agreed_sizes()
        annotations = None if self.annotations is None else root / files.ANNOTATIONS
        check_labels(self.reports, self.arrays, annotations, self.sizes.get("segments a clip", (None,))[0])
        self._check_splits()

    # Reading

    def _read_texts(self) -> list[labels.Annotation] | None:
        """The annotations; None where no file that can be used has them, and the categories' numbers with them."""
        annotated, listed = self.reports[files.ANNOTATIONS], self.reports.get(files.CATEGORIES)
        annotations = names = None
        if annotated.present:
            with annotated.noting_errors():
                annotations = labels.read_annotations(annotated.path)
                annotated.shape, annotated.dtype = (len(annotations),), "text"
        elif self.reports[files.LABELS].present:
            annotated.note(
                "not there, so categories and clips have no names; `python -m dataset.download` fetches AVE's"
            )
        names_them = listed or annotated
        with names_them.noting_errors():
            if annotations is not None:
                names = labels.categories_by_index(annotated.path, annotations)
            elif listed is not None:
                names = labels.read_categories(listed.path)
        if names is None:
            return None
        if annotations is not None:
            annotated.sizes["clips"] = len(annotations)
        names_them.sizes["label columns"] = len(names) + 1
        if listed is not None:
            listed.shape, listed.dtype = (len(names),), "text"
        return annotations

    def _read_array(self, name: str, report: FileReport) -> None:
        """Note what a file's array is, and keep small ones. Raises UserError where it can't be used."""
        array = array_file(report.path)
        if array.key != files.key_of(name):
            report.note(f"its only array {array.key!r} is taken for {files.key_of(name)!r}")
        if name not in files.ORDERS and 0 in array.shape:
            raise UserError(f"{report.path}: is empty (shape {list(array.shape)}); fetch or make the file again")
        if name not in files.FEATURES:
            is_order = name in files.ORDERS
            values = read_order(self.root, files.SPLITS[files.ORDERS.index(name)]) if is_order else array.read()
            report.finite = bool(np.isfinite(values).all())
            self.arrays[name] = values
        report.key, report.shape, report.dtype = array.key, array.shape, str(array.dtype)
        if name not in files.ORDERS:
            report.sizes = dict(zip(files.dimensions(name), array.shape, strict=True))
        if name in files.VISUALS and channels_seem_first(array.shape):
            rows, columns, features = array.shape[2:]
            report.note(
                f"has a grid of {rows} x {columns} cells with {features} features; if these are {rows} features of "
                f"{columns} x {features} cells, `python -m dataset.convert --channels-first` puts them in order",
            )

    def _is_needed(self, name: str) -> bool:
        """Whether the absence of the array file `name` is a problem."""
        if name in (files.LABELS, files.CLIP_LABELS) and self.reports[files.ANNOTATIONS].present:
            self.reports[name].note(f"not there, so its labels follow from {files.ANNOTATIONS}")
            return False
        if name in files.BACKGROUND_ONLY:
            self.reports[name].problem(files.NO_BACKGROUND_ONLY)
            return False
        if name == files.order_file("val"):
            self.reports[name].note("not there, so there is no validation protocol")
        return name not in files.ORDERS or name in self.wanted_orders

    # Checking

    def _agreed_sizes(self) -> dict[str, tuple[int, str]]:
        """What the files count ("clips", ...), and the first that says so; files that contradict it have a problem."""
        first: dict[str, tuple[int, str]] = {}
        for name, report in self.reports.items():
            for what, count in report.sizes.items():
                agreed, other = first.setdefault(what, (count, name))
                if count != agreed:
                    report.problem(f"has {count} {what}, but {other} has {agreed}; {files.OTHER_DATA}")
        segments, name = first.get("segments a clip", (labels.MINIMUM_SEGMENTS, ""))
        if segments < labels.MINIMUM_SEGMENTS:
            self.reports[name].problem(
                f"has {segments} segments a clip, but training needs at least {labels.MINIMUM_SEGMENTS}; "
                f"cut longer clips",
            )
        return first

    def _check_splits(self) -> None:
        orders = {name: self.arrays[name] for name in files.ORDERS if name in self.arrays}
        clips, counting = self.sizes.get("clips", (math.inf, ""))
        for split, name in zip(files.SPLITS, files.ORDERS, strict=True):
            if name in orders:
                with self.reports[name].noting_errors():
                    rows_of_split(self.root, split, clips, f"{counting} has only")
                self._check_no_row_twice(self.reports[name], orders[name])
        for (other, others), (name, rows) in itertools.combinations(orders.items(), 2):
            shared = np.intersect1d(rows, others)
            if shared.size:
                self.reports[name].problem(
                    f"shares {shared.size} clips with {other} (row {shared[0]}), but splits must be disjoint; "
                    f"take both files from one data set",
                )
        if self.annotations is not None:
            for split in files.SPLITS:
                if files.order_file(split) in orders and (fewer := fewer_clips(self.root, [split])):
                    self.reports[files.order_file(split)].notes.append(fewer)

    def _check_no_row_twice(self, report: FileReport, rows: np.ndarray) -> None:
        values, counts = np.unique(rows, return_counts=True)
        if (counts > 1).any():
            repeated = values[counts > 1]
            report.problem(f"lists {repeated.size} rows more than once (row {repeated[0]}); list each clip once")


def require_trainable(
    root: str | os.PathLike, label_regime: str | None, splits: tuple[str, ...] = TRAINED_WITH
) -> None:
    """Raise UserError with the first thing that keeps a training on the folder `root` from starting.

    No feature is read, so this takes a fraction of a second on AVE.

    Args:
        label_regime: of weakly supervised training, which needs more files (see `dataset.files.LABEL_REGIMES`); None:
            the run is supervised, or only evaluates.
        splits: the splits that must be there.
    """
    reports = check_folder(root, splits)
    found = problems(reports, label_regime)
    if found:
        raise UserError(found[0])


def problems(reports: dict[str, FileReport], label_regime: str | None) -> list[str]:
    """The problems that matter for a run (see `require_trainable`), in the order of the files."""
    read = files.read_with(label_regime)
    return [line for name, report in reports.items() if name in read for line in report.problems]

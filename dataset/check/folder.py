"""What each file of a data folder is, and whether the files belong together.

Do the row counts agree, is every row of a split in range, are the splits disjoint, are the labels one-hot,
and do they say what `Annotations.txt` says? Sizes (clips, segments, grid, categories) are read from the
files, so that other data sets in this format are held to the same rules. No feature is read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dataset import files, labels
from dataset.arrays import array_file, read_order
from dataset.grids import channels_seem_first
from dataset.official import fewer_clips
from utils.base.errors import UserError

# The published labels.h5 differs from Annotations.txt in a few clips that carry two events; labels of
# another data set, or rows in another order, differ nearly everywhere.
DISAGREEMENT = 0.05


# A segment with two categories at once isn't one-hot, but doesn't keep a training from starting.
NOT_ONE_HOT = 0.01


TRAINED_WITH = ("train", "test")  # val, which only chooses an epoch, may be absent


OTHER_DATA = "the files belong to different data sets; put the files of one data set together"


@dataclass
class FileReport:
    """What is known of one file of a data folder.

    `key`, `shape` and `dtype` are None where the file can't be used, `finite` is None until its values were read
    (looking at a folder reads the small files only). A problem keeps a training from starting, a note
    doesn't; each is one line with the fix in it.
    """

    present: bool
    key: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    finite: bool | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_folder(root: str | os.PathLike, splits: tuple[str, ...] = TRAINED_WITH) -> dict[str, FileReport]:
    """Open every file of a data folder and hold it against the others: file name -> FileReport.

    A split's order file may only be absent when the split isn't one of `splits`. Raises UserError when
    there is no such folder; what is wrong with a file stands in its report.
    """
    root = Path(root)
    files.require_folder(root)
    return _Folder(root, splits).reports


class _Folder:
    """The checks of a data folder, run when it is made. `reports` is the outcome; the rest is what they share."""

    def __init__(self, root: Path, splits: tuple[str, ...]) -> None:
        self.root = root
        present = {name: os.path.lexists(root / name) for name in files.EVERY_FILE}
        self.reports = {name: FileReport(there) for name, there in present.items() if there or name != files.CATEGORIES}
        self.wanted_orders = [files.order_file(split) for split in splits]
        self.annotations = self._read_annotations()
        self.names = self._read_names()
        self.arrays: dict[str, np.ndarray] = {}
        for name, report in self.reports.items():
            if name not in files.TEXTS and (report.present or self._is_needed(name)):
                values = self._read_array(name)
                if values is not None:
                    self.arrays[name] = values
        self.sizes = self._agreed_sizes()
        self._check_segment_labels()
        self._check_clip_labels()
        self._check_annotations()
        self._check_splits()
        self._compare_with_official_splits()
        self._check_background_only()

    # Reading

    def _read_annotations(self) -> list[labels.Annotation] | None:
        report = self.reports[files.ANNOTATIONS]
        if not report.present:
            if self.reports[files.LABELS].present:
                self._note(
                    files.ANNOTATIONS,
                    "not there, so categories and clips have no names; `python -m dataset.download` fetches AVE's",
                )
            return None
        try:
            annotations = labels.read_annotations(self.root / files.ANNOTATIONS)
        except UserError as error:
            report.problems.append(str(error))
            return None
        report.shape, report.dtype = (len(annotations),), "text"
        return annotations

    def _read_names(self) -> list[str] | None:
        """Names of the categories by index; None where no file names them or `categories.txt` can't be used."""
        annotated, listed = self.root / files.ANNOTATIONS, self.reports.get(files.CATEGORIES)
        try:
            if self.annotations is not None:
                names = labels.categories_by_index(annotated, self.annotations)
            elif listed is not None:
                names = labels.read_categories(self.root / files.CATEGORIES)
            else:
                return None
        except UserError as error:
            listed.problems.append(str(error))
            self.annotations = None  # without numbers for its categories nothing can be held against it
            return None
        if listed is not None:
            listed.shape, listed.dtype = (len(names),), "text"
        return names

    def _read_array(self, name: str) -> np.ndarray | None:
        """The array of a small file; None for a feature file and for a file that can't be used."""
        report, path = self.reports[name], self.root / name
        try:
            array = array_file(path)
            if array.key != files.key_of(name):
                self._note(name, f"its only array {array.key!r} is taken for {files.key_of(name)!r}")
            if name not in files.ORDERS and 0 in array.shape:
                raise UserError(f"{path}: is empty (shape {list(array.shape)}); fetch or make the file again")
            values = None
            if name in files.ORDERS:
                values = read_order(self.root, files.SPLITS[files.ORDERS.index(name)])
            elif name not in files.FEATURES:
                values = array.read()
            if values is not None:
                report.finite = bool(np.isfinite(values).all())
        except UserError as error:
            report.problems.append(str(error))
            return None
        report.key, report.shape, report.dtype = array.key, array.shape, str(array.dtype)
        if name in files.VISUALS and channels_seem_first(array.shape):
            rows, columns, features = array.shape[2:]
            self._note(
                name,
                f"has a grid of {rows} x {columns} cells with {features} features; if these are {rows} features of "
                f"{columns} x {features} cells, `python -m dataset.convert --channels-first` puts them in order",
            )
        return values

    def _is_needed(self, name: str) -> bool:
        """Whether the absence of the array file `name` is a problem."""
        if name in (files.LABELS, files.CLIP_LABELS) and self.reports[files.ANNOTATIONS].present:
            self._note(name, f"not there, so its labels follow from {files.ANNOTATIONS}")
            return False
        if name in files.BACKGROUND_ONLY:
            self._problem(name, files.NO_BACKGROUND_ONLY)
            return False
        if name == files.order_file("val"):
            self._note(name, "not there, so there is no validation protocol")
        return name not in files.ORDERS or name in self.wanted_orders

    # Checking

    def _agreed_sizes(self) -> dict[str, tuple[int, str]]:
        """What the files count ("clips", ...), and the first that says so; files that contradict it have a problem."""
        first: dict[str, tuple[int, str]] = {}
        for name in self.reports:
            for what, count in self._sizes(name).items():
                agreed, other = first.setdefault(what, (count, name))
                if count != agreed:
                    self._problem(name, f"has {count} {what}, but {other} has {agreed}; {OTHER_DATA}")
        segments, name = first.get("segments a clip", (labels.MINIMUM_SEGMENTS, ""))
        if segments < labels.MINIMUM_SEGMENTS:
            self._problem(
                name,
                f"has {segments} segments a clip, but training needs at least {labels.MINIMUM_SEGMENTS}; "
                f"cut longer clips",
            )
        return first

    def _sizes(self, name: str) -> dict[str, int]:
        """What a file says of the sizes that others say too."""
        if name in files.TEXTS:
            sizes = {}
            if name == files.ANNOTATIONS and self.annotations is not None:
                sizes["clips"] = len(self.annotations)
            if self.names is not None and (name == files.CATEGORIES or files.CATEGORIES not in self.reports):
                sizes["label columns"] = len(self.names) + 1
            return sizes
        shape = self.reports[name].shape
        return {} if shape is None or name in files.ORDERS else dict(zip(files.dimensions(name), shape, strict=True))

    def _problem(self, name: str, text: str) -> None:
        self.reports[name].problems.append(f"{self.root / name}: {text}")

    def _note(self, name: str, text: str) -> None:
        self.reports[name].notes.append(f"{self.root / name}: {text}")

    def _check_segment_labels(self) -> None:
        array = self.arrays.get(files.LABELS)
        if array is None or not self._check_one_hot(files.LABELS, array) or self.annotations is None:
            return
        try:
            expected = labels.labels_from_annotations(self.root / files.ANNOTATIONS, segments=array.shape[1])
        except UserError as error:
            self.reports[files.ANNOTATIONS].problems.append(str(error))
            return
        if expected.shape == array.shape:
            differs = (expected != array).any(axis=2)
            event = expected[..., -1] == 0
            within = event & np.roll(event, 1, axis=1) & np.roll(event, -1, axis=1)
            within[:, [0, -1]] = False
            interruption = within & (array[..., -1] == 1)  # which an annotation, from start to end, can't tell
            self._compare(files.LABELS, differs.any(axis=1), files.ANNOTATIONS, (differs & ~interruption).any(axis=1))

    def _check_clip_labels(self) -> None:
        array = self.arrays.get(files.CLIP_LABELS)
        if array is None or not self._check_one_hot(files.CLIP_LABELS, array):
            return
        segment_labels = self.arrays.get(files.LABELS)
        if self.annotations is not None:
            expected = labels.clip_labels_from_annotations(self.root / files.ANNOTATIONS)
            if expected.shape == array.shape:
                self._compare(files.CLIP_LABELS, (expected != array).any(axis=1), files.ANNOTATIONS)
        elif segment_labels is not None and segment_labels[:, 0].shape == array.shape:
            occurs = segment_labels.max(axis=1)
            occurs[:, -1] = ~occurs[:, :-1].any(axis=1)  # background is a clip's label only without any event
            self._compare(files.CLIP_LABELS, (array * occurs).sum(axis=1) == 0, files.LABELS)

    def _check_annotations(self) -> None:
        """Whether every event lies within its clip; segment labels are compared elsewhere, which checks that too."""
        if self.annotations is None or files.LABELS in self.arrays or "segments a clip" not in self.sizes:
            return
        try:
            labels.labels_from_annotations(self.root / files.ANNOTATIONS, segments=self.sizes["segments a clip"][0])
        except UserError as error:
            self.reports[files.ANNOTATIONS].problems.append(str(error))

    def _check_splits(self) -> None:
        for name in files.ORDERS:
            if name in self.arrays:
                self._check_rows(name, self.arrays[name])
        for i, name in enumerate(files.ORDERS):
            for other in files.ORDERS[:i]:
                if name in self.arrays and other in self.arrays:
                    shared = np.intersect1d(self.arrays[name], self.arrays[other])
                    if shared.size:
                        self._problem(
                            name,
                            f"shares {shared.size} clips with {other} (row {shared[0]}), but splits must be disjoint; "
                            f"take both files from one data set",
                        )

    def _compare_with_official_splits(self) -> None:
        if self.annotations is None:
            return
        for split in files.SPLITS:
            if files.order_file(split) in self.arrays and (fewer := fewer_clips(self.root, [split])):
                self.reports[files.order_file(split)].notes.append(fewer)

    def _check_rows(self, name: str, rows: np.ndarray) -> None:
        if rows.size == 0:
            self._problem(name, f"lists no clip; {files.HOW_TO_GET_DATA}")
            return
        clips = self.sizes.get("clips")
        if clips is not None and rows.max() >= clips[0]:
            self._problem(name, f"lists row {rows.max()}, but {clips[1]} has only {clips[0]} clips; {OTHER_DATA}")
        values, counts = np.unique(rows, return_counts=True)
        if (counts > 1).any():
            repeated = values[counts > 1]
            self._problem(name, f"lists {repeated.size} rows more than once (row {repeated[0]}); list each clip once")

    def _check_background_only(self) -> None:
        if (array := self.arrays.get(files.NOISY_LABELS)) is None:
            return
        if self._check_one_hot(files.NOISY_LABELS, array) and not (array[:, -1] == 1).all():
            row = int(np.argmin(array[:, -1]))
            self._problem(
                files.NOISY_LABELS,
                f"row {row} is labelled {int(array[row].argmax())}, but every clip of this file must be "
                f"background ({array.shape[1] - 1}, the last column); fetch or make the file again",
            )

    def _check_one_hot(self, name: str, array: np.ndarray) -> bool:
        """Report labels that aren't one-hot; whether they can be used."""
        by_label = array.reshape(-1, array.shape[-1])
        labels_a_row = len(by_label) // len(array)
        wrong = ~((by_label == 0) | (by_label == 1)).all(axis=1)
        if wrong.any():
            first = int(np.argmax(wrong))
            self._problem(
                name, f"row {first // labels_a_row} holds values other than 0 and 1; labels are one-hot: make it again"
            )
            return False
        usable = True
        for wrong, what, then in (
            (by_label.sum(axis=1) == 0, "are zero in every column", "they count as background"),
            (by_label.sum(axis=1) > 1, "name several categories", "the network learns the first of them"),
        ):
            if not wrong.any():
                continue
            first = int(np.argmax(wrong)) // labels_a_row
            text = f"{wrong.sum()} of {len(by_label)} labels {what} (first in row {first})"
            if wrong.mean() > NOT_ONE_HOT:
                self._problem(name, f"{text}; labels are one-hot: make it again")
                usable = False
            else:
                self._note(name, f"{text}; {then}")
        return usable

    def _compare(self, name: str, differs: np.ndarray, other: str, contradicts: np.ndarray | None = None) -> None:
        """Report clips (`differs`, [N] bool) whose labels in the file `name` aren't those of the file `other`.

        `contradicts`, [N] bool, are those of them that the other file could have described; None: all.
        """
        rows = np.flatnonzero(differs)
        if not rows.size:
            return
        listed = ", ".join(map(str, rows[:5])) + (", ..." if rows.size > 5 else "")
        text = f"differs from {other} in {rows.size} of {len(differs)} clips (rows {listed})"
        if (differs if contradicts is None else contradicts).mean() > DISAGREEMENT:
            self._problem(
                name, f"{text}; one of the two is of another data set, or numbers clips or categories in another order"
            )
        else:
            self._note(name, f"{text}; training uses {name}")


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

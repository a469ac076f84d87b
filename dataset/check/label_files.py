"""Whether the label files of a data folder are one-hot, and agree with each other and with `Annotations.txt`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dataset import files, labels
from dataset.check.file_report import FileReport

# The published labels.h5 differs from Annotations.txt in a few clips that carry two events; labels of
# another data set, or rows in another order, differ nearly everywhere.
DISAGREEMENT = 0.05

# A segment with two categories at once isn't one-hot, but doesn't keep a training from starting.
NOT_ONE_HOT = 0.01


def check_labels(
    reports: Mapping[str, FileReport], arrays: Mapping[str, np.ndarray], annotations: Path | None, segments: int | None
) -> None:
    """Add to the reports what is wrong with the labels of a data folder.

    Args:
        reports, arrays: of the folder's files, by name; a file that can't be used has no array.
        annotations: `Annotations.txt`, where it is there and can be used.
        segments: of a clip, as the feature files have them; None where none can be used.
    """
    segment_labels, clip_labels, background = (
        arrays.get(name) for name in (files.LABELS, files.CLIP_LABELS, files.NOISY_LABELS)
    )
    expected = None
    if segment_labels is not None:
        segments = segment_labels.shape[1]
    if annotations is not None and segments is not None:
        with reports[files.ANNOTATIONS].noting_errors():  # an event may end after its clip
            expected = labels.labels_from_annotations(annotations, segments)
    if segment_labels is not None and _is_one_hot(reports[files.LABELS], segment_labels) and expected is not None:
        _compare_segments(reports[files.LABELS], segment_labels, expected)
    if clip_labels is not None and _is_one_hot(reports[files.CLIP_LABELS], clip_labels):
        _compare_clips(reports[files.CLIP_LABELS], clip_labels, annotations, segment_labels)
    if background is not None and _is_one_hot(reports[files.NOISY_LABELS], background):
        _check_all_background(reports[files.NOISY_LABELS], background)


def _compare_segments(report: FileReport, array: np.ndarray, expected: np.ndarray) -> None:
    """Compare segment labels with those that follow from the annotations."""
    if expected.shape != array.shape:
        return
    differs = (expected != array).any(axis=2)
    event = expected[..., -1] == 0
    within = event & np.roll(event, 1, axis=1) & np.roll(event, -1, axis=1)
    within[:, [0, -1]] = False
    interruption = within & (array[..., -1] == 1)  # an annotation has a start and an end, so it can't tell one
    _compare(report, differs.any(axis=1), files.ANNOTATIONS, (differs & ~interruption).any(axis=1))


def _compare_clips(
    report: FileReport, array: np.ndarray, annotations: Path | None, segment_labels: np.ndarray | None
) -> None:
    """Compare clip labels with the annotations or, without them, with the segment labels."""
    if annotations is not None:
        expected = labels.clip_labels_from_annotations(annotations)
        if expected.shape == array.shape:
            _compare(report, (expected != array).any(axis=1), files.ANNOTATIONS)
    elif segment_labels is not None and segment_labels[:, 0].shape == array.shape:
        occurs = segment_labels.max(axis=1)
        occurs[:, -1] = ~occurs[:, :-1].any(axis=1)  # background is a clip's label only without any event
        _compare(report, (array * occurs).sum(axis=1) == 0, files.LABELS)


def _check_all_background(report: FileReport, array: np.ndarray) -> None:
    """Report background-only clips that are labelled as anything else."""
    if not (array[:, -1] == 1).all():
        row = int(np.argmin(array[:, -1]))
        report.problem(
            f"row {row} is labelled {int(array[row].argmax())}, but every clip of this file must be "
            f"background ({array.shape[1] - 1}, the last column); fetch or make the file again"
        )


def _is_one_hot(report: FileReport, array: np.ndarray) -> bool:
    """Whether labels are near enough to one-hot to be used; those that aren't one-hot are reported."""
    by_label = array.reshape(-1, array.shape[-1])
    labels_a_row = len(by_label) // len(array)
    wrong = ~((by_label == 0) | (by_label == 1)).all(axis=1)
    if wrong.any():
        first = int(np.argmax(wrong))
        report.problem(
            f"row {first // labels_a_row} holds values other than 0 and 1; labels are one-hot: make the file again"
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
            report.problem(f"{text}; labels are one-hot: make the file again")
            usable = False
        else:
            report.note(f"{text}; {then}")
    return usable


def _compare(report: FileReport, differs: np.ndarray, other: str, contradicts: np.ndarray | None = None) -> None:
    """Report clips whose labels aren't those of the file `other`.

    Args:
        differs: [clips] bool.
        contradicts: [clips] bool, those of them that the other file could have described; None: all.
    """
    rows = np.flatnonzero(differs)
    if not rows.size:
        return
    listed = ", ".join(map(str, rows[:5])) + (", ..." if rows.size > 5 else "")
    text = f"differs from {other} in {rows.size} of {len(differs)} clips (rows {listed})"
    if (differs if contradicts is None else contradicts).mean() > DISAGREEMENT:
        report.problem(
            f"{text}; one of the two is of another data set, or numbers clips or categories in another order"
        )
    else:
        report.note(f"{text}; training uses {report.path.name}")

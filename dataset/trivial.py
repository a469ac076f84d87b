"""What predictors score that ignore the features, and which clips share their video with the training split."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset import files, labels
from dataset.arrays import rows_of_split


class TrivialAccuracies(NamedTuple):
    """Segment accuracy, in percent, of predictors that ignore the features.

    `all_background` calls everything background; `most_frequent_category` names the category of most
    training clips everywhere (nan when that isn't known); `right_category` names a clip's own category
    in every segment, so a predictor that is never wrong about the category and never says background
    stays below it; `best_single_label` gives each clip the one label, background included, that fits most
    of its segments.
    """

    all_background: float
    most_frequent_category: float
    right_category: float
    best_single_label: float


def trivial_accuracies(segment_labels: np.ndarray, train_clip_labels: np.ndarray | None = None) -> TrivialAccuracies:
    """What predictors that ignore the features score on the labels of a split.

    Args:
        segment_labels: [n, T, C+1] one-hot labels of the split, the last column background.
        train_clip_labels: [m, C+1] one-hot clip labels of the training split, which say what category is
            the most frequent one there (the first of several).
    """
    segments = segment_labels[..., 0].size
    by_clip = segment_labels.sum(axis=1)  # [n, C+1] segments of each label
    most_frequent = np.nan
    if train_clip_labels is not None:
        category = train_clip_labels[:, :-1].sum(axis=0).argmax()
        most_frequent = by_clip[:, category].sum() / segments
    return TrivialAccuracies(
        all_background=100 * float(by_clip[:, -1].sum() / segments),
        most_frequent_category=100 * float(most_frequent),
        right_category=100 * float(by_clip[:, :-1].max(axis=1).sum() / segments),
        best_single_label=100 * float(by_clip.max(axis=1).sum() / segments),
    )


def leaked_clips(root: str | os.PathLike, split: str = "test") -> np.ndarray:
    """Rows of a split, [m] int64 in its order, whose video is also in the training split.

    Such a clip shows the network pictures and sounds that it was trained on. Raises UserError without
    `Annotations.txt`, which alone knows the videos.
    """
    ids = [annotation.id for annotation in labels.read_annotations(Path(root) / files.ANNOTATIONS)]
    rows, train = (
        rows_of_split(root, of_split, len(ids), f"{files.ANNOTATIONS} describes") for of_split in (split, "train")
    )
    trained_on = {ids[row] for row in train}
    return np.array([row for row in rows if ids[row] in trained_on], dtype=np.int64)

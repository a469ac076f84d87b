"""Clips and event seconds of a data folder, by category, split and second."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset import files, labels
from dataset.arrays import rows_of_split
from dataset.trivial import TrivialAccuracies, trivial_accuracies
from utils.base.errors import UserError


class Videos(NamedTuple):
    """How many videos the clips of some splits come from, and which splits share any; a video can have many clips."""

    different: int
    in_both: dict[tuple[str, str], int]  # (split, split) -> number of videos that have clips in both
    leaked: dict[str, list[int]]  # split -> rows of its clips whose video is in the training split too


@dataclass(frozen=True)
class FolderStatistics:
    """A data folder in numbers; the splits are those that the folder has.

    Attributes:
        categories: names of the C categories.
        segment_labels: split -> [n, T, C+1] one-hot labels.
        clip_labels: split -> [n, C+1] one-hot labels.
        trivial: split -> TrivialAccuracies.
        videos: None without their ids.
    """

    root: Path
    categories: list[str]
    segment_labels: dict[str, np.ndarray]
    clip_labels: dict[str, np.ndarray]
    trivial: dict[str, TrivialAccuracies]
    videos: Videos | None

    @property
    def segments(self) -> int:
        """T, segments a clip."""
        return next(iter(self.segment_labels.values())).shape[1]

    def clips_by_category(self, split: str) -> np.ndarray:
        """[C] clips of each category in a split."""
        return self.clip_labels[split][:, :-1].sum(axis=0).astype(int)

    def event_seconds_by_category(self, split: str) -> np.ndarray:
        """[C] seconds of each category's events in a split."""
        return self.segment_labels[split][..., :-1].sum(axis=(0, 1)).astype(int)

    def event_lengths(self, split: str) -> np.ndarray:
        """[T+1] clips of a split with 0, 1, ..., T event seconds."""
        seconds = self.segment_labels[split][..., :-1].any(axis=-1).sum(axis=1)
        return np.bincount(seconds, minlength=self.segments + 1)

    def event_share_by_second(self, split: str) -> np.ndarray:
        """[T] share of a split's clips, 0 to 1, that have an event in each second."""
        return self.segment_labels[split][..., :-1].any(axis=-1).mean(axis=0)


def folder_statistics(root: str | os.PathLike) -> FolderStatistics:
    """Read the labels and splits of a data folder and count. Raises UserError as the readers of its files."""
    root = Path(root)
    files.require_folder(root)
    every_label = labels.segment_labels(root)
    splits = [split for split in files.SPLITS if (root / files.order_file(split)).exists()]
    if not splits:
        raise UserError(f"{root}: has no split file such as {files.order_file('train')}; {files.HOW_TO_GET_DATA}")
    rows = {split: rows_of_split(root, split, len(every_label), "the labels describe") for split in splits}
    every_clip_label = _clip_labels(root, every_label)
    segment_labels = {split: every_label[rows[split]] for split in splits}
    clip_labels = {split: every_clip_label[rows[split]] for split in splits}
    names = labels.clip_names(root, every_label.shape[-1] - 1)
    videos = None
    if names.ids is not None:
        described = f"{files.ANNOTATIONS} describes"
        videos = _videos(names.ids, {split: rows_of_split(root, split, len(names.ids), described) for split in splits})
    trivial = {split: trivial_accuracies(segment_labels[split], clip_labels.get("train")) for split in splits}
    return FolderStatistics(root, names.categories, segment_labels, clip_labels, trivial, videos)


def _videos(ids: list[str], rows: dict[str, np.ndarray]) -> Videos:
    of_split = {split: {ids[row] for row in rows[split]} for split in rows}
    train, others = of_split.get("train", set()), [split for split in rows if split != "train"]
    return Videos(
        different=len(set.union(*of_split.values())),
        in_both={(a, b): len(of_split[a] & of_split[b]) for a, b in itertools.combinations(rows, 2)},
        leaked={split: [row for row in rows[split].tolist() if ids[row] in train] for split in others},
    )


def _clip_labels(root: Path, segment_labels: np.ndarray) -> np.ndarray:
    """Clip labels [N, C+1] of a data folder; a folder of segment labels alone has those of most event segments."""
    if not (root / files.CLIP_LABELS).exists() and not (root / files.ANNOTATIONS).exists():
        events = segment_labels[..., :-1].sum(axis=1)
        category = np.where(events.any(axis=1), events.argmax(axis=1), events.shape[1])
        return np.eye(segment_labels.shape[-1], dtype=np.float32)[category]
    clip_labels = labels.clip_labels(root)
    if clip_labels.shape != (len(segment_labels), segment_labels.shape[-1]):
        raise UserError(
            f"{root}: clip labels {list(clip_labels.shape)} and segment labels {list(segment_labels.shape)} disagree; "
            f"`python -m dataset.check --data_root {root}` says which files don't belong together"
        )
    return clip_labels

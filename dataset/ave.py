"""AVEDataset and WeakAVEDataset: the clips of one split, with the labels of full or weak supervision."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from dataset import files, labels
from dataset.arrays import ArrayFile, array_file, rows_of_split
from dataset.rows import RowReader
from utils.base.errors import UserError


class FeaturePair(NamedTuple):
    """A visual [N, T, H, W, Dv] and an audio [N, T, Da] feature file that describe the same clips."""

    visual: ArrayFile
    audio: ArrayFile


def feature_pair(visual: Path, audio: Path) -> FeaturePair:
    """Two feature files, checked. Raises UserError as `array_file`, or when they differ in N or T."""
    pair = FeaturePair(array_file(visual), array_file(audio))
    if pair.visual.shape[:2] != pair.audio.shape[:2]:
        raise UserError(
            f"{visual} holds {pair.visual.shape[0]} clips of {pair.visual.shape[1]} segments, but {audio} holds "
            f"{pair.audio.shape[0]} of {pair.audio.shape[1]}; they belong to different data sets"
        )
    return pair


class AVEDataset(Dataset):
    """Clips of a split for full supervision: with segment labels.

    Item i is (visual [T, H, W, Dv], audio [T, Da], label [T, C+1]) of the i-th clip of the split, as
    tensors; labels are one-hot float32, their last column background.

    Args:
        root: the data folder (see `dataset.files`).
        split: "train", "val" or "test".
        dtype: of the features handed out; the files may hold float64, float32 or float16.

    Attributes:
        sources: the pairs of feature files.
        source_of, rows: [n] which of `sources` holds each clip, and its row there.
        labels: [n, ...] float32, in the order of the split.

    Raises:
        UserError: a file is missing, damaged, or doesn't belong to the others; reading an item: its features are
            damaged or not finite.
    """

    def __init__(self, root: str | os.PathLike, split: str, dtype: torch.dtype = torch.float32) -> None:
        self.root, self.split, self.dtype = Path(root), split, dtype
        self.sources = [feature_pair(self.root / files.VISUAL, self.root / files.AUDIO)]
        self._readers: tuple[int, list[list[RowReader]]] | None = None  # with the process that may use them
        clips = len(self.sources[0].visual)
        self.rows = rows_of_split(self.root, split, clips, f"{files.VISUAL} has only")
        self.source_of = np.zeros_like(self.rows)
        every_label = self._labels()
        if every_label.shape[0] != clips:
            raise UserError(
                f"{self.root}: the labels describe {every_label.shape[0]} clips, but {files.VISUAL} has {clips}; "
                f"{files.OTHER_DATA}"
            )
        if every_label.ndim == 3 and every_label.shape[1] != self.segments:
            raise UserError(
                f"{self.root}: the labels have {every_label.shape[1]} segments a clip, but {files.VISUAL} has "
                f"{self.segments}; {files.OTHER_DATA}"
            )
        self.labels = every_label[self.rows]

    def _labels(self) -> np.ndarray:
        """Labels of every row of the feature file."""
        return labels.segment_labels(self.root)

    @property
    def segments(self) -> int:
        """T, segments a clip."""
        return self.sources[0].visual.shape[1]

    @property
    def categories(self) -> int:
        """C, categories without background."""
        return self.labels.shape[-1] - 1

    def __len__(self) -> int:
        return len(self.labels)

    def source(self, index: int) -> tuple[int, int]:
        """Which of `sources` holds the split's clip `index`, and its row there."""
        return int(self.source_of[index]), int(self.rows[index])

    def file_order(self) -> torch.Tensor:
        """The split's positions in the order of their rows in the files, [n] int64."""
        return torch.from_numpy(np.lexsort((self.rows, self.source_of)))

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        index = range(len(self))[index]  # negative indices count from the end; past it is an IndexError
        # Each process, such as a loader's worker, has readers of its own.
        if self._readers is None or self._readers[0] != os.getpid():
            self._readers = os.getpid(), [[RowReader(file, self.dtype) for file in pair] for pair in self.sources]
        source, row = self.source(index)
        visual, audio = (reader[row] for reader in self._readers[1][source])
        return visual, audio, torch.from_numpy(self.labels[index])

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_readers": None}


class WeakAVEDataset(AVEDataset):
    """Clips of a split for weak supervision: with clip labels for training, segment labels for evaluation.

    The train split is the clips of `train_order.h5` with labels [C+1], followed by all background-only clips
    (`*_noisy.h5`), whose label is background. The val and test splits carry segment labels [T, C+1], because
    predictions are compared with them. Arguments, attributes and errors as AVEDataset, and

    Args:
        label_regime: a name of `dataset.files.LABEL_REGIMES`: one-hot clip labels and background-only clips; without
            these clips ("clips"); or the shares of each clip's segments in place of clip labels ("segment_shares").
    """

    def __init__(
        self,
        root: str | os.PathLike,
        split: str,
        dtype: torch.dtype = torch.float32,
        label_regime: str = "clips_with_background",
    ) -> None:
        self.label_regime = label_regime
        super().__init__(root, split, dtype)
        if split == "train" and files.NOISY_VISUAL in files.LABEL_REGIMES[label_regime].reads:
            self._append_background_only()

    def _labels(self) -> np.ndarray:
        if self.split != "train":
            return labels.segment_labels(self.root)
        of_clips = files.CLIP_LABELS in files.LABEL_REGIMES[self.label_regime].reads
        # Else of each clip the share of its segments that carry each label.
        return labels.clip_labels(self.root) if of_clips else labels.segment_labels(self.root).mean(1)

    def _append_background_only(self) -> None:
        if absent := [name for name in files.BACKGROUND_ONLY if not os.path.lexists(self.root / name)]:
            raise UserError(f"{self.root / absent[0]}: {files.NO_BACKGROUND_ONLY}")
        background = feature_pair(self.root / files.NOISY_VISUAL, self.root / files.NOISY_AUDIO)
        for file, other in zip(background, self.sources[0], strict=True):
            if file.shape[1:] != other.shape[1:]:
                raise UserError(f"{file.path}: its clips have another shape than the other clips; {files.OTHER_DATA}")
        clips = len(background.visual)
        noisy_labels = array_file(self.root / files.NOISY_LABELS).read().astype(np.float32)
        if noisy_labels.shape != (clips, self.labels.shape[-1]):
            raise UserError(
                f"{self.root / files.NOISY_LABELS}: has shape {list(noisy_labels.shape)}, but {clips} "
                f"background-only clips and {self.labels.shape[-1]} label columns are expected"
            )
        self.sources.append(background)
        self.source_of = np.repeat([0, 1], [len(self.rows), clips])
        self.rows = np.concatenate([self.rows, np.arange(clips)])
        self.labels = np.concatenate([self.labels, noisy_labels])

"""AVEDataset and WeakAVEDataset: clips of one split, with the labels of one setting."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import torch
from torch.utils.data import Dataset

from dataset import files, labels
from utils.base.errors import UserError


class FeatureFiles:
    """A visual and an audio feature file that describe the same clips, opened on first use.

    Each process opens the files for itself (an HDF5 handle must not cross a fork), so an object of this
    class may be handed to any number of loader workers.

    Args:
        visual, audio: paths of [N, T, H, W, Dv] and [N, T, Da] arrays.

    Raises:
        UserError: a file is missing, damaged or of another shape, or the two differ in N or T.
    """

    def __init__(self, visual: Path, audio: Path) -> None:
        self.visual_path, self.audio_path = visual, audio
        with files.open_array(visual) as array:
            self.visual_shape, self.visual_dtype = array.shape, array.dtype
        with files.open_array(audio) as array:
            self.audio_shape, self.audio_dtype = array.shape, array.dtype
        if self.visual_shape[:2] != self.audio_shape[:2]:
            raise UserError(
                f"{visual} holds {self.visual_shape[0]} clips of {self.visual_shape[1]} segments, but {audio} holds "
                f"{self.audio_shape[0]} of {self.audio_shape[1]}; they belong to different data sets"
            )
        self._open: tuple[int, h5py.Dataset, h5py.Dataset] | None = None

    def __len__(self) -> int:
        return self.visual_shape[0]

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Visual [T, H, W, Dv] and audio [T, Da] features of a row, as stored."""
        if self._open is None or self._open[0] != os.getpid():
            visual = files.checked_array(files.open_file(self.visual_path), self.visual_path)
            audio = files.checked_array(files.open_file(self.audio_path), self.audio_path)
            self._open = (os.getpid(), visual, audio)
        _, visual, audio = self._open
        try:
            return files.native(visual[row]), files.native(audio[row])
        except OSError as error:
            raise UserError(
                f"{self.visual_path} or {self.audio_path}: row {row} cannot be read ({error}); "
                f"`python -m dataset.check` names the damaged file"
            ) from error

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": None}


class AVEDataset(Dataset):
    """The fully supervised setting: clips of a split with segment labels.

    Item i is (visual [T, H, W, Dv], audio [T, Da], label [T, C+1]) of the i-th clip of the split, as
    tensors; labels are one-hot float32, their last column background.

    Args:
        root: the data folder (see `dataset.files`).
        split: "train", "val" or "test".
        dtype: of the features handed out; the files may hold float64, float32 or float16.

    Attributes:
        rows: [n] row of each clip in the feature file (for `sources[i]`, see there).
        labels: [n, ...] float32, in the order of the split.

    Raises:
        UserError: a file is missing, damaged, or doesn't belong to the others.
    """

    def __init__(self, root: str | os.PathLike, split: str, dtype: torch.dtype = torch.float32) -> None:
        self.root, self.split, self.dtype = Path(root), split, dtype
        self.sources = [FeatureFiles(self.root / files.VISUAL, self.root / files.AUDIO)]
        self.rows = files.read_order(self.root, split)
        clips = len(self.sources[0])
        if self.rows.size == 0:
            raise UserError(f"{self.root / files.order_file(split)}: lists no clip; {files.HOW_TO_GET_DATA}")
        if self.rows.max() >= clips:
            raise UserError(
                f"{self.root / files.order_file(split)}: lists row {self.rows.max()}, but {files.VISUAL} has only "
                f"{clips} clips; the files belong to different data sets"
            )
        every_label = self._labels()
        if every_label.shape[0] != clips:
            raise UserError(
                f"{self.root}: the labels describe {every_label.shape[0]} clips, but {files.VISUAL} has {clips}; "
                f"the files belong to different data sets"
            )
        if every_label.ndim == 3 and every_label.shape[1] != self.segments:
            raise UserError(
                f"{self.root}: the labels have {every_label.shape[1]} segments a clip, but {files.VISUAL} has "
                f"{self.segments}; the files belong to different data sets"
            )
        self.labels = every_label[self.rows]

    def _labels(self) -> np.ndarray:
        """Labels of every row of the feature file."""
        return labels.segment_labels(self.root)

    @property
    def segments(self) -> int:
        """T, segments a clip."""
        return self.sources[0].visual_shape[1]

    @property
    def categories(self) -> int:
        """C, categories without background."""
        return self.labels.shape[-1] - 1

    def __len__(self) -> int:
        return len(self.labels)

    def source(self, index: int) -> tuple[FeatureFiles, int]:
        """The feature files that hold the split's clip `index`, and its row there."""
        return self.sources[0], int(self.rows[index])

    def file_order(self) -> torch.Tensor:
        """The split's positions in the order of their rows in the files, [n] int64."""
        return torch.from_numpy(np.argsort(self.rows, kind="stable"))

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        index = range(len(self))[index]  # negative indices count from the end; past it is an IndexError
        source, row = self.source(index)
        visual, audio = source[row]
        return (
            torch.from_numpy(visual).to(self.dtype),
            torch.from_numpy(audio).to(self.dtype),
            torch.from_numpy(self.labels[index]),
        )


class WeakAVEDataset(AVEDataset):
    """The weakly supervised setting: clip labels for training, segment labels for evaluation.

    The train split is the clips of `train_order.h5` with their clip labels [C+1], followed by all
    background-only clips (`*_noisy.h5`), whose label is background. The val and test splits carry
    segment labels [T, C+1], because that is what a prediction is measured against.
    Arguments, attributes and errors as AVEDataset.
    """

    def __init__(self, root: str | os.PathLike, split: str, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(root, split, dtype)
        self.clips_with_event = len(self.rows)
        if split == "train":
            self._append_background_only()

    def _labels(self) -> np.ndarray:
        return labels.clip_labels(self.root) if self.split == "train" else labels.segment_labels(self.root)

    def _append_background_only(self) -> None:
        background = FeatureFiles(self.root / files.NOISY_VISUAL, self.root / files.NOISY_AUDIO)
        for stored, name in (
            (background.visual_shape[1:] == self.sources[0].visual_shape[1:], files.NOISY_VISUAL),
            (background.audio_shape[1:] == self.sources[0].audio_shape[1:], files.NOISY_AUDIO),
        ):
            if not stored:
                raise UserError(
                    f"{self.root / name}: its clips have another shape than the other clips; "
                    f"the files belong to different data sets"
                )
        noisy_labels = files.read_array(self.root / files.NOISY_LABELS).astype(np.float32)
        if noisy_labels.shape != (len(background), self.labels.shape[-1]):
            raise UserError(
                f"{self.root / files.NOISY_LABELS}: has shape {list(noisy_labels.shape)}, but {len(background)} "
                f"background-only clips and {self.labels.shape[-1]} label columns are expected"
            )
        self.sources.append(background)
        self.rows = np.concatenate([self.rows, np.arange(len(background))])
        self.labels = np.concatenate([self.labels, noisy_labels])

    def file_order(self) -> torch.Tensor:
        in_second_file = np.arange(len(self)) >= self.clips_with_event
        return torch.from_numpy(np.lexsort((self.rows, in_second_file)))

    def source(self, index: int) -> tuple[FeatureFiles, int]:
        return self.sources[int(index >= self.clips_with_event)], int(self.rows[index])

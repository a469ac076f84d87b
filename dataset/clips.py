"""Reading the features of many clips into memory, by several threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dataset.arrays import ArrayFile
from dataset.ave import AVEDataset
from dataset.rows import RowReader


class Dtypes(NamedTuple):
    """The types in which visual and audio features wait in memory for their step."""

    visual: torch.dtype
    audio: torch.dtype


def resident_dtypes(dataset: AVEDataset) -> Dtypes:
    """For each kind of feature the run's type, or the files' where that is narrower (float16).

    Nothing is rounded that the run wouldn't round, and the run's own type is made of it batch by batch.
    """

    def waiting(feature_files: list[ArrayFile]) -> torch.dtype:
        stored = np.result_type(*(file.dtype for file in feature_files))
        narrower = stored.kind == "f" and stored.itemsize < dataset.dtype.itemsize
        return getattr(torch, stored.name) if narrower else dataset.dtype

    visual, audio = zip(*dataset.sources, strict=True)
    return Dtypes(waiting(visual), waiting(audio))


def split_bytes(dataset: AVEDataset) -> int:
    """Memory that a split's features take when resident, in bytes."""
    dtypes = resident_dtypes(dataset)
    values = (int(np.prod(file.shape[1:])) for file in dataset.sources[0])
    return len(dataset) * sum(count * dtype.itemsize for count, dtype in zip(values, dtypes, strict=True))


def read_clips(
    dataset: AVEDataset, clips: Tensor, home: torch.device, workers: int, description: str | None = None
) -> tuple[Tensor, Tensor]:
    """Read clips of a split, in file order and with `workers` threads, into visual [n, ...] and audio [n, ...].

    Args:
        clips: [n] positions in the split.
        home: the device whose memory holds the features, in their `resident_dtypes`.
        description: names a progress bar; without it there is none.

    Raises UserError for a file that breaks off, and for values that aren't finite.
    """
    dtypes, first = resident_dtypes(dataset), dataset.sources[0]
    visual = torch.empty((len(clips), *first.visual.shape[1:]), dtype=dtypes.visual, device=home)
    audio = torch.empty((len(clips), *first.audio.shape[1:]), dtype=dtypes.audio, device=home)
    wanted = sorted((*dataset.source(int(clip)), index) for index, clip in enumerate(clips))
    bar = tqdm(total=len(wanted), desc=description, unit="clip", disable=None if description else True, leave=False)
    readers: list[tuple[RowReader, RowReader]] = []

    def read(part: list[tuple[int, int, int]]) -> None:
        for source, row, index in part:
            visual_reader, audio_reader = readers[source]
            visual_reader.read(row, visual[index])
            audio_reader.read(row, audio[index])
            bar.update()

    parts = [part.tolist() for part in np.array_split(np.array(wanted), max(workers, 1)) if len(part)]
    try:
        for source in dataset.sources:
            readers.append((RowReader(source.visual, dtypes.visual), RowReader(source.audio, dtypes.audio)))
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(read, parts))
    finally:
        bar.close()
        for pair in readers:
            for reader in pair:
                reader.close()
    return visual, audio

"""Reading the features of many clips into memory, by several threads."""

from __future__ import annotations

import contextlib
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dataset.arrays import ArrayFile
from dataset.ave import AVEDataset
from dataset.rows import RowReader


def resident_dtypes(dataset: AVEDataset) -> tuple[torch.dtype, torch.dtype]:
    """The types in which visual and audio features are kept in memory: the run's, or the files' if narrower (float16).

    Nothing is rounded that the run wouldn't round, and the run's own type is made of it batch by batch.
    """

    def kept_as(feature_files: list[ArrayFile]) -> torch.dtype:
        stored = np.result_type(*(file.dtype for file in feature_files))
        narrower = stored.kind == "f" and stored.itemsize < dataset.dtype.itemsize
        return getattr(torch, stored.name) if narrower else dataset.dtype

    visual, audio = zip(*dataset.sources, strict=True)
    return kept_as(visual), kept_as(audio)


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
    kinds = list(zip(dataset.sources[0], resident_dtypes(dataset), strict=True))
    features = [torch.empty((len(clips), *file.shape[1:]), dtype=dtype, device=home) for file, dtype in kinds]
    wanted = sorted((*dataset.source(int(clip)), index) for index, clip in enumerate(clips))
    parts = [part.tolist() for part in np.array_split(np.array(wanted), max(workers, 1)) if len(part)]
    bar = tqdm(total=len(wanted), desc=description, unit="clip", disable=None if description else True, leave=False)
    with bar, contextlib.ExitStack() as stack:
        readers = [
            [RowReader(file, values.dtype) for file, values in zip(pair, features, strict=True)]
            for pair in dataset.sources
        ]
        for reader in itertools.chain(*readers):
            stack.callback(reader.close)

        def read(part: list[tuple[int, int, int]]) -> None:
            for source, row, index in part:
                for reader, values in zip(readers[source], features, strict=True):
                    reader.read(row, values[index])
                bar.update()

        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(read, parts))
    return features[0], features[1]

"""Reading clips of a split from the feature files into memory, by several threads."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dataset import files
from dataset.ave import AVEDataset
from utils.base.errors import UserError

_TORCH_DTYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


def resident_dtype(dataset: AVEDataset) -> torch.dtype:
    """The type in which features wait for their step: the run's, or the file's where that is narrower (float16)."""
    stored = _TORCH_DTYPES.get(dataset.sources[0].visual_dtype.name, torch.float64)
    return stored if stored.itemsize < dataset.dtype.itemsize else dataset.dtype


def split_bytes(dataset: AVEDataset) -> int:
    """Memory that a split's features take when resident, in bytes."""
    source = dataset.sources[0]
    values = int(np.prod(source.visual_shape[1:])) + int(np.prod(source.audio_shape[1:]))
    return len(dataset) * values * resident_dtype(dataset).itemsize


def read_clips(
    dataset: AVEDataset,
    clips: Tensor,
    dtype: torch.dtype,
    home: torch.device,
    workers: int,
    description: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Read clips of a split, in file order and with `workers` threads, into visual [n, ...] and audio [n, ...].

    `clips` holds positions in the split; `description` names a progress bar (none: no bar). Raises UserError
    for a file that breaks off.
    """
    source = dataset.sources[0]
    visual = torch.empty((len(clips), *source.visual_shape[1:]), dtype=dtype, device=home)
    audio = torch.empty((len(clips), *source.audio_shape[1:]), dtype=dtype, device=home)
    wanted = sorted(
        (dataset.sources.index(source), row, index)
        for index, (source, row) in enumerate(dataset.source(int(clip)) for clip in clips)
    )
    readers = [(_RowReader(source.visual_path), _RowReader(source.audio_path)) for source in dataset.sources]
    bar = tqdm(total=len(wanted), desc=description, unit="clip", disable=None if description else True, leave=False)

    def read(part: list[tuple[int, int, int]]) -> None:
        for source, row, index in part:
            visual_reader, audio_reader = readers[source]
            visual[index] = torch.from_numpy(visual_reader[row])
            audio[index] = torch.from_numpy(audio_reader[row])
            bar.update()

    parts = [part.tolist() for part in np.array_split(np.array(wanted), max(workers, 1)) if len(part)]
    try:
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(read, parts))
    finally:
        bar.close()
        for pair in readers:
            for reader in pair:
                reader.close()
    return visual, audio


class _RowReader:
    """Rows of a feature file, read by many threads at once where the file's layout allows it.

    HDF5 reads one row at a time whatever the number of threads; where the offset of each row in the file is known
    (see `files.row_offsets`), the operating system reads rows in parallel.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = files.open_file(path)
        array = files.checked_array(self._file, path)
        self._offsets = files.row_offsets(array)
        self._array: h5py.Dataset | None = array if self._offsets is None else None
        self._shape, self._dtype = array.shape[1:], array.dtype
        self._row_bytes = int(np.prod(self._shape)) * self._dtype.itemsize
        self._descriptor = os.open(path, os.O_RDONLY)

    def __getitem__(self, row: int) -> np.ndarray:
        if self._array is not None:
            try:
                return self._array[row]
            except OSError as error:
                raise UserError(f"{self.path}: row {row} cannot be read ({error}); fetch the file again") from error
        values = np.empty(self._shape, self._dtype)
        target, done = memoryview(values).cast("B"), 0
        while done < self._row_bytes:
            count = os.preadv(self._descriptor, [target[done:]], int(self._offsets[row]) + done)
            if count == 0:
                raise UserError(f"{self.path}: breaks off in row {row}; fetch the file again")
            done += count
        return values.astype(self._dtype.newbyteorder("="), copy=False)

    def close(self) -> None:
        os.close(self._descriptor)
        self._file.close()

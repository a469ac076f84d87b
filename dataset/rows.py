"""Single rows of a feature file as tensors, whatever the file's layout and number type."""

from __future__ import annotations

import os
import weakref

import numpy as np
import torch
from torch import Tensor

from dataset.arrays import ArrayFile, cast, states_of
from dataset.hdf5 import naming_damage, open_file
from utils.base.errors import UserError
from utils.base.text import reading


class RowReader:
    """Rows of a feature file in a floating-point type, read by many threads at once where the file's layout allows it.

    HDF5 reads one row at a time whatever the number of threads; where the rows' offsets are known, the operating system
    reads them in parallel. A reader belongs to the process that made it: an HDF5 handle must not cross a fork.
    """

    def __init__(self, file: ArrayFile, dtype: torch.dtype) -> None:
        self.file, self.dtype = file, dtype
        # Closed by whoever made the reader, or with the last reference to it.
        if file.offsets is None:
            opened = open_file(file.path)
            self.close = weakref.finalize(self, opened.close)
            with naming_damage(file.path):
                self._array = opened[file.key]
        else:
            with reading(file.path):
                self._descriptor = os.open(file.values_in, os.O_RDONLY)
            self.close = weakref.finalize(self, os.close, self._descriptor)
        if states_of(file.path, file.values_in) != file.states:
            self.close()
            raise UserError(f"{file.path}: was changed while it was in use; start again")

    def __getitem__(self, row: int) -> Tensor:
        """A row, e.g. [T, Da]. Raises UserError as `read`."""
        values = torch.empty(self.file.shape[1:], dtype=self.dtype)
        self.read(row, values)
        return values

    def read(self, row: int, into: Tensor) -> None:
        """Read a row into a tensor of its shape and type, on any device.

        Raises UserError for damaged content and for values that aren't finite: one of them makes every number that
        is computed with it meaningless.
        """
        numpy_type = np.dtype(str(self.dtype).removeprefix("torch."))
        in_place = into.device.type == "cpu" and self.file.dtype == numpy_type and self.file.offsets is not None
        if self.file.offsets is None:
            with naming_damage(self.file.path, f"row {row} "):
                stored = self.file.arranged(self._array[row : row + 1])[0]
        else:
            stored = into.numpy() if in_place else np.empty(self.file.shape[1:], self.file.dtype)
            self._fill(stored, row)
        values, fault = cast(stored, numpy_type)
        if fault is not None:
            raise UserError(
                f"{self.file.path}: row {row} holds {fault}; mend or fetch the file "
                f"(`python -m dataset.check --data_root {self.file.path.parent}` counts such rows)"
            )
        if not in_place:
            into.copy_(torch.from_numpy(values))

    def _fill(self, values: np.ndarray, row: int) -> None:
        """Read the bytes of a row, as they are in the file, into an array."""
        target, offset, done = memoryview(values).cast("B"), int(self.file.offsets[row]), 0
        while done < len(target):
            with reading(self.file.path):
                count = os.preadv(self._descriptor, [target[done:]], offset + done)
            if count == 0:
                raise UserError(f"{self.file.path}: breaks off in row {row}; fetch the file again")
            done += count

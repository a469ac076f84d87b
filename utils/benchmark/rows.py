"""The rows of the benchmark: which there are, and measuring one in a process of its own."""

from __future__ import annotations

import fnmatch
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import torch

from utils.base.errors import UserError
from utils.benchmark.measure import WAYS, Row, Task, measure

AVE_SIZE = {"train": 3339, "val": 402, "test": 402, "background_only": 178, "categories": 28}


def rows_of(settings: list[str], device: str, patterns: list[str]) -> list[str]:
    """Names of the rows that `patterns` choose, the authors' first in each group. Raises UserError for none."""
    names = [
        f"{setting}/{what}/{way}"
        for what, ways in WAYS.items()
        for setting in settings
        for way, how in ways.items()
        if device in how.devices
    ]
    chosen = [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        raise UserError(f"--rows {' '.join(patterns)}: chooses none of the rows {', '.join(names)}")
    return chosen


def measure_apart(task: Task) -> Row | str:
    """Measure in a fresh process; where that fails, its reason."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(measure, task).result()
        except BrokenProcessPool:
            return "its process was killed; is there enough memory?"
        except torch.OutOfMemoryError as error:
            return f"does not fit into the GPU's memory ({error})".split("\n")[0]

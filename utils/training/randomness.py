"""The state of every random generator: seeded, saved and restored."""

from __future__ import annotations

import logging
import random

import numpy as np
import torch

from utils.base import processes

_log = logging.getLogger(__name__)


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (every device), as the authors do."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries that draw from numpy's global generator are seeded too
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False  # else LSTMs, and they alone, would compute float32 with 3 digits


def seed_process(seed: int) -> None:
    """Give every process of a run but the first randomness of its own: each drops out other values."""
    if processes.rank():
        seed_everything(seed + processes.rank())


def random_state() -> dict:
    """The state of every random generator that this process uses, of types that a checkpoint may hold."""
    version, state, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    return {
        "python": [version, list(state), gauss],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [],  # of this process's GPU
    }


def restore_random_state(state: dict) -> None:
    """Put every random generator back to where `random_state` found it.

    That of a GPU can't be put back on a CPU, nor the other way round, which is logged.
    """
    version, values, gauss = state["python"]
    random.setstate((version, tuple(values), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    here = int(torch.cuda.is_initialized())
    if len(state["cuda"]) == here:
        for generator in state["cuda"]:
            torch.cuda.set_rng_state(generator.cpu())
    else:
        before, now = ("a GPU", "a CPU") if here == 0 else ("a CPU", "a GPU")
        _log.warning(
            f"the run was on {before} and is on {now} now: it goes on, but with other random numbers than it would "
            f"have had there"
        )

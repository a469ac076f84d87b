"""Where a run computes: device, precision, seeds, the CPU's memory allocator, and being asked to stop."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import random
import re
import signal
import sys
from collections.abc import Iterator

import numpy as np
import torch

from utils import distributed
from utils.errors import UserError, is_out_of_memory

_log = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}


def choose_device(gpu: str | None) -> tuple[torch.device, str]:
    """The device that `--gpu` names, and a line that says so. Raises UserError for a GPU that isn't there.

    Of several processes on this machine, each takes the next of the GPUs named, or of all.
    """
    gpus, me, processes = named_gpus(gpu), distributed.local_rank(), distributed.local_world()
    among = f" in {processes} processes" if processes > 1 else ""
    if not gpus:
        asked = "" if gpu == "cpu" else "torch sees no GPU: "
        asked = f"--gpu {gpu} asks for a GPU, but {asked}" if gpu not in (None, "cpu") else asked
        return torch.device("cpu"), f"{asked}running on the CPU ({torch.get_num_threads()} threads){among}"
    if me >= len(gpus):
        raise UserError(f"{processes} processes were started for {len(gpus)} GPUs; start one for each")
    torch.cuda.set_device(gpus[me])
    return torch.device("cuda", gpus[me]), f"running on {torch.cuda.get_device_name(gpus[me])} (GPU {gpus[me]}){among}"


def named_gpus(gpu: str | None) -> list[int]:
    """Numbers of the GPUs that `--gpu` names: "0", "0,1", or None for the first (of several processes: for all).

    Empty for "cpu", and on a machine without GPUs. Raises UserError for one that isn't there.
    """
    if gpu is not None and not re.fullmatch(r"cpu|\d+(,\d+)*", gpu):
        raise UserError(f"--gpu {gpu}: is not the number of a GPU, nor several with commas, nor cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpu == "cpu" or count == 0:
        return []
    if gpu is None:
        return list(range(count if distributed.is_member() else 1))
    numbers = [int(number) for number in gpu.split(",")]
    if not all(number < count for number in numbers) or len(set(numbers)) < len(numbers):
        raise UserError(f"--gpu {gpu}: this machine has GPUs 0 to {count - 1}; name one, several as 0,1, or cpu")
    return numbers


def dtype_of(precision: str) -> torch.dtype:
    """The type of weights and features: bfloat16 is float32 weights whose products run in bfloat16 (autocast)."""
    return _DTYPES[precision]


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which the network runs at this precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


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
    if distributed.rank():
        seed_everything(seed + distributed.rank())


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


def keep_freed_memory() -> None:
    """Let the C library keep freed memory instead of returning it to the kernel after every tensor.

    A training step on a CPU frees hundreds of temporaries of 60 to 250 MB. glibc gives each back at once, and
    the kernel then clears every page again for the next one, which takes a third of the step.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library, without mallopt
        mallopt = ctypes.CDLL(None).mallopt
        m_trim_threshold, m_mmap_threshold, most = -1, -3, 2**31 - 1
        mallopt(m_mmap_threshold, most)
        mallopt(m_trim_threshold, most)


@contextlib.contextmanager
def naming_batch_size(flag: str, size: int) -> Iterator[None]:
    """Turn running out of memory within the block into a UserError with the batch size to try next."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        advice = f"try {flag} {size // 2}" if size > 1 else "one clip doesn't fit; try --precision bfloat16, --gpu cpu"
        raise UserError(f"out of memory with {flag} {size}: {advice} (or data.features host or stream)") from error


class StopRequest:
    """Set by Ctrl-C or SIGTERM: the step is finished and saved first. A second signal quits at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._process = os.getpid()

    def __bool__(self) -> bool:
        return self.signal is not None

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take over SIGINT and SIGTERM within the block."""
        before = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _request(self, number: int, frame: object) -> None:
        if os.getpid() != self._process:  # a loader's worker, which gets the terminal's Ctrl-C too
            return
        if self:
            raise KeyboardInterrupt
        self.signal = number
        # Not print: a signal may come in the middle of one.
        os.write(2, b"stopping after this step; once more quits at once\n")

"""Where a run computes: the device that `--gpu` names, its precision, and memory that runs out."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator

import torch

from utils.base import processes
from utils.base.errors import UserError, is_out_of_memory

_log = logging.getLogger(__name__)


_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}


def choose_device(gpu: str | None) -> tuple[torch.device, str]:
    """The device that `--gpu` names, and a line that says so. Raises UserError for a GPU that isn't there.

    Of several processes on this machine, each takes the next of the GPUs named, or of all.
    """
    gpus, me, count = named_gpus(gpu), processes.local_rank(), processes.local_world_size()
    among = f" in {count} processes" if count > 1 else ""
    if not gpus:
        asked = "" if gpu == "cpu" else "torch sees no GPU: "
        asked = f"--gpu {gpu} asks for a GPU, but {asked}" if gpu not in (None, "cpu") else asked
        return torch.device("cpu"), f"{asked}running on the CPU (threads: {torch.get_num_threads()}){among}"
    if me >= len(gpus):
        raise UserError(f"{count} processes were started for {len(gpus)} GPUs; start one for each")
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
        return list(range(count if processes.is_distributed() else 1))
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


@contextlib.contextmanager
def naming_batch_size(flag: str, size: int) -> Iterator[None]:
    """Turn running out of memory within the block into a UserError with the batch size to try next."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        advice = f"try {flag} {size // 2}" if size > 1 else "one clip doesn't fit; try --precision bfloat16, --gpu cpu"
        raise UserError(f"out of memory with {flag} {size}: {advice} (or data.placement host or stream)") from error

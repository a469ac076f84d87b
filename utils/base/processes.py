"""One run as several processes: who they are, what they tell each other, how they start and end.

Started by `--gpu 0,1` or by `torchrun --nproc_per_node=N supv_main.py ...`, on several nodes too. Every process
works on its share of each step's clips; the gradients of all are averaged (DistributedDataParallel), and only
process 0 writes. In a run of one process every function here returns at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.base.errors import Interrupted, UserError

EXIT_LOST = 3  # ended because another process of the run did
LAUNCHED = "--gpu"  # what a run of several processes is called, for torch elastic, that `--gpu 0,1` started

_control: dist.ProcessGroup | None = None  # over which numbers on the CPU travel; None: this process is alone


def is_distributed() -> bool:
    """Whether torchrun, or `launch`, started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def nodes() -> int:
    """On how many machines this command was started for one run, as torchrun's variable says."""
    said = os.environ.get("PET_NNODES", "1")
    if not said.isdecimal() or int(said) < 1:
        raise UserError(f"PET_NNODES={said}: is not the number of machines of a run")
    return int(said)


def join(device: torch.device) -> None:
    """Connect to the other processes of the run, if there are any: over nccl on GPUs, gloo on CPUs."""
    global _control
    if not is_distributed():
        return
    if os.environ.get("TORCHELASTIC_RUN_ID") == LAUNCHED:
        # It comes from torch elastic where another process has failed: this one says so itself, when it misses it.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    # Values on the CPU have a group of their own: nccl's would wait for the GPU's work.
    _control = dist.new_group(backend="gloo") if device.type == "cuda" else dist.group.WORLD


def rank() -> int:
    """This process's number in the run, 0 for the one that writes."""
    return dist.get_rank() if _control is not None else 0


def world_size() -> int:
    """How many processes the run has."""
    return dist.get_world_size() if _control is not None else 1


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) if is_distributed() else 0


def local_world_size() -> int:
    """How many processes the run has on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if is_distributed() else 1


def data_parallel(network: nn.Module) -> nn.Module:
    """The network to train with: its gradients are the mean over all processes."""
    if _control is None:
        return network
    # A network that depends on the epoch may leave weights out in some epochs; looking for them costs the others time.
    return nn.parallel.DistributedDataParallel(network, find_unused_parameters=hasattr(network, "begin_epoch"))


def all_reduce(numbers: Tensor) -> Tensor:
    """The sum over all processes of a tensor on the CPU, which must have one shape everywhere."""
    if _control is not None:
        numbers = numbers.clone()
        dist.all_reduce(numbers, group=_control)
    return numbers


def any_process(flag: object) -> bool:
    """Whether `flag` is true in any process; all of them must ask."""
    return bool(flag) if _control is None else bool(all_reduce(torch.tensor(int(bool(flag)))))


def all_gather(value: Any) -> list[Any]:
    """The values of all processes, by rank."""
    if _control is None:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_control)
    return values


def from_first(make: Callable[[], Any]) -> Any:
    """What `make` returns in process 0; the others receive it. An error of process 0 ends the run."""
    if _control is None:
        return make()
    values = [make() if rank() == 0 else None]
    dist.broadcast_object_list(values, src=0, group=_control)
    return values[0]


def barrier() -> None:
    """Wait until every process is here."""
    if _control is not None:
        dist.barrier(group=_control)


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Leave the other processes when the block ends; a process that loses them within it ends with EXIT_LOST."""
    try:
        yield
    except Interrupted:  # in all of them at once
        leave()
        raise
    except RuntimeError as error:
        is_lost = isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)
        if _control is None or not is_lost:
            raise
        print(f"process {rank()} of {world_size()} lost another one, whose message says why", file=sys.stderr)
        # Not by sys.exit: leaving the group properly would wait for the process that is gone.
        sys.stderr.flush()
        os._exit(EXIT_LOST)
    else:
        leave()


def leave() -> None:
    """Disconnect from the other processes."""
    global _control
    if _control is not None:
        _control = None
        dist.destroy_process_group()

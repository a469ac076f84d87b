"""What comes before a network is built: messages, devices, processes, generated data, seeds."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

import torch

from utils.base import processes
from utils.base.devices import choose_device, named_gpus
from utils.base.memory import keep_freed_memory
from utils.base.output import log_from, log_to_terminal
from utils.config.settings import Config
from utils.training.generated import generate_once
from utils.training.randomness import seed_everything

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def begin(config: Config, gpu: str | None) -> Iterator[torch.device]:
    """Prepare all that comes before the network, and yield the device; in the block the run's processes work together.

    For several GPUs or machines, starts one process for each GPU instead, and ends with them.

    Args:
        gpu: what --gpu says.
    """
    log_to_terminal()
    keep_freed_memory()
    gpus = named_gpus(gpu)
    if (len(gpus) > 1 or processes.nodes() > 1) and not processes.is_distributed():
        from utils.training.launching import launch  # here: it imports torch elastic, which nothing else needs

        sys.exit(launch(len(gpus) or 1))
    device, where = choose_device(gpu)
    processes.join(device)
    if processes.rank() > 0:
        log_from(logging.WARNING)
    _log.info(where)
    if processes.local_rank() == 0:
        generate_once(config.data)
    processes.barrier()
    seed_everything(config.train.seed)
    with processes.ending_together():
        yield device

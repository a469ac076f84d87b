"""One run as several processes on this machine: `--gpu 0,1` starts them by torch elastic, and ends as they do.

What torch elastic doesn't do stands here: what failed is said in one line, with its exit code, and Ctrl-C saves once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from utils.base.cores import share_of_cores
from utils.base.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError
from utils.base.interrupts import on_stop
from utils.base.memory import without_tcache
from utils.base.processes import EXIT_LOST, LAUNCHED, nodes

# Seconds that the processes have after Ctrl-C. As a variable, because torch 2.11 doesn't take it, and gives them 30.
_TIME_TO_SAVE = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600"}


def launch(processes: int) -> int:
    """Run this very command as `processes` processes on this machine; returns the exit code that they agree on.

    On several machines it is started on each, with torchrun's variables PET_NNODES and PET_RDZV_ENDPOINT. The first
    process of a machine has its terminal; of the others only an error is shown. Raises UserError when one is killed.
    """
    os.environ |= without_tcache(os.environ) | share_of_cores(processes) | _TIME_TO_SAVE
    with tempfile.TemporaryDirectory() as folder, _silent(), on_stop(_Stop()):
        config = LaunchConfig(
            min_nodes=nodes(),
            max_nodes=nodes(),
            nproc_per_node=processes,
            run_id=LAUNCHED,
            rdzv_backend="c10d",
            rdzv_endpoint=os.environ.get("PET_RDZV_ENDPOINT", "127.0.0.1:0"),
            local_addr=os.environ.get("PET_LOCAL_ADDR", "127.0.0.1" if nodes() == 1 else None),
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(folder, redirects={rank: Std.ALL for rank in range(1, processes)}),
            signals_to_handle="SIGQUIT",
        )
        try:
            elastic_launch(config, sys.executable)(*sys.orig_argv[1:])
        except SignalException:
            return EXIT_INTERRUPTED
        except ChildFailedError as error:
            return _tell(error.failures, processes * nodes(), Path(folder))
        except RendezvousError:
            print(f"no connection to {config.rdzv_endpoint}, where the run's machines meet", file=sys.stderr)
            return EXIT_LOST
    return 0


class _Stop:
    """Passes Ctrl-C and SIGTERM on as SIGINT: by SIGTERM torch elastic ends the others when one has failed.

    The processes have sessions of their own, so that the terminal's Ctrl-C doesn't reach them too.
    """

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, *_: object) -> None:
        if not self.asked:
            self.asked = True
            raise SignalException("asked to stop", signal.SIGINT)
        for process in psutil.Process().children():
            process.send_signal(signal.SIGINT)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep torch elastic's own messages back."""
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _tell(failures: dict[int, ProcessFailure], processes: int, folder: Path) -> int:
    """The exit code of the process that failed of itself, whose message is shown. Raises UserError if it was killed.

    Args:
        failures: of this machine's processes, by their number in the run.
        processes: how many the run has.
        folder: of what they printed.
    """
    causes = {rank: failure for rank, failure in failures.items() if failure.exitcode != EXIT_LOST} or failures
    # One that says what to change is the cause even where nccl has killed another for its absence.
    causes = {rank: failure for rank, failure in causes.items() if failure.exitcode == EXIT_USER_ERROR} or causes
    # A mistake that all of them find is best told by the first one here, which has told it already.
    rank, failure = min(causes.items(), key=lambda item: item[1].local_rank > 0)
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        raise UserError(f"process {rank} of {processes} was killed ({name}); was there enough memory?")
    if failure.local_rank > 0 and failure.exitcode != EXIT_INTERRUPTED:
        # What it printed, then why it failed.
        logs = sorted(folder.glob(f"*/*/{failure.local_rank}/std*.log"), reverse=True)
        said = "\n".join(log.read_text(encoding="utf-8", errors="replace").strip() for log in logs)
        print(f"process {rank} of {processes}: {said.strip()}", file=sys.stderr)
    return failure.exitcode

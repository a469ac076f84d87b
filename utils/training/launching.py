"""One run as several processes on this machine: `--gpu 0,1` starts them and ends with them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from utils.base.errors import EXIT_USER_ERROR, UserError
from utils.base.processes import EXIT_LOST

_GRACE = 5.0  # seconds that the others have to end by themselves


def launch(processes: int) -> int:
    """Run this very command as `processes` processes on this machine; returns the exit code that they agree on.

    Process 0 has the terminal; of the others only an error is shown. Raises UserError when one is killed.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as files:
        outputs = [None, *(files.enter_context(open(Path(folder) / str(i), "w+")) for i in range(1, processes))]
        environment = os.environ | {
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            **share_of_cores(processes),
        }
        children = [
            subprocess.Popen(
                [sys.executable, *sys.orig_argv[1:]],
                env=environment | {"RANK": str(i), "LOCAL_RANK": str(i)},
                stdout=output,
                stderr=output,
                start_new_session=True,  # a Ctrl-C reaches this process only, which passes it on: each gets it once
            )
            for i, output in enumerate(outputs)
        ]
        with _passing_on(children):
            cause = _wait(children)
        if cause is None:
            return 0
        code = children[cause].returncode
        if code < 0:
            raise UserError(
                f"process {cause} of {processes} was killed ({signal.Signals(-code).name}); was there enough memory?"
            )
        if outputs[cause] is not None and code != 130:
            outputs[cause].seek(0)
            print(f"process {cause} of {processes}: {outputs[cause].read().strip()}", file=sys.stderr)
        return code


def share_of_cores(processes: int) -> dict[str, str]:
    """What to add to the environment of each of some processes, so that together they don't use a core twice."""
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))}


def _wait(children: list[subprocess.Popen]) -> int | None:
    """Wait for all, ending those that outlive a failed one; returns which failed of itself, None if none did."""
    failed: list[int] = []  # in the order in which they were seen to end
    deadline = float("inf")
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        failed += [i for i, child in enumerate(children) if child.poll() and i not in failed]
        if failed and deadline == float("inf"):
            deadline = time.monotonic() + _GRACE
        time.sleep(0.05)
    failed += [i for i, child in enumerate(children) if child.poll() and i not in failed]
    for child in children:
        if child.poll() is None:
            child.kill()
            child.wait()
    causes = [i for i in failed if children[i].returncode != EXIT_LOST] or failed
    # One that says what to change is the cause even where nccl has killed another for its absence.
    causes = [i for i in causes if children[i].returncode == EXIT_USER_ERROR] or causes
    # A mistake that all of them find is best told by process 0, which has told it already.
    return 0 if 0 in causes else causes[0] if causes else None


@contextlib.contextmanager
def _passing_on(children: list[subprocess.Popen]) -> Iterator[None]:
    """Pass SIGINT and SIGTERM on to the children."""

    def pass_on(number: int, frame: object) -> None:
        for child in children:
            child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

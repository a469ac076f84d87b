"""The processor's cores, for processes that run side by side."""

from __future__ import annotations

import os
import re

import psutil


def share_of_cores(processes: int) -> dict[str, str]:
    """What to add to the environment of each of some processes, so that together they don't use a core twice."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    if re.match(r"\s*0*[1-9]", said):
        return {"OMP_NUM_THREADS": said}
    # OpenMP takes anything else, 0 too, for nothing said.
    return {"OMP_NUM_THREADS": str(max(1, usable_cores() // processes))}


def usable_cores() -> int:
    """How many cores this process may use, as torch counts them: under taskset or in a SLURM job not all there are."""
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return min(cores, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else cores

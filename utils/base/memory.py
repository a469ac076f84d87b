"""How much main memory is left: of the machine, of the control groups around this process, of `ulimit -v`."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil


def available(groups: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Main memory that this process may still take, in bytes: the least of what its limits leave.

    Limits are the machine's memory, those of Linux's control groups (both versions; a batch system, a container
    or systemd sets them), and `ulimit -v`.
    """
    left = [psutil.virtual_memory().available, *_left_in_groups(groups, membership)]
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        left.append(address_space - psutil.Process().memory_info().vms)
    return max(0, min(left))


# Names of a control group's files in version 2 and version 1: its limit, what it uses, and the part of that which
# is a cache of files, which the kernel drops when the memory is needed.
_VERSION_2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))


def _left_in_groups(groups: Path, membership: Path) -> Iterator[int]:
    """What each control group around this process leaves it, in bytes; none where there are no such limits."""
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return  # not Linux
    for _, controllers, path in lines:
        if controllers == "":
            root, names = groups, _VERSION_2
        elif "memory" in controllers.split(","):
            root, names = groups / "memory", _VERSION_1
        else:
            continue
        # A limit holds for every group below. In a container the path may begin above what is to be seen of it.
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            left = _left(folder, *names)
            if left is not None:
                yield left
            if folder == root:
                break


def _left(folder: Path, limit: str, usage: str, caches: tuple[str, ...]) -> int | None:
    try:
        most = (folder / limit).read_text().strip()
        if most == "max":
            return None
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        droppable = sum(int(statistics.get(name, 0)) for name in caches)
        return int(most) - int((folder / usage).read_text()) + droppable
    except (OSError, ValueError):
        return None  # no such group here, or no limit on it


def keep_freed_memory() -> None:
    """Let the C library keep freed memory instead of returning it to the kernel after every tensor.

    A training step on a CPU frees hundreds of temporaries of 60 to 250 MB. glibc gives each back at once, and
    the kernel then clears every page again for the next one, which takes a third of the step.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library, without mallopt
        mallopt = ctypes.CDLL(None).mallopt
        m_trim_threshold, m_mmap_threshold, m_mxfast, most = -1, -3, 1, 2**31 - 1
        mallopt(m_mmap_threshold, most)
        mallopt(m_trim_threshold, most)
        mallopt(m_mxfast, 0)  # small pieces too become part of the free memory around them


def without_tcache(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process that is to train on a CPU, which takes a quarter less memory with what is added here.

    glibc gives a tensor a few bytes more than it asks for, frees these, and lets the thread keep them ("tcache") for
    small objects. So the tensor's memory is a few bytes short when the next tensor of its size could take it. The
    variable turns this off; glibc reads it only when a process starts. `utils/env.sh` sets it for the scripts.
    """
    chosen = environment.get("GLIBC_TUNABLES", "")
    if "tcache_count" in chosen:
        return dict(environment)
    return {**environment, "GLIBC_TUNABLES": ":".join(filter(None, [chosen, "glibc.malloc.tcache_count=0"]))}

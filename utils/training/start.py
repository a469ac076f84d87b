"""How a start of a run computes: an entry of "starts" in `run.json` (see `utils.training.provenance`)."""

from __future__ import annotations

import functools
import os
import platform
import shlex
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from utils.base import processes

_PACKAGES = ("torch", "numpy", "h5py", "pydantic", "tensorboard", "tqdm")


def this_start(command: list[str], device: torch.device) -> dict[str, Any]:
    """When, where and with which command, packages and code this process computes: an entry of "starts"."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "folder": os.getcwd(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})",
        "processes": processes.world_size(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "git": git_state(),
    }


@functools.cache
def git_state() -> dict[str, Any] | None:
    """Commit of this code and the files that differ from it; None where it isn't a git checkout."""
    root = Path(__file__).parents[2]
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        changed = [line[3:] for line in _git(root, "status", "--porcelain").splitlines()]
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changed), "changed": changed[:50]}


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

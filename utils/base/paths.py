"""Paths: what a config says is relative to the project's folder, what a user types to where the user stands."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the project's folder

# Checkpoints in a run folder: of the last epoch, and of the best epoch by each split.
LAST, BEST, BEST_VAL = "last.pth.tar", "best.pth.tar", "best-val.pth.tar"
CHOSEN_BY = {"test": BEST, "val": BEST_VAL}  # the split that chose an epoch -> the file of its weights


def project_path(path: str | os.PathLike) -> Path:
    """A path that stands in a config or is a default, relative to the project's folder, as one to open from here.

    Inside the current folder it is relative to that, as a user would type it; else absolute.
    """
    return _relative_to(Path.cwd(), ROOT / path)


def config_path(path: str | os.PathLike) -> str:
    """A path that a user typed, relative to the current folder, as it stands in a config: opposite of `project_path`.

    Inside the project's folder it is relative to that, so that the project can be moved; else absolute.
    """
    return str(_relative_to(ROOT, Path.cwd() / path))


def _relative_to(folder: Path, path: Path) -> Path:
    tidy = Path(os.path.normpath(path))
    if os.path.realpath(tidy) == os.path.realpath(path):  # not so where a ".." follows a symbolic link
        path = tidy
    return path.relative_to(folder) if path.is_relative_to(folder) else path

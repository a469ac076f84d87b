"""Checkpoints: written whole or not at all, read without running any code that a file may hold.

A file of ours is a dict: "format", and the fields of `Checkpoint` that its class says. Anybody else's file is weights,
in one of the wrappers of `utils.base.state_dicts`, with the names of our network or those of its authors
(`model.official`).
"""

from __future__ import annotations

import argparse
import datetime
import io
import logging
import os
import pathlib
import pickle
import pickletools
import types
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.base import released
from utils.base.atomic import atomic_path
from utils.base.errors import UserError
from utils.base.paths import BEST
from utils.base.state_dicts import find_weights, require_dense
from utils.base.text import is_web_page, reading, require_file

FORMAT = "cmbs-1"

_log = logging.getLogger(__name__)


@dataclass
class Checkpoint:
    """A network's weights, and what is known of them: of a file that isn't ours, nothing else."""

    network: dict[str, Tensor]  # the weights, a state_dict
    config: dict[str, Any] | None = None  # all sections of the config that they were trained with; None: not ours
    epoch: int | None = None  # epochs done
    metrics: dict[str, Any] = field(default_factory=dict)  # of that epoch
    localization: dict[str, Any] = field(default_factory=dict)  # how outputs become segments, by which threshold
    data: dict[str, Any] | None = None  # fingerprint of the data that they were trained on
    categories: list[str] | None = None  # names of the categories, by index
    features: dict[str, Any] | None = None  # what made the features that they were trained on (see dataset.made_with)
    training: dict[str, Any] | None = None  # all else that going on needs; in `last.pth.tar` only
    path: Path | None = None  # the file that it was read from

    @property
    def ours(self) -> bool:
        """Whether this project wrote it."""
        return self.config is not None

    def content(self) -> dict[str, Any]:
        """What its file holds."""
        return {"format": FORMAT} | {name: getattr(self, name) for name in _SAVED if getattr(self, name) is not None}

    def save(self, path: str | os.PathLike) -> None:
        """Write it: the file at `path` is replaced only once the new one is whole.

        Raises UserError when the disk is full or the folder can't be written; the older file stays.
        """
        # torch's own writer to a file hides the operating system's reason when the disk is full.
        buffer = io.BytesIO()
        torch.save(self.content(), buffer)
        with atomic_path(path) as part:
            # Not getbuffer(): a write that fails leaves its view in the traceback, and Python 3.12 crashes freeing it.
            part.write_bytes(buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike) -> Checkpoint:
        """Read a checkpoint, ours or anybody's, onto the CPU. Says in the log what else in the file is passed over.

        Args:
            path: a file, or the folder of a released network.

        Raises UserError that says what the file is instead: missing, truncated, with code in it, or no checkpoint.
        """
        path = Path(path)
        content = released.read(path) if released.is_release(path) else _read(path)
        try:
            if "format" in content and ({"config", "network"} <= content.keys() or content["format"] == FORMAT):
                return cls(**_our_fields(content), path=path)
            weights, passed = find_weights(content)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
        if passed:
            more = f" and {len(passed) - 8} more" if len(passed) > 8 else ""
            _log.info(f"{path}: only its weights are read; passed over: {', '.join(passed[:8])}{more}")
        return cls(weights, path=path)


def folder_of(path: Path) -> Path:
    """The folder where what is made of a checkpoint goes: beside a file, in a release."""
    return path if path.is_dir() else path.parent


_SAVED = tuple(part.name for part in fields(Checkpoint) if part.name != "path")
_RENAMED = {"reading": "localization"}  # of earlier versions
# What each must be; those without a default have always been there.
_KINDS = {"network": dict, "config": dict, "epoch": int, "metrics": dict}
_LATER = {"localization": dict, "data": dict, "categories": list, "features": dict, "training": dict}


def _our_fields(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a checkpoint of ours from what its file holds. Raises ValueError where one is damaged."""
    if content["format"] != FORMAT:
        raise ValueError(f"has the format {content['format']!r}, which this version doesn't know ({FORMAT})")
    named = {_RENAMED.get(key, key): value for key, value in content.items()}
    for name, kind in {**_KINDS, **{name: kind for name, kind in _LATER.items() if name in named}}.items():
        if not isinstance(named.get(name), kind):
            raise ValueError(f"is damaged: its {name!r} is not there; use another checkpoint of the run")
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in named["network"].items()):
        raise ValueError("is damaged: its 'network' is no state_dict; use another checkpoint of the run")
    if not all(isinstance(name, str) for name in named.get("categories", [])):
        raise ValueError("is damaged: its 'categories' are not names; use another checkpoint of the run")
    require_dense([named["network"], named.get("training")])
    return {name: named[name] for name in _SAVED if name in named}


def _harmless() -> list[Any]:
    """Types that a file may hold besides those that torch allows: NumPy's numbers and texts, options, paths, times."""
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    modules = ("numpy._core.multiarray", "numpy.core.multiarray")  # of NumPy 2 and 1
    kinds = np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?SU"
    # A path is of the system that it was made on, and its module has another name in some versions of Python.
    pure = {"Posix": pathlib.PurePosixPath, "Windows": pathlib.PureWindowsPath}
    paths = [(path, f"{kind}{system}Path") for system, path in pure.items() for kind in ("", "Pure")]
    return [
        *((path, f"{module}.{name}") for path, name in paths for module in ("pathlib", "pathlib._local")),
        *(datetime.datetime, datetime.date, datetime.timedelta, datetime.timezone),
        *(list, dict, int, float, str, frozenset, types.SimpleNamespace),
        (lambda *default: {}, "collections.defaultdict"),  # torch fills no other mapping than a dict
        *((scalar, f"{module}.scalar") for module in modules),
        *((array, f"{module}._reconstruct") for module in modules),
        np.ndarray,
        np.dtype,
        *{type(np.dtype(kind)) for kind in kinds},
        argparse.Namespace,
    ]


def _read(path: Path) -> dict[Any, Any]:
    """What a file holds, without running any of it."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder, not a checkpoint; name the file in it, such as {path / BEST}")
    require_file(path, "checkpoint", "`--resume` takes a file, or last for the run's own")
    with reading(path), open(path, "rb") as file:
        size, head = path.stat().st_size, file.read(64).lstrip().lower()
    try:
        _check_sums(path, head)
        # The warnings are advice on how to load unsafely.
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(_harmless()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise UserError(f"{path}: claims to be larger than memory; it is damaged, or not a checkpoint") from None
    except Exception as error:  # a damaged file makes torch's and Python's readers fail in any way
        raise UserError(f"{path}: {_why_unreadable(path, size, head, error)}") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: holds a {type(content).__name__}, not a checkpoint")
    return content


def _check_sums(path: Path, head: bytes) -> None:
    """Raise ValueError when a part of a zip, torch's format, doesn't have its checksum: torch.load doesn't look."""
    if head.startswith(b"pk"):
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        if damaged is not None:
            raise ValueError(f"checksum of {damaged}")


def _why_unreadable(path: Path, size: int, head: bytes, error: Exception) -> str:
    if not head:
        return "is empty; use another checkpoint of the run"
    if is_web_page(head):
        return "is an HTML page, not a checkpoint (Google Drive's quota page?); download it again"
    if isinstance(error, pickle.UnpicklingError) and (code := _code_in(path, error)):
        return f"holds code ({code}), which is not run; ask its author for a file with tensors only"
    if "Unsupported operand" in str(error) and head.startswith((b"pk", b"\x80")):  # else it is no pickle at all
        return (
            "is pickled in a way that torch.save doesn't use by itself; load it, and torch.save its weights once more"
        )
    if "TorchScript" in str(error):
        return "is a TorchScript archive, not a checkpoint; ask its author for the state_dict"
    if head.startswith(b"pk") and not _has_end(path):
        return f"is truncated ({size:,} bytes are there); copy or download it again, or use another checkpoint"
    if head.startswith(b"pk"):
        return f"is damaged ({_short(error)}); copy or download it again, or use another checkpoint of the run"
    return f"is not a checkpoint ({_short(error)}); name one that this project or the authors wrote"


def _has_end(path: Path) -> bool:
    """Whether a zip's end, where its table of contents is, is there: damaged or not."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True


def _short(error: Exception) -> str:
    """What an error says, without torch's advice to load the file unsafely."""
    text = (str(error).partition("WeightsUnpickler error: ")[2] or str(error)).partition("\n")[0]
    return f"{type(error).__name__}: {text[:100]}" if text else type(error).__name__


_OF_WEIGHTS = ("collections.OrderedDict", "torch.", "numpy.")  # names of what is no code


def _code_in(path: Path, error: Exception) -> str:
    """The function or class that a refused pickle asks for: from torch's message, else read off the pickle."""
    words = str(error).split("GLOBAL ")
    if len(words) > 1:
        return words[1].split()[0]
    strings: list[str] = []
    try:
        for operation, argument, _ in pickletools.genops(_pickle_of(path)):  # reads, and runs nothing
            name = ""
            if operation.name in ("GLOBAL", "INST"):
                name = argument.replace(" ", ".")
            elif operation.name == "STACK_GLOBAL":
                name = ".".join(strings[-2:])
            elif isinstance(argument, str):
                strings.append(argument)
            if name and not name.startswith(_OF_WEIGHTS):
                return name
    except Exception:  # a damaged pickle
        return ""
    return ""


def _pickle_of(path: Path) -> bytes:
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as file:
        return file.read(next(name for name in file.namelist() if name.endswith("/data.pkl")))

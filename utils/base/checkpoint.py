"""Checkpoints: written whole or not at all, read without running any code that a file may hold.

A file of ours is a dict: "format", "config" (all sections), "network" (state_dict), "epoch" (epochs done),
"metrics" (of that epoch), "localization" (how its output becomes segments, and the threshold chosen for that)
and, in `last.pth.tar` only, "training": all else that going on needs. The authors' files are a bare
state_dict (see `model.official`).
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from utils.base.atomic import atomic_path
from utils.base.errors import UserError
from utils.base.text import require_file

FORMAT = "cmbs-1"
LAST, BEST, BEST_VAL = "last.pth.tar", "best.pth.tar", "best-val.pth.tar"


def save(path: str | os.PathLike, content: dict[str, Any]) -> None:
    """Write a checkpoint of ours: the file at `path` is replaced only once the new one is whole.

    Raises UserError when the disk is full or the folder can't be written; the older file stays.
    """
    # torch's own writer to a file hides the operating system's reason when the disk is full.
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    with atomic_path(path) as part:
        # Not getbuffer(): a write that fails leaves its view in the traceback, and Python 3.12 crashes on freeing it.
        part.write_bytes(buffer.getvalue())


def load(path: str | os.PathLike) -> dict[str, Any]:
    """Read a checkpoint, ours or the authors' (tell them apart with `is_ours`), onto the CPU.

    Raises UserError that says what the file is instead: missing, truncated, with code in it, or no checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder, not a checkpoint; name the file in it, such as {path / BEST}")
    require_file(path, "checkpoint", "`--resume` takes a file, or last for the run's own")
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(64).lstrip().lower()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        _check_sums(path, head)
        with warnings.catch_warnings(action="ignore"):  # advice on how to load unsafely
            content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise UserError(f"{path}: claims to be larger than memory; it is damaged, or not a checkpoint") from None
    except Exception as error:  # a damaged file makes torch's and Python's readers fail in any way
        raise UserError(f"{path}: {_why_unreadable(path, size, head, error)}") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: holds a {type(content).__name__}, not a checkpoint")
    if is_ours(content):
        if "reading" in content:
            content["localization"] = content.pop("reading")  # its old name
        _check_ours(path, content)
    elif not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items()):
        raise UserError(f"{path}: is neither a checkpoint of this project nor one of the authors'")
    return content


def is_ours(content: dict[str, Any]) -> bool:
    """Whether `load` returned a checkpoint of this project, not one of the authors'."""
    return "format" in content


def _check_ours(path: Path, content: dict[str, Any]) -> None:
    if content["format"] != FORMAT:
        raise UserError(f"{path}: has the format {content['format']!r}, which this version doesn't know ({FORMAT})")
    wanted = {"config": dict, "network": dict, "epoch": int, "metrics": dict}
    if "localization" in content:  # older checkpoints have none
        wanted["localization"] = dict
    for key, kind in wanted.items():
        if not isinstance(content.get(key), kind):
            raise UserError(f"{path}: is damaged: its {key!r} is not there; use another checkpoint of the run")


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
    if head.startswith((b"<!doctype", b"<html")):
        return "is an HTML page, not a checkpoint (Google Drive's quota page?); download it again"
    if isinstance(error, pickle.UnpicklingError) and (code := _code_in(path, error)):
        return f"holds code ({code}), which is not run; ask its author for a file with tensors only"
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
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text[:100]}" if text else type(error).__name__


def _code_in(path: Path, error: Exception) -> str:
    """The function or class that a refused pickle asks for: from torch's message, else read off the pickle."""
    words = str(error).split("GLOBAL ")
    if len(words) > 1:
        return words[1].split()[0]
    strings: list[str] = []
    try:
        for operation, argument, _ in pickletools.genops(_pickle_of(path)):  # reads, and runs nothing
            if operation.name in ("GLOBAL", "INST"):
                return argument.replace(" ", ".")
            if operation.name == "STACK_GLOBAL":
                return ".".join(strings[-2:])
            if isinstance(argument, str):
                strings.append(argument)
    except Exception:  # a damaged pickle
        return ""
    return ""


def _pickle_of(path: Path) -> bytes:
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as file:
        return file.read(next(name for name in file.namelist() if name.endswith("/data.pkl")))

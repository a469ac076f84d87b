"""What a test of bad input starts from: a good data folder, a good run, and ways of breaking one thing of them."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from tensorboard.summary.writer import event_file_writer

import supv_main
import weak_main
from dataset import files
from utils.base.errors import EXIT_USER_ERROR
from utils.base.paths import LAST
from utils.config.settings import SUPERVISED, WEAK

MAINS = {SUPERVISED: supv_main.main, WEAK: weak_main.main}

COMMANDS = [
    "utils.benchmark", "utils.compare", "utils.config", "utils.predict", "utils.recorder", "utils.release",
    "utils.report", "utils.study",
    "dataset.check", "dataset.convert", "dataset.download", "dataset.extract", "dataset.ingest", "dataset.stats",
    "dataset.synthetic",
]  # fmt: skip


def main_of(name: str) -> Callable[..., int]:
    """The main function of `python -m NAME`, or of supv_main or weak_main."""
    module = importlib.import_module(name)
    return (module if hasattr(module, "main") else importlib.import_module(f"{name}.__main__")).main


def quick():
    """A fixture's body: a tiny network's step is quickest on one thread, and nobody looks at a report's figures."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.report.page.write", lambda folder: None)
        # TensorBoard reads a folder's files by name. Two of one second differ in a count of this process's files, and
        # here, where one process makes many, the ninth would come after the tenth.
        patch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(10**6))
        yield
    torch.set_num_threads(threads)


class World:
    """A folder of its own with good `data`, a good `config` and a run of one epoch, to break something of."""

    def __init__(self, folder: Path, data: Path, config: dict[str, Any], runs: dict[str, Path]) -> None:
        self.folder, self.data, self.run = folder, folder / "data", folder / "run"
        self.config, self.runs, self.name = config, runs, SUPERVISED
        shutil.copytree(data, self.data)
        self.config["data"]["root"] = str(self.data)
        self.config["train"]["snapshot_pref"] = str(self.run)

    def with_run(self, name: str = SUPERVISED) -> Path:
        """Put a finished run of one epoch there; returns its folder."""
        shutil.copytree(self.runs[name], self.run, dirs_exist_ok=True)
        return self.run

    def path(self, name: str = "config.json") -> Path:
        return self.folder / name

    def arguments(self, *flags: str) -> list[str]:
        """A command line with the config as it stands."""
        if not self.path().exists():
            self.path().write_text(json.dumps(self.config))
        device = [] if any(flag.startswith("--gpu") for flag in flags) else ["--gpu", "cpu"]
        return ["--config", str(self.path()), *device, *flags]

    def start(self, *flags: str) -> int:
        return MAINS[self.name](self.arguments(*flags))

    def contents(self) -> dict[str, bytes | None]:
        """Every file and folder here, with its bytes."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes() if path.is_file() else None
            for path in sorted(self.folder.rglob("*"))
        }


def set_key(config: dict[str, Any], key: str, value: Any) -> None:
    """Set "section.key" of a config."""
    *sections, last = key.split(".")
    for section in sections:
        config = config.setdefault(section, {})
    config[last] = value


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace the array of an HDF5 file by what `change` makes of it."""
    with h5py.File(path, "r") as file:
        array = file[files.key_of(path.name)][()]
    with h5py.File(path, "w") as file:
        file[files.key_of(path.name)] = change(array)


def recheck(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the content of a checkpoint; what `change` returns, if anything, replaces it."""
    content = torch.load(path, weights_only=True)
    torch.save(change(content) or content, path)


def flip(path: Path, fraction: float) -> None:
    """Change a byte of a file, at this fraction of its length."""
    content = bytearray(path.read_bytes())
    content[int(fraction * len(content))] ^= 0x55
    path.write_bytes(content)


def cut(path: Path, fraction: float) -> None:
    """Keep only this fraction of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])


class Code:
    """Pickled, this writes a file when somebody loads it."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.canary}",)


def last(world: World) -> Path:
    return world.with_run(world.name) / LAST


def refused(capsys: pytest.CaptureFixture, main: Callable[..., int], *arguments: object) -> str:
    """The one line in which a command refuses these arguments."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == EXIT_USER_ERROR
    return one_line(capsys)


def one_line(capture: pytest.CaptureFixture) -> str:
    """What a command said on stderr, which is the one line of an error."""
    error = capture.readouterr().err
    assert error.startswith("error: "), error
    assert error.endswith("\n"), error
    assert error.count("\n") == 1, error
    return error

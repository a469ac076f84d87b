"""The run folder: resolved config, log, one JSON line an epoch, TensorBoard events."""

from __future__ import annotations

import fcntl
import json
import logging
import sys
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from utils.atomic import make_folder, write_error, write_text
from utils.checkpoint import BEST, LAST
from utils.config import Config
from utils.errors import UserError

METRICS = "metrics.jsonl"

_log = logging.getLogger(__name__)


def log_to_terminal() -> None:
    """Send the project's messages to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)


class Recorder:
    """Owns a run folder while a run writes to it.

    Args:
        folder: the run folder; made if it isn't there.
        config: written as `config.json`.
        epochs_done: None starts a new run and refuses a folder that holds one; a number goes on after that epoch
            and drops what a killed run wrote about later ones.

    Raises:
        UserError: the folder holds a run already, another process writes to it, or it can't be written.
    """

    def __init__(self, folder: Path, config: Config, epochs_done: int | None = None) -> None:
        self.folder = make_folder(folder)
        self._lock = _lock(self.folder)
        if epochs_done is None and any((self.folder / name).exists() for name in (METRICS, LAST, BEST)):
            raise UserError(
                f"{folder}: holds a run already ({_epochs(self.folder / METRICS)} epochs); go on with it by "
                f"--resume last, or choose another folder with --snapshot_pref"
            )
        write_text(self.folder / "config.json", json.dumps(config.model_dump(), indent=2) + "\n")
        self._drop_after(epochs_done or 0)
        self._writer = SummaryWriter(str(self.folder))
        self._handler = logging.FileHandler(self.folder / "log.txt", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger().addHandler(self._handler)

    def epoch(self, metrics: dict[str, Any]) -> None:
        """Append an epoch's line to `metrics.jsonl` and its numbers to TensorBoard."""
        try:
            with open(self.folder / METRICS, "a", encoding="utf-8") as file:
                file.write(json.dumps(metrics) + "\n")
        except OSError as error:
            raise write_error(self.folder / METRICS, error) from error
        for name, value in _flat(metrics).items():
            self._writer.add_scalar(f"epoch/{name}", value, metrics["epoch"])

    def step(self, values: dict[str, float], step: int) -> None:
        """Add a training step's numbers to TensorBoard."""
        for name, value in values.items():
            self._writer.add_scalar(f"step/{name}", value, step)

    def close(self) -> None:
        """Flush everything and let go of the folder."""
        self._writer.close()
        logging.getLogger().removeHandler(self._handler)
        self._handler.close()
        self._lock.close()

    def _drop_after(self, epochs_done: int) -> None:
        path = self.folder / METRICS
        if path.exists():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _epoch_of(line) <= epochs_done]
            write_text(path, "".join(line + "\n" for line in kept))


def _lock(folder: Path) -> Any:
    """Hold the folder for this process; the operating system lets go when the process ends, however it ends."""
    try:
        file = open(folder / ".lock", "w")  # noqa: SIM115 - held open for as long as the run lasts
    except OSError as error:
        raise write_error(folder / ".lock", error) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise UserError(
            f"{folder}: another process is writing to this run folder; wait for it, or choose another folder with "
            f"--snapshot_pref"
        ) from None
    return file


def _epochs(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


def _epoch_of(line: str) -> float:
    try:
        return json.loads(line)["epoch"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line that a kill cut short


def _flat(metrics: dict[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for key, value in metrics.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and key != "epoch":
            flat[prefix + key] = float(value)
    return flat

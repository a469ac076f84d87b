"""The run folder: resolved config, how the run was made, log, one JSON line an epoch, TensorBoard events."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from utils.base.atomic import make_folder, require_no_obstacle, write_text, writing
from utils.base.errors import UserError, write_error
from utils.base.locks import hold
from utils.base.nested import flat
from utils.base.output import MessageFormatter, printable
from utils.base.paths import CHOSEN_BY, LAST
from utils.config.settings import Config
from utils.evaluation.protocols import EPOCHS, Chosen, read_epochs
from utils.training import provenance, result

_LOG = "log.txt"

_log = logging.getLogger(__name__)


class _LogFile(logging.FileHandler):
    """A log file that stops the run when it can't be written, where logging would print a traceback and go on."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        raise write_error(self.baseFilename, error) if isinstance(error, OSError) else error


class Recorder:
    """Owns a run folder while a run writes to it.

    Making one takes hold of the folder and checks that the run may be recorded there; `begin` writes.

    Args:
        folder: the run folder; made if it isn't there.
        data: fingerprint of the run's data (see `dataset.fingerprint`).
        new: whether the run is new, and must not find another one there, or goes on.

    Raises:
        UserError: the folder holds a run already, another process writes to it, or it can't be written.
    """

    def __init__(self, folder: Path, data: dict[str, Any], new: bool) -> None:
        try:
            str(folder).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{folder}: its name isn't UTF-8, and TensorBoard can't write there; choose another one with "
                f"--snapshot_pref"
            ) from None
        self.folder, self.data = make_folder(folder), data
        for name in (_LOG, EPOCHS):
            require_no_obstacle(self.folder / name)
        self._lock = hold(
            self.folder / ".lock",
            f"{self.folder}: another process is writing to this run folder; wait for it, or choose another folder with "
            f"--snapshot_pref",
        )
        self._writer: SummaryWriter | None = None
        self._start: dict[str, Any] = {}
        try:
            self._earlier_starts = [] if new else provenance.read(self.folder).get("starts", [])
            if new:
                self._check_free()
        except BaseException:
            self._lock.release()
            raise
        # What is logged before `begin` belongs in the log too.
        self._handler: logging.Handler = MemoryHandler(capacity=1000, flushLevel=logging.CRITICAL)
        logging.getLogger().addHandler(self._handler)

    def begin(self, config: Config, start: dict[str, Any], epochs_done: int, steps_done: int) -> None:
        """Write `config.json` and `run.json`; drop what a killed run wrote about later epochs and steps.

        Args:
            config: as resolved.
            start: how this process computes (see `utils.training.start`).
            epochs_done, steps_done: where the run goes on, both counted from its first; 0 for a new one.
        """
        kept = [epoch for epoch in read_epochs(self.folder) if epoch["epoch"] <= epochs_done] if epochs_done else []
        self._start = start
        with writing(self.folder):
            (self.folder / result.FILE).unlink(missing_ok=True)  # of a run that was finished, and isn't any more
        write_text(self.folder / "config.json", json.dumps(config.model_dump(), indent=2) + "\n")
        made_with = {"data": self.data, "starts": [*self._earlier_starts, start]}
        write_text(self.folder / provenance.FILE, json.dumps(made_with, indent=2) + "\n")
        if (self.folder / EPOCHS).exists():
            write_text(self.folder / EPOCHS, "".join(json.dumps(epoch) + "\n" for epoch in kept))
        buffered = self._handler
        with writing(self.folder):
            # Everything in TensorBoard stands at its training step, so that one number says what to purge.
            self._writer = SummaryWriter(str(self.folder), purge_step=steps_done + 1)
            self._handler = _LogFile(self.folder / _LOG, encoding="utf-8")
        self._handler.setFormatter(MessageFormatter("%(asctime)s %(message)s"))
        logging.getLogger().addHandler(self._handler)
        logging.getLogger().removeHandler(buffered)
        buffered.setTarget(self._handler)
        buffered.close()

    def epoch(self, metrics: dict[str, Any], step: int) -> None:
        """Append an epoch's line to `metrics.jsonl` and its numbers to TensorBoard; `step` was its last."""
        path = self.folder / EPOCHS
        with writing(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
            file.flush()
            os.fsync(file.fileno())
        numbers = {name: value for name, value in flat(metrics, "/").items() if isinstance(value, int | float)}
        del numbers["epoch"]
        self.step(numbers, step, group="epoch")

    def step(self, values: dict[str, float], step: int, group: str = "step") -> None:
        """Add numbers of a training step (counted from the run's first) to TensorBoard."""
        with writing(self.folder):
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)

    def histograms(self, values: dict[str, Tensor], step: int) -> None:
        """Add the distributions of some numbers after a training step (counted from the run's first) to TensorBoard."""
        with writing(self.folder):
            for name, numbers in values.items():
                self._writer.add_histogram(name, numbers, step)

    def outcome(self, config: Config, best: dict[str, Chosen], parameters: int, steps_done: int) -> None:
        """Write a finished run's `result.json`, and its settings and accuracies to TensorBoard's HParams.

        Args:
            best: the epoch that each choosing split chose.
            parameters: how many the network has.
        """
        result.write(self.folder, config, self.data, self._start, best, parameters)
        accuracies = {"authors_protocol/test_accuracy": best["test"]["test_accuracy"]}
        if "val" in best:
            accuracies |= {
                f"validation_protocol/{split}_accuracy": best["val"][f"{split}_accuracy"] for split in ("test", "val")
            }
        settings = {name: _hparam(value) for name, value in flat(config.model_dump()).items()}
        with writing(self.folder):
            # One step past the last: a run that goes on purges it, and has its own to tell.
            self._writer.add_hparams(settings, accuracies, run_name=".", global_step=steps_done + 1)

    def flush(self) -> None:
        """Hand everything recorded so far to the operating system."""
        with writing(self.folder):
            self._writer.flush()

    def close(self) -> None:
        """Flush everything and let go of the folder."""
        logging.getLogger().removeHandler(self._handler)
        try:
            with writing(self.folder):
                if self._writer is not None:
                    self._writer.close()
                self._handler.close()
        finally:
            self._lock.release()

    def _check_free(self) -> None:
        if (self.folder / LAST).exists():
            raise UserError(
                f"{self.folder}: holds a run already ({len(read_epochs(self.folder))} epochs); go on with it by "
                f"--resume last, or choose another folder with --snapshot_pref"
            )
        for name in (*CHOSEN_BY.values(), result.FILE):
            if (self.folder / name).exists():
                raise UserError(
                    f"{self.folder / name}: would be overwritten by a new run; move it away, or choose another folder "
                    f"with --snapshot_pref"
                )


class SilentRecorder:
    """Records nothing: for all processes of a run but the first."""

    data: dict[str, Any] | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def _hparam(value: Any) -> bool | str | float:
    """A setting as HParams can show it."""
    if isinstance(value, str):
        return printable(value)
    return value if isinstance(value, bool | int | float) else json.dumps(value)

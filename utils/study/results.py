"""What the finished runs of a study left, and whether it is what the study asks for."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dataset import files
from utils.base.errors import UserError
from utils.base.paths import CHOSEN_BY, LAST
from utils.base.text import reading
from utils.config import files as config_files
from utils.config.settings import Config
from utils.evaluation import stored
from utils.evaluation.clip_scores import ACCURACY
from utils.evaluation.protocols import CLIP_ACCURACIES, NAMING_AND_TIMING, PROTOCOLS, Chosen, best_epochs, read_epochs
from utils.evaluation.results import METRICS, read_metrics
from utils.study.job_record import read_record
from utils.study.runs import Run
from utils.training import provenance, result

if TYPE_CHECKING:
    from utils.base.checkpoint import Checkpoint

_CLOCKS = 60  # seconds by which the clocks of machines with one disk may differ


class Result(NamedTuple):
    """What a finished run leaves for the table; one that only evaluates has the epochs that its training chose."""

    authors: float  # test accuracy in percent, best epoch on the test split
    validation: float | None  # test accuracy in percent at the best epoch on the val split; None: there is no val split
    seconds: float | None  # mean of an epoch, evaluation included; None: nothing was trained


class Trained(NamedTuple):
    """What the folder of a run that trains holds."""

    config: Config | None  # None: nothing was begun there
    epochs: int  # done, and saved
    best: dict[str, Chosen]  # split -> the best of these epochs by it, with all that is known of it
    weights_fit: bool  # those of the best epochs are theirs; else a kill came in between, and going on mends it
    seconds: float | None  # mean of an epoch
    data: dict[str, Any] | None  # fingerprint; None: an early version didn't note it
    generated: bool  # its `result.json` says that its clips were generated
    parameters: int | None  # of the network; None: not noted, by an early version or before the last epoch


class Clips(NamedTuple):
    """The accuracy of each test clip, and the fingerprint of the files that say which clips these are."""

    accuracies: list[float]  # in percent
    data: dict[str, Any]  # part of `dataset.fingerprint`'s: labels and order of the test split


def trained(folder: Path) -> Trained:
    """What a run has left: by its `result.json`, or by its other files where it has none, or none yet."""
    whole = result.read(folder)
    if whole is not None:
        config = config_files.build_stored(whole.config, source=str(folder / result.FILE))
        chosen = whole.protocols.model_dump(exclude_none=True)
        best = {PROTOCOLS[key].split: epoch for key, epoch in chosen.items()}
        return Trained(
            config, config.train.n_epoch, best, True, whole.seconds, whole.data, whole.generated, whole.parameters
        )
    path, last = folder / "config.json", folder / LAST
    config = config_files.read_stored(path) if path.exists() else None
    saved = _header_of(last) if last.exists() else None  # None: deleted, by somebody who won't go on
    # A kill may leave a line of an epoch that was never saved.
    epochs = [epoch for epoch in read_epochs(folder) if saved is None or epoch["epoch"] <= saved.epoch]
    best = best_epochs(epochs)
    weights = {folder / CHOSEN_BY[split]: chosen["epoch"] for split, chosen in best.items()}
    fit = all(_header_of(path).epoch == epoch for path, epoch in weights.items() if path.exists())
    data = provenance.read(folder).get("data") or (saved and saved.data)
    done = epochs[-1]["epoch"] if epochs else 0
    return Trained(config, done, best, fit, result.seconds_per_epoch(epochs), data, generated=False, parameters=None)


def result_of(run: Run) -> Result | None:
    """The numbers of a finished run; None while it isn't, or where the last job that had it didn't end well.

    Raises UserError where its folder holds another run, or can't be read.
    """
    with reading(run.folder):
        if run.folder.exists() and not run.folder.is_dir():
            raise UserError(f"{run.folder}: is a file where the folder of a run should be; move it away")
        found = _trained(run) if run.source is None else _evaluated(run)
    record = read_record(run)
    return found if record is None or record.code == 0 else None


def evaluation_folder(run: Run, split: str) -> Path:
    """Where a run that only evaluates leaves its evaluation of the weights that a split chose."""
    return run.folder / CHOSEN_BY[split].removesuffix(".pth.tar")


def check_settings(run: Run) -> Trained:
    """What a run has left. Raises UserError where its folder holds a run with other settings than the study has."""
    left = trained(run.folder)
    theirs = left.config
    if theirs is None:
        return left
    differing = config_files.difference(run.config, theirs, may_differ=["no", "going on"])
    if theirs.train.n_epoch < run.config.train.n_epoch:
        differing = [line for line in differing if not line.startswith("train.n_epoch")]
    if differing:
        raise UserError(
            f"{run.folder}: was run with other settings than the study has: {'; '.join(differing)}; remove the folder, "
            f"or give the study another output"
        )
    return left


def _trained(run: Run) -> Result | None:
    left = check_settings(run)
    if "test" not in left.best or left.epochs < run.config.train.n_epoch or not left.weights_fit:
        return None
    by_val = left.best.get("val")
    return Result(left.best["test"]["test_accuracy"], by_val and by_val["test_accuracy"], left.seconds)


def _evaluated(run: Run) -> Result | None:
    if _trained(run.source) is None:
        return None
    accuracies = {split: evaluated_accuracy(run, split) for split in trained(run.source.folder).best}
    if None in accuracies.values():
        return None
    return Result(accuracies["test"], accuracies.get("val"), seconds=None)


def on_generated_clips(run: Run) -> bool:
    """Whether a run says in its `result.json` that its clips were generated."""
    return trained((run.source or run).folder).generated


def parameters_of(run: Run) -> int | None:
    """How many parameters the network of a finished run has; None where it isn't noted."""
    return trained((run.source or run).folder).parameters


def clips_of(run: Run, split: str) -> Clips | None:
    """The accuracies of the test clips of a finished run, with the weights that a split chose; None if not recorded.

    A run that trained has them in `result.json`, one that only evaluates in its evaluation.
    """
    left = trained((run.source or run).folder)
    if split not in left.best or left.data is None:
        return None
    if run.source is None:
        accuracies = left.best[split].get(CLIP_ACCURACIES)
    else:
        accuracies = stored.read(evaluation_folder(run, split)).clip_scores()[ACCURACY].tolist()
    data = {name: left.data[name] for name in (files.LABELS, files.order_file("test")) if name in left.data}
    return accuracies and Clips(accuracies, data)


def naming_and_timing_of(run: Run, split: str) -> dict[str, float | None]:
    """The other scores of a finished run on the test split, with the weights that a split chose.

    By the names of `utils.evaluation.clip_scores`; {} if not recorded.
    """
    if run.source is not None:
        path = evaluation_folder(run, split)
        return (stored.read(path).metrics.get("naming_and_timing") if (path / METRICS).exists() else None) or {}
    return trained(run.folder).best.get(split, {}).get(NAMING_AND_TIMING) or {}


def evaluated_accuracy(run: Run, split: str) -> float | None:
    """The accuracy that was evaluated with the weights that a split chose; None where they have yet to be evaluated.

    An evaluation counts that was made after the weights and after its settings were written, of the epoch, by the
    rule and on the split that are asked for.
    """
    folder, weights = evaluation_folder(run, split), run.source.folder / CHOSEN_BY[split]
    if not all(path.exists() for path in (folder / METRICS, weights, run.settings)):
        return None
    newest = max(weights, run.settings, key=lambda path: path.stat().st_mtime)
    if newest.stat().st_mtime > time.time() + _CLOCKS:
        raise UserError(
            f"{newest}: was written in the future, so nothing can be younger; set its time (touch {newest})"
        )
    if (folder / METRICS).stat().st_mtime < newest.stat().st_mtime:
        return None
    settings = config_files.read_stored(run.settings)
    if config_files.difference(run.config, settings, may_differ=["no", "going on"]):
        return None
    metrics, asked = read_metrics(folder), run.config.eval
    accuracy, threshold = metrics.get("accuracy"), metrics.get("threshold")
    is_asked_for = (
        metrics.get("split") == asked.split
        and metrics.get("epoch") == trained(run.source.folder).best[split]["epoch"]
        and metrics.get("localize", "authors") == asked.localize
        and asked.threshold in (None, threshold)
        and Path(str(metrics.get("checkpoint"))).parts[-3:] == weights.parts[-3:]  # the study may have been moved
    )
    return accuracy if is_asked_for and isinstance(accuracy, float) and math.isfinite(accuracy) else None


def _header_of(path: Path) -> Checkpoint:
    """A checkpoint of ours without what takes memory. Raises UserError for any other file."""
    stat = path.stat()
    return _read_header(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=1000)
def _read_header(path: Path, *_version: int) -> Checkpoint:
    from utils.base.checkpoint import Checkpoint  # here: torch takes seconds, and a finished run's result needs none

    checkpoint = Checkpoint.load(path)
    if not checkpoint.ours:
        raise UserError(f"{path}: is not a checkpoint of a run of this project; move it away")
    return dataclasses.replace(checkpoint, network={}, training=None)

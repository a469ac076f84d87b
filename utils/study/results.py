"""What the finished runs of a study left, and whether it is what the study asks for."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dataset import files, fingerprint
from utils.base.checkpoint import BEST, BEST_VAL, LAST, Checkpoint
from utils.base.errors import UserError
from utils.config import files as config_files
from utils.config.settings import Config
from utils.evaluation import stored
from utils.evaluation.clip_scores import ACCURACY
from utils.evaluation.protocols import APART, CLIPS, Chosen, best_epochs, read_epochs
from utils.evaluation.results import METRICS, read_metrics
from utils.study.job_record import read_record
from utils.study.runs import Run
from utils.training import provenance, result

# The weights of the epoch that a split chose: "test" by the authors' protocol, "val" by the validation protocol.
WEIGHTS = {"test": BEST, "val": BEST_VAL}
_CLOCKS = 60  # seconds by which the clocks of machines with one disk may differ


class Result(NamedTuple):
    """What a finished run leaves for the table; one that only evaluates has the epochs that its training chose."""

    authors: float  # test accuracy in percent, best epoch on the test split
    validation: float | None  # test accuracy in percent at the best epoch on the val split; None: there is no val split
    seconds: float | None  # mean of an epoch, evaluation included; None: nothing was trained


class Clips(NamedTuple):
    """The accuracy of each test clip, and the fingerprint of the files that say which clips these are."""

    accuracies: list[float]  # in percent
    data: dict[str, Any]  # part of `dataset.fingerprint`'s: labels and order of the test split


def result_of(run: Run) -> Result | None:
    """The numbers of a finished run; None while it isn't, or where the last job that had it didn't end well.

    Raises UserError where its folder holds another run, or can't be read.
    """
    with readable(run.folder):
        if run.folder.exists() and not run.folder.is_dir():
            raise UserError(f"{run.folder}: is a file where the folder of a run should be; move it away")
        found = _trained(run) if run.source is None else _evaluated(run)
    record = read_record(run)
    return found if record is None or record.code == 0 else None


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses to be read within the block into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be read ({error.strerror})") from error


def evaluation_folder(run: Run, split: str) -> Path:
    """Where a run that only evaluates leaves its evaluation of the weights that a split chose."""
    return run.folder / WEIGHTS[split].removesuffix(".pth.tar")


def check_settings(run: Run) -> None:
    """Raise UserError where a run's folder holds a run with other settings than the study has."""
    theirs = _stored_config(run.folder)
    if theirs is None:
        return
    differing = config_files.difference(run.config, theirs, may_differ=["no", "going on"])
    if theirs.train.n_epoch < run.config.train.n_epoch:
        differing = [line for line in differing if not line.startswith("train.n_epoch")]
    if differing:
        raise UserError(
            f"{run.folder}: was run with other settings than the study has: {'; '.join(differing)}; remove the folder, "
            f"or give the study another output"
        )


def _stored_config(folder: Path) -> Config | None:
    """The config of the run in a folder; None where there is none."""
    path, whole = folder / "config.json", result.read(folder)
    if whole is not None:
        return config_files.build_stored(whole.config, source=str(folder / result.FILE))
    return config_files.build_stored(config_files.read_json(path), source=str(path)) if path.exists() else None


def check_same_data(runs: list[Run]) -> None:
    """Raise UserError where the seeds of a row were trained on different data, or on other data than are there now."""
    of_row: dict[str, tuple[Run, dict[str, Any]]] = {}
    fingerprint_of = functools.cache(fingerprint.fingerprint)
    for run in runs:
        with readable(run.folder):
            made_on = _trained_on(run.folder) if run.source is None else None
        if made_on is None:
            continue
        root, label_regime = run.config.data.folder, run.config.label_regime
        made_on = fingerprint.of_files_read(made_on, label_regime)
        first, of_first = of_row.setdefault(run.name, (run, made_on))
        now = fingerprint_of(root, label_regime)
        for other, data in ((f"what {root} holds now", now or made_on), (str(first.folder), of_first)):
            if differing := fingerprint.differences(made_on, data):
                what, here, there = differing[0]
                raise UserError(
                    f"{run.folder}: was trained on other data than {other}: {what} was {here}, not {there}; put the "
                    f"data back, or remove the folder so that the study runs it anew"
                )


def _trained_on(folder: Path) -> dict[str, Any] | None:
    """The fingerprint of a run's data; None where there is no run, or one of an early version that didn't note it."""
    last, whole = folder / LAST, result.read(folder)
    if whole is not None:
        return whole.data
    return provenance.read(folder).get("data") or (_header_of(last).data if last.exists() else None)


def _trained(run: Run) -> Result | None:
    check_settings(run)
    whole = result.read(run.folder)
    if whole is not None:
        if whole.config["train"]["n_epoch"] < run.config.train.n_epoch:
            return None
        authors, validation = whole.protocols.authors, whole.protocols.validation
        return Result(authors.test_accuracy, validation and validation.test_accuracy, whole.seconds)
    epochs = _saved_epochs(run.folder)
    best = best_epochs(epochs)
    if "test" not in best or epochs[-1]["epoch"] < run.config.train.n_epoch:
        return None
    for split, chosen in best.items():
        weights = run.folder / WEIGHTS[split]
        if weights.exists() and _header_of(weights).epoch != chosen["epoch"]:
            return None  # a kill came between the last epoch and its weights: the run mends that when it goes on
    return Result(
        authors=best["test"]["test_accuracy"],
        validation=best["val"]["test_accuracy"] if "val" in best else None,
        seconds=result.seconds_per_epoch(epochs),
    )


def _evaluated(run: Run) -> Result | None:
    if _trained(run.source) is None:
        return None
    accuracies = {split: evaluated_accuracy(run, split) for split in chosen_epochs(run.source)}
    if None in accuracies.values():
        return None
    return Result(accuracies["test"], accuracies.get("val"), seconds=None)


def chosen_epochs(run: Run) -> dict[str, Chosen]:
    """The best of a trained run's epochs, by the split that chose it."""
    whole = result.read(run.folder)
    return best_epochs(_saved_epochs(run.folder)) if whole is None else whole.protocols.by_split()


def on_generated_clips(run: Run) -> bool:
    """Whether a run says in its `result.json` that its clips were generated."""
    whole = result.read((run.source or run).folder)
    return whole is not None and whole.generated


def clips_of(run: Run, split: str) -> Clips | None:
    """The accuracies of the test clips of a finished run, with the weights that a split chose; None if not recorded.

    A run that trained has them in `result.json`, one that only evaluates in its evaluation.
    """
    trained = run.source or run
    whole = result.read(trained.folder)
    if whole is None or split not in (chosen := whole.protocols.by_split()):
        return None
    if run.source is None:
        accuracies = chosen[split].get(CLIPS)
    else:
        accuracies = stored.read(evaluation_folder(run, split)).clip_scores()[ACCURACY].tolist()
    data = {name: whole.data[name] for name in (files.LABELS, files.order_file("test")) if name in whole.data}
    return accuracies and Clips(accuracies, data)


def naming_and_timing_of(run: Run, split: str) -> dict[str, float | None]:
    """The other scores of a finished run on the test split, with the weights that a split chose.

    By the names of `utils.evaluation.clip_scores`; {} if not recorded.
    """
    if run.source is not None:
        path = evaluation_folder(run, split)
        return (stored.read(path).metrics.get("naming_and_timing") if (path / METRICS).exists() else None) or {}
    whole = result.read(run.folder)
    return (whole is not None and whole.protocols.by_split().get(split, {}).get(APART)) or {}


def evaluated_accuracy(run: Run, split: str) -> float | None:
    """The accuracy that was evaluated with the weights that a split chose; None where they have yet to be evaluated.

    An evaluation counts that was made after the weights and after its settings were written, of the epoch, by the
    rule and on the split that are asked for.
    """
    folder, weights = evaluation_folder(run, split), run.source.folder / WEIGHTS[split]
    if not all(path.exists() for path in (folder / METRICS, weights, run.settings)):
        return None
    newest = max(weights, run.settings, key=lambda path: path.stat().st_mtime)
    if newest.stat().st_mtime > time.time() + _CLOCKS:
        raise UserError(
            f"{newest}: was written in the future, so nothing can be younger; set its time (touch {newest})"
        )
    if (folder / METRICS).stat().st_mtime < newest.stat().st_mtime:
        return None
    settings = config_files.build_stored(config_files.read_json(run.settings), source=str(run.settings))
    if config_files.difference(run.config, settings, may_differ=["no", "going on"]):
        return None
    metrics, asked = read_metrics(folder), run.config.eval
    accuracy, threshold = metrics.get("accuracy"), metrics.get("threshold")
    is_asked_for = (
        metrics.get("split") == asked.split
        and metrics.get("epoch") == chosen_epochs(run.source)[split]["epoch"]
        and metrics.get("localize", "authors") == asked.localize
        and asked.threshold in (None, threshold)
        and Path(str(metrics.get("checkpoint"))).parts[-3:] == weights.parts[-3:]  # the study may have been moved
    )
    return accuracy if is_asked_for and isinstance(accuracy, float) and math.isfinite(accuracy) else None


def _saved_epochs(folder: Path) -> list[dict[str, Any]]:
    """The epochs of a run that `last.pth.tar` holds: a kill may leave a line of one that was never saved."""
    last = folder / LAST
    saved = _header_of(last).epoch if last.exists() else None  # None: deleted, by somebody who won't go on
    return [epoch for epoch in read_epochs(folder) if saved is None or epoch["epoch"] <= saved]


class _Header(NamedTuple):
    """What a study needs of a checkpoint."""

    epoch: int
    data: dict[str, Any] | None


def _header_of(path: Path) -> _Header:
    """The header of a checkpoint of ours. Raises UserError for any other file."""
    stat = path.stat()
    return _read_header(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=1000)
def _read_header(path: Path, *_version: int) -> _Header:
    checkpoint = Checkpoint.load(path)
    if not checkpoint.ours:
        raise UserError(f"{path}: is not a checkpoint of a run of this project; move it away")
    return _Header(checkpoint.epoch, checkpoint.data)

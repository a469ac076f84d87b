"""Going on with a run, or starting one from weights: what the checkpoint that --resume names allows."""

from __future__ import annotations

import logging
from typing import Any

from dataset import fingerprint
from utils.base.checkpoint import Checkpoint
from utils.base.errors import UserError
from utils.base.paths import LAST, config_path
from utils.config import files as config_files
from utils.config.command_line import Options
from utils.config.settings import Config
from utils.evaluation.weights import config_of
from utils.training import provenance
from utils.training.state import Position

_log = logging.getLogger(__name__)


def config_to_go_on(config: Config, options: Options, checkpoint: Checkpoint) -> Config:
    """The config of a run that goes on from a checkpoint: in its folder. Raises UserError for one that can't."""
    path, folder = checkpoint.path, checkpoint.path.parent
    differing = config_files.difference(config, config_of(checkpoint), may_differ=["no"])
    if differing:
        raise UserError(
            f"{path}: was trained with other settings, so going on would be another run: {'; '.join(differing)}; "
            f"use its own ({folder / 'config.json'}), or start a new run from its weights"
        )
    if "train.snapshot_pref" in options.named and config.train.folder.resolve() != folder.resolve():
        raise UserError(
            f"--resume {path} goes on in its own folder, but --snapshot_pref names {config.train.folder}; leave one out"
        )
    if path.name != LAST and (folder / LAST).exists():
        raise UserError(
            f"{path}: going on from it would overwrite {folder / LAST}; go on from that one "
            f"(--resume last), or copy this one to a folder of its own"
        )
    return config.model_copy(update={"train": config.train.model_copy(update={"snapshot_pref": config_path(folder)})})


def check_same_data(data: dict[str, Any], checkpoint: Checkpoint, label_regime: str | None) -> None:
    """Raise UserError where a run that is to go on was trained on other data.

    What they were stands in its checkpoint; in that of an earlier version it doesn't, but in the folder's run.json.

    Args:
        data: the fingerprint of the data that there are now.
        label_regime: of the run: files that it doesn't read may have come, gone or changed.
    """
    folder = checkpoint.path.parent
    before = checkpoint.data or provenance.read(folder).get("data", data)
    before = fingerprint.of_files_read(before, label_regime)
    differing = fingerprint.differences(data, before)
    if differing:
        what, here, there = differing[0]
        raise UserError(
            f"{folder}: the run was trained on other data, so going on would be another run: {what} is "
            f"{here}, was {there}; put the data back, or start a new run from its weights"
        )
    for name in fingerprint.written_since(data, before):
        _log.info(f"{name} was written or copied since the run began; its size and samples of it are as they were")


def check_goes_on(position: Position, config: Config, checkpoint: Checkpoint) -> None:
    """Raise UserError where a run that stands at `position` can't do what the config asks for."""
    epochs, wanted = position.epoch, config.train.n_epoch
    if epochs > wanted or (epochs == wanted and position.step):
        raise UserError(
            f"{checkpoint.path}: is at {position}, and n_epoch is {wanted}; ask for more with --n_epoch, or "
            f"evaluate it with --evaluate"
        )
    if epochs == wanted and not position.best:
        raise UserError(
            f"{checkpoint.path}: has done {epochs} epochs, none of them evaluated (train.eval_freq is "
            f"{config.train.eval_freq}); ask for more epochs with --n_epoch"
        )

"""A training, from its config to the best checkpoint."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from torch import nn

from dataset import files, made_with
from dataset.ave import AVEDataset
from dataset.check.folder import require_trainable
from dataset.fingerprint import fingerprint
from dataset.labels import category_names
from dataset.loading import Batches
from dataset.official import fewer_clips
from model.localization import Localization
from utils.base import processes
from utils.base.checkpoint import Checkpoint
from utils.base.devices import dtype_of
from utils.base.paths import BEST
from utils.config.command_line import Options
from utils.config.settings import Config
from utils.evaluation import protocols
from utils.evaluation.run import MakeDataset
from utils.evaluation.splits import batches_of, check_sizes
from utils.evaluation.threshold import check_localization
from utils.evaluation.weights import load_weights, named_checkpoint
from utils.training.loop import fit
from utils.training.randomness import seed_process
from utils.training.record import Recorder, SilentRecorder
from utils.training.resuming import check_goes_on, check_same_data, config_to_go_on
from utils.training.start import this_start
from utils.training.state import Training

_log = logging.getLogger(__name__)


def train(
    network: nn.Module,
    loss: nn.Module,
    localization: Localization,
    make_dataset: MakeDataset,
    config: Config,
    options: Options,
) -> tuple[Path, dict[str, Batches]]:
    """Train, from the start or from the checkpoint that `options` name.

    Returns the best checkpoint of the run, and the batches of the splits that it was evaluated on.

    Args:
        network: on its device.
        make_dataset: makes the splits of the network's supervision.

    Raises UserError for data, a checkpoint or a run folder that don't fit, Interrupted when asked to stop.
    """
    started_from = _started_from(network, config, options)
    goes_on = started_from is not None and started_from.training is not None
    if goes_on:
        config = processes.from_first(lambda: config_to_go_on(config, options, started_from))
    datasets = _datasets(make_dataset, config)
    check_sizes(datasets["train"], config.model)
    check_localization(network, datasets["train"], localization)
    recorder = _recorder(config, started_from if goes_on else None)
    try:
        sizes = {split: config.eval.test_batch_size for split in datasets} | {"train": config.train.batch_size}
        device = next(network.parameters()).device
        batches = batches_of(datasets, config.data, sizes, device, config.train.seed)
        categories, features = category_names(config.data.folder), made_with.read(config.data.folder)
        training = Training(network, loss, localization, batches, config, recorder, categories, features)
        seed_process(config.train.seed)
        if goes_on:
            training.restore(started_from.training)
            localization.restore(started_from.localization)
            check_goes_on(training.position, config, started_from)
            _log.info(f"going on after {training.position} of {started_from.path}")
        _fit(training, options, device)
    finally:
        recorder.close()
    del batches["train"]  # their memory is free again
    return config.train.folder / BEST, batches


def _started_from(network: nn.Module, config: Config, options: Options) -> Checkpoint | None:
    """The checkpoint that --resume names, its weights loaded; None where it names none."""
    path = named_checkpoint(options.resume, config.train.folder)
    if path is None:
        return None
    checkpoint = load_weights(network, path, config.model)
    if checkpoint.training is None:
        _log.info(f"{path} holds weights only: a new run starts from them, in {config.train.folder}")
    return checkpoint


def _datasets(make_dataset: MakeDataset, config: Config) -> dict[str, AVEDataset]:
    """The splits to train with; a data folder may do without a val split, which only serves to choose an epoch."""
    root, order = config.data.folder, config.data.folder / files.order_file("val")
    has_val = os.path.lexists(order)
    splits = tuple(split for split in files.SPLITS if split != "val" or has_val)
    require_trainable(root, config.label_regime, splits)
    if not has_val:
        _log.info(f"{order}: isn't there, so there is no val split and no validation protocol")
    if fewer := fewer_clips(root, splits):
        _log.warning(fewer)
    return {split: make_dataset(root, split, dtype_of(config.train.precision)) for split in splits}


def _recorder(config: Config, checkpoint: Checkpoint | None) -> Recorder | SilentRecorder:
    """What records the run: process 0 only. `checkpoint` is that of a run that goes on."""
    if processes.rank() > 0:
        return SilentRecorder(config.train.folder)
    data = fingerprint(config.data.folder, config.label_regime)
    if checkpoint is not None:
        check_same_data(data, checkpoint, config.label_regime)
    return Recorder(config.train.folder, data, new=checkpoint is None)


def _fit(training: Training, options: Options, device: torch.device) -> None:
    """Train to the last epoch, and say and record what came of it."""
    config, recorder, position, batches = training.config, training.recorder, training.position, training.batches
    start = this_start(options.command, device)
    start["shuffled"] = "clips among a few blocks" if batches["train"].in_blocks else "all clips"
    steps = len(batches["train"])
    recorder.begin(config, start, position.epoch, position.epoch * steps + position.step)
    parameters = sum(p.numel() for p in training.network.parameters())
    _log.info(
        f"training {type(training.network).__name__}{config.model.variant} ({parameters:,} parameters) on "
        f"{len(batches['train'].dataset)} clips; everything is recorded in {recorder.folder}"
    )
    if config.label_regime:
        _log.info(f"weak supervision: it learns from {files.in_words(config.label_regime)}")
    best = fit(training)
    recorder.outcome(config, best, parameters, training.position.epoch * steps)
    for line in protocols.in_words(best):
        _log.info(line)
    if useless := protocols.useless_scores(recorder.folder, best):
        _log.warning(useless)

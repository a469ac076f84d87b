"""What both mains do around their network: begin, find a checkpoint, train, evaluate, say where the results are."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from dataset import files
from dataset.ave import AVEDataset
from dataset.check.folder import require_trainable
from dataset.fingerprint import fingerprint
from dataset.labels import clip_names
from dataset.loading import PLACEMENTS, Batches, Shard, fitting_placement, make_batches
from dataset.synthetic import generate
from dataset.trivial import leaked_clips, trivial_accuracies
from model.localization import Localization
from utils.base import processes
from utils.base.checkpoint import BEST, LAST, Checkpoint
from utils.base.devices import choose_device, dtype_of, named_gpus
from utils.base.errors import UserError
from utils.base.memory import keep_freed_memory
from utils.base.paths import config_path
from utils.config import files as config_files
from utils.config.command_line import Options
from utils.config.settings import Config, DataSettings
from utils.evaluation import protocols, results
from utils.evaluation.evaluate import Evaluation, accuracy, check_localization, choose_threshold, evaluate
from utils.evaluation.metrics import detailed
from utils.evaluation.weights import config_of, find_checkpoint, load_weights, named_checkpoint
from utils.training import launching, provenance
from utils.training.loop import fit
from utils.training.randomness import seed_everything, seed_process
from utils.training.record import Recorder, Spectator, log_to_terminal
from utils.training.state import Position, Training

_log = logging.getLogger(__name__)


class Experiment(NamedTuple):
    """What a main hands over: a network and its loss, and how its setting reads data, outputs and checkpoints."""

    network: nn.Module
    loss: nn.Module
    dataset: Callable[[str, str, torch.dtype], AVEDataset]  # (root, split, dtype)
    localization: Localization  # how an output becomes segments


def begin(config: Config, options: Options) -> torch.device:
    """Set up messages, memory, seeds and the device, and generate the demo's data if that is what is configured.

    For several GPUs, start one process for each instead, and end with them.
    """
    log_to_terminal()
    keep_freed_memory()
    gpus = named_gpus(options.gpu)
    if len(gpus) > 1 and not processes.is_distributed():
        sys.exit(launching.launch(len(gpus)))
    device, story = choose_device(options.gpu)
    processes.join(device)
    if processes.rank() > 0:
        logging.getLogger().setLevel(logging.WARNING)
    _log.info(story)
    if processes.local_rank() == 0:
        generate_once(config.data)
    processes.barrier()
    seed_everything(config.train.seed)
    return device


def run(experiment: Experiment, config: Config, options: Options, device: torch.device) -> None:
    """Train, or with --evaluate evaluate, and say where the results are."""
    experiment.network.to(device, dtype_of(config.train.precision))
    with processes.ending_together():
        # Files are looked for, and checkpoints read, by the first process alone: only its machine may have them.
        run_folder = config.train.folder
        path = processes.from_first(lambda: named_checkpoint(options.resume, run_folder))
        if options.evaluate:
            path = processes.from_first(
                lambda: find_checkpoint(options.resume, run_folder, experiment.network, config.supervision)
            )
            _test(experiment, config, options, device, path)
        else:
            _train(experiment, config, options, device, path)


def _train(experiment: Experiment, config: Config, options: Options, device: torch.device, path: Path | None) -> None:
    network, dtype = experiment.network, dtype_of(config.train.precision)
    state = None
    if path is not None:
        checkpoint = load_weights(network, path, config.model)
        state = checkpoint.training
        if state is None:
            _log.info(f"{path} holds weights only: a new run starts from them, in {config.train.folder}")
        else:
            config = processes.from_first(lambda: _config_to_go_on(config, options, checkpoint))
    folder = config.train.folder
    splits = _splits_to_train(config.data.folder)
    require_trainable(config.data.folder, config.label_regime, splits)
    datasets = {split: experiment.dataset(config.data.folder, split, dtype) for split in splits}
    _check_fits(datasets["train"], config)
    check_localization(network, datasets["train"], experiment.localization)
    if processes.rank() == 0:
        found = fingerprint(config.data.folder, weak=config.supervision == "weak")
        recorder = Recorder(folder, found, new=state is None)
    else:
        recorder = Spectator(folder)
    try:
        sizes = {split: config.eval.test_batch_size for split in datasets} | {"train": config.train.batch_size}
        batches = _batches(datasets, config.data, sizes, device, config.train.seed)
        training = Training(network, experiment.loss, experiment.localization, batches, config, recorder)
        seed_process(config.train.seed)
        if state is not None:
            training.restore(state)
            experiment.localization.restore(checkpoint.localization)
            _check_goes_on(training.position, config, path)
            _log.info(f"going on after {training.position} of {path}")
        done = training.position
        start = provenance.this_start(options.command, device)
        start["shuffled"] = "clips among a few blocks" if batches["train"].in_blocks else "all clips"
        recorder.begin(config, start, done.epoch, done.epoch * len(batches["train"]) + done.step)
        _log.info(
            f"training {type(network).__name__} ({sum(p.numel() for p in network.parameters()):,} parameters) on "
            f"{len(datasets['train'])} clips; everything is recorded in {folder}"
        )
        best = fit(training)
        protocol_accuracies = {"authors_protocol/test_accuracy": best["test"]["test_accuracy"]}
        if "val" in best:
            protocol_accuracies |= {
                f"validation_protocol/{split}_accuracy": best["val"][f"{split}_accuracy"] for split in ("test", "val")
            }
        recorder.outcome(config, protocol_accuracies, training.position.epoch * len(batches["train"]))
        for line in protocols.in_words(best):
            _log.info(line)
    finally:
        recorder.close()
    _test(experiment, config, options, device, folder / BEST)


def _splits_to_train(root: Path) -> tuple[str, ...]:
    """All splits, or those that a data folder without a val split has: training needs val to choose an epoch only."""
    order = root / files.order_file("val")
    if os.path.lexists(order) or not root.is_dir():
        return files.SPLITS
    _log.info(f"{order}: isn't there, so there is no val split and no validation protocol")
    return tuple(split for split in files.SPLITS if split != "val")


def _config_to_go_on(config: Config, options: Options, checkpoint: Checkpoint) -> Config:
    """The config of a run that goes on from a checkpoint: in its folder. Raises UserError for one that can't."""
    _check_same_run(config, checkpoint)
    path, folder = checkpoint.path, checkpoint.path.parent
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


def _check_goes_on(position: Position, config: Config, path: Path) -> None:
    if position.epoch >= config.train.n_epoch and not position.best:
        raise UserError(
            f"{path}: has done {position.epoch} epochs, none of them evaluated (train.eval_freq is "
            f"{config.train.eval_freq}); ask for more epochs with --n_epoch"
        )


def _test(experiment: Experiment, config: Config, options: Options, device: torch.device, path: Path) -> None:
    checkpoint = load_weights(experiment.network, path, config.model)
    _set_threshold(experiment, config, checkpoint, device)
    split = config.eval.split
    require_trainable(config.data.folder, None, (split,))
    dataset = AVEDataset(config.data.folder, split, dtype_of(config.train.precision))
    _check_fits(dataset, config)
    check_localization(experiment.network, dataset, experiment.localization)
    sizes = {split: config.eval.test_batch_size}
    batches = _batches({split: dataset}, config.data, sizes, device, seed=0)
    result = evaluate(
        experiment.network, batches[split], experiment.localization, config.train.precision, attention=True
    )
    trivial = trivial_accuracies(dataset.labels)
    trained = config_of(checkpoint) if checkpoint.ours else config
    metrics: dict[str, Any] = {
        "accuracy": result.accuracy,
        "clips": result.target.shape[0],
        "segments": result.target.numel(),
        "split": split,
        "model": type(experiment.network).__name__,
        "supervision": config.supervision,
        "label_regime": trained.label_regime,
        "right_category_everywhere": trivial.right_category,
        "best_single_label": trivial.best_single_label,
        "reading": experiment.localization.description,
        **experiment.localization.state(),
        "checkpoint": config_path(path),
        "epoch": checkpoint.epoch,
        "data_root": config.data.root,
        "generated": (config.data.folder / files.GENERATED).exists(),
    }
    if config.eval.exclude_leaked:
        metrics |= _without_leaked(dataset, result)
    folder = Path(options.output or path.parent / f"eval-{split}")
    if processes.rank() == 0:
        names = clip_names(config.data.folder, dataset.categories)
        metrics["protocols"] = protocols.protocols(path.parent) if checkpoint.ours else None
        metrics |= detailed(result, names.categories)
        results.write(folder, metrics, result, dataset.rows, names)
        from utils.report import page as report_page  # only now: what draws figures takes a second to import

        report_page.write(folder)
    chosen = f", epoch {checkpoint.epoch}" if checkpoint.ours else ""
    _log.info(f"{path}{chosen}: {split} accuracy {result.accuracy:.2f} % over {metrics['clips']} clips "
              f"({metrics['segments']} segments); {experiment.localization.description}")  # fmt: skip
    if config.eval.exclude_leaked:
        _log.info(
            f"without the {metrics['leaked_clips']} clips whose video is also in the training split: "
            f"{metrics['accuracy_without_leaked']:.2f} %"
        )
    _log.info(f"naming the right category in every segment would give {trivial.right_category:.2f} %")
    _log.info(f"results: {folder / results.METRICS}, {folder / results.PREDICTIONS}")
    _log.info(f"to look at: {folder / results.REPORT}")


def _without_leaked(dataset: AVEDataset, result: Evaluation) -> dict[str, Any]:
    """Accuracy without the clips of a split whose video the network was trained on."""
    leaked = np.isin(dataset.rows, leaked_clips(dataset.root, dataset.split))
    if leaked.all():
        raise UserError(
            f"{dataset.root}: every clip of the {dataset.split} split has its video in the training split too; "
            f"set eval.exclude_leaked to false"
        )
    kept = torch.from_numpy(~leaked)
    return {
        "accuracy_without_leaked": accuracy(result.segments[kept], result.target[kept]),
        "leaked_clips": int(leaked.sum()),
    }


def _set_threshold(experiment: Experiment, config: Config, checkpoint: Checkpoint, device: torch.device) -> None:
    """Give the localization its threshold: the checkpoint's, else one chosen on the training split."""
    localization = experiment.localization
    localization.restore(checkpoint.localization)
    if localization.chooses and localization.threshold is None:
        _log.info("the checkpoint holds no threshold for this localization: choosing one on the training split")
        dataset = experiment.dataset(config.data.folder, "train", dtype_of(config.train.precision))
        _check_fits(dataset, config)
        sizes = {"train": config.eval.test_batch_size}
        # Streamed: a part of the split is enough.
        data = config.data.model_copy(update={"placement": "stream"})
        batches = _batches({"train": dataset}, data, sizes, device, config.train.seed)
        choose_threshold(experiment.network, batches["train"], localization, config.train.precision)


def _batches(
    datasets: dict[str, AVEDataset],
    settings: DataSettings,
    batch_sizes: dict[str, int],
    device: torch.device,
    seed: int,
) -> dict[str, Batches]:
    """Batches of each split, with the features where the config says or where every process has room for them."""
    placement = settings.placement
    if placement == "auto":
        fitting = processes.all_gather(fitting_placement(datasets, device, processes.local_world_size()))
        placement = max(fitting, key=PLACEMENTS.index)
    shard = Shard(processes.rank(), processes.world_size())
    return make_batches(datasets, placement, batch_sizes, device, seed, shard, settings.workers)


def generate_once(settings: DataSettings) -> None:
    """Generate the data set that a config describes, unless it is there already."""
    if settings.generate is not None:
        generate.generate(settings.folder, generate.Settings(**settings.generate.model_dump()))


def _check_same_run(config: Config, checkpoint: Checkpoint) -> None:
    path, theirs = checkpoint.path, config_of(checkpoint)
    differing = config_files.difference(config, theirs, may_differ=["no"])
    if differing:
        raise UserError(
            f"{path}: was trained with other settings, so going on would be another run: {'; '.join(differing)}; "
            f"use its own ({path.parent / 'config.json'}), or start a new run from its weights"
        )


def _check_fits(dataset: AVEDataset, config: Config) -> None:
    """Raise UserError when the files have other sizes than the config's network."""
    root = dataset.root
    for name, size, key, wanted in (
        (files.VISUAL, dataset.sources[0].visual.shape[-1], "video_inputdim", config.model.video_inputdim),
        (files.AUDIO, dataset.sources[0].audio.shape[-1], "audio_inputdim", config.model.audio_inputdim),
        ("labels", dataset.categories, "categories", config.model.categories),
    ):
        if size != wanted:
            raise UserError(
                f"{root / name}: has {size} where the config says model.{key} = {wanted}; change one of them"
            )

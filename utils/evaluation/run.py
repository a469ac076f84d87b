"""A checkpoint on a split, from its file to the files that this leaves."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dataset import files, made_with, official
from dataset.ave import AVEDataset
from dataset.check.folder import require_trainable
from dataset.fingerprint import fingerprint
from dataset.loading import Batches
from dataset.trivial import leaked_clips, trivial_accuracies
from model.localization import Localization
from utils.base import processes
from utils.base.checkpoint import Checkpoint, folder_of
from utils.base.devices import dtype_of
from utils.base.errors import UserError
from utils.base.paths import config_path
from utils.config.settings import Config
from utils.evaluation import results
from utils.evaluation.evaluate import Evaluation, accuracy, evaluate
from utils.evaluation.metrics import detailed
from utils.evaluation.protocols import protocols
from utils.evaluation.splits import batches_of, check_sizes, number_as_trained
from utils.evaluation.threshold import check_localization, choose_threshold
from utils.evaluation.weights import config_of, load_weights

MakeDataset = Callable[..., AVEDataset]  # (root, split, dtype), and label_regime under weak supervision

_log = logging.getLogger(__name__)


def evaluate_checkpoint(
    path: Path,
    network: nn.Module,
    localization: Localization,
    training_set: MakeDataset,
    config: Config,
    output: str | None,
    report: Callable[[Path], None],
    at_hand: Mapping[str, Batches],
) -> None:
    """Evaluate a checkpoint on the split that the config names, write the results, and say where they are.

    Args:
        network: on its device; it gets the checkpoint's weights.
        localization: gets the checkpoint's threshold, or one chosen on the training split.
        training_set: makes that split.
        output: the folder of the results; None: eval-SPLIT/ beside the checkpoint.
        report: writes what people look at into the folder with the results.
        at_hand: batches of splits that a training has read already; where the split is among them it isn't read again.

    Raises UserError when the checkpoint or the data don't fit, the network's output isn't finite, or the results can't
    be written; an earlier evaluation in the folder is untouched then.
    """
    split, root, dtype = config.eval.split, config.data.folder, dtype_of(config.train.precision)
    device = next(network.parameters()).device
    checkpoint = load_weights(network, path, config.model)
    # What the network learned from; a file of anybody else's doesn't say it.
    label_regime = (config_of(checkpoint) if checkpoint.ours else config).label_regime
    localization.restore(checkpoint.localization)
    if localization.chooses and localization.threshold is None:
        _log.info("the checkpoint holds no threshold for this localization: choosing one on the training split")
        try:
            dataset = training_set(root, "train", dtype, label_regime=label_regime)
        except UserError as error:
            raise UserError(f"{error} (--set eval.threshold=NUMBER does without choosing one)") from error
        _choose_threshold(network, localization, checkpoint, dataset, config)
    require_trainable(root, None, (split,))
    dataset = at_hand[split].dataset if split in at_hand else AVEDataset(root, split, dtype)
    check_sizes(dataset, config.model)
    names = number_as_trained(dataset, checkpoint)
    made, now = checkpoint.features or {}, made_with.read(root) or {}  # nothing is said where one isn't known
    for line in itertools.chain(*made_with.differences(made, now)):
        _log.warning(f"{root}: the features were made otherwise than those that {path} learned from: {line}")
    check_localization(network, dataset, localization)
    sizes = {split: config.eval.test_batch_size}
    batches = at_hand if split in at_hand else batches_of({split: dataset}, config.data, sizes, device, seed=0)
    try:
        result = evaluate(network, batches[split], localization, config.train.precision, attention=True)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    metrics = _metrics(result, dataset, network, localization, checkpoint, config, label_regime)
    folder = Path(output or folder_of(path) / f"eval-{split}")
    if processes.rank() == 0:
        metrics["protocols"] = protocols(folder_of(path)) if checkpoint.ours else None
        metrics["data"] = fingerprint(root, None)  # so that nobody compares it with one on other clips
        metrics |= detailed(result, names.categories)
        with results.replacing(folder) as new:
            results.write(new, metrics, result, dataset.rows, names)
            report(new)
    _say(metrics, checkpoint, root, folder)


def _choose_threshold(
    network: nn.Module, localization: Localization, checkpoint: Checkpoint, dataset: AVEDataset, config: Config
) -> None:
    check_sizes(dataset, config.model)
    number_as_trained(dataset, checkpoint)
    # Streamed: a part of the split is enough.
    data = config.data.model_copy(update={"placement": "stream"})
    sizes = {dataset.split: config.eval.test_batch_size}
    batches = batches_of({dataset.split: dataset}, data, sizes, next(network.parameters()).device, config.train.seed)
    choose_threshold(network, batches[dataset.split], localization, config.train.precision)


def _metrics(
    result: Evaluation,
    dataset: AVEDataset,
    network: nn.Module,
    localization: Localization,
    checkpoint: Checkpoint,
    config: Config,
    label_regime: str | None,
) -> dict[str, Any]:
    trivial = trivial_accuracies(dataset.labels)
    metrics: dict[str, Any] = {
        "accuracy": result.accuracy,
        "clips": result.target.shape[0],
        "segments": result.target.numel(),
        "official_clips": official.CLIPS[dataset.split] if official.is_ave(dataset.root) else None,
        "split": dataset.split,
        "model": type(network).__name__,
        "supervision": config.supervision,
        "label_regime": label_regime,
        "right_category_everywhere": trivial.right_category,
        "best_single_label": trivial.best_single_label,
        "localization": localization.description,
        "reading": localization.description,  # its name for those who read earlier versions' files
        **localization.state(),
        "checkpoint": config_path(checkpoint.path),
        "epoch": checkpoint.epoch,
        "data_root": config.data.root,
        "generated": (dataset.root / files.GENERATED).exists(),
    }
    if config.eval.exclude_leaked:
        metrics |= _without_leaked(dataset, result)
    return metrics


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


def _say(metrics: dict[str, Any], checkpoint: Checkpoint, root: Path, folder: Path) -> None:
    epoch = f", epoch {checkpoint.epoch}" if checkpoint.ours else ""
    _log.info(
        f"{checkpoint.path}{epoch}: {metrics['split']} accuracy {metrics['accuracy']:.2f} % over {metrics['clips']} "
        f"clips ({metrics['segments']} segments); {metrics['localization']}"
    )
    if fewer := official.fewer_clips(root, [metrics["split"]]):
        _log.warning(fewer)
    if regime := metrics["label_regime"]:
        said_by = "" if checkpoint.ours else ", by the config: the checkpoint doesn't say"
        _log.info(f"weak supervision: it learned from {files.in_words(regime)} ({regime}{said_by})")
    if "leaked_clips" in metrics:
        _log.info(
            f"without the {metrics['leaked_clips']} clips whose video is also in the training split: "
            f"{metrics['accuracy_without_leaked']:.2f} %"
        )
    _log.info(f"naming the right category in every segment would give {metrics['right_category_everywhere']:.2f} %")
    _log.info(f"results: {folder / results.METRICS}, {folder / results.PREDICTIONS}")
    _log.info(f"to look at: {folder / results.REPORT}")

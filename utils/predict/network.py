"""The network of a checkpoint, how its output becomes segments, and its categories' names, for `utils.predict`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from dataset import files, labels
from model import NETWORKS
from model.localization import Localization
from model.settings import NetworkSettings
from utils.base.checkpoint import Checkpoint, folder_of
from utils.base.errors import UserError
from utils.base.paths import ROOT
from utils.config.settings import DataSettings
from utils.evaluation import results
from utils.evaluation.weights import config_of, learned_from_generated, network_of

# Of the features of a checkpoint that doesn't say what made them: AVE's, VGG-19's grid of cells [H, W, Dv].
_VGG19 = {"backbone": "vgg19", "grid": [7, 7, 512]}
_AUDIO = (128,)  # VGGish's length


class Loaded(NamedTuple):
    """A checkpoint's network in evaluation mode on the CPU, and what belongs to it."""

    network: nn.Module
    localization: Localization  # how its output becomes segments
    categories: int
    names: list[str] | None  # of the categories, where the checkpoint has them
    root: Path  # the data folder it was trained on
    generated: bool  # whether its clips are known to be generated
    features: dict[str, Any] | None  # what made the features there, where the checkpoint has it


def load_network(path: Path, evaluation: Path | None = None) -> Loaded:
    """The network of a checkpoint, ours or its authors'.

    Args:
        evaluation: the folder of an evaluation of the same checkpoint whose localization is wanted; None: that of the
            checkpoint's run.

    Raises UserError when a file is none or doesn't fit, and where videos give features that the network can't take.
    """
    checkpoint = Checkpoint.load(path)
    network, settings = network_of(checkpoint)
    data = config_of(checkpoint).data if checkpoint.ours else DataSettings()
    generated = checkpoint.ours and learned_from_generated(checkpoint)
    state = checkpoint.localization
    source = path
    if evaluation is not None:
        if NETWORKS[settings.name].supervision == "full":
            raise UserError("--localization is for a weakly supervised network; this one learned where events are")
        state, source = _evaluated_with(evaluation, path, checkpoint.epoch), evaluation / results.METRICS
    try:
        localization = Localization.of_state(network, state)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None
    names = checkpoint.categories
    if names is not None and len(names) != settings.categories:
        raise UserError(f"{path}: is damaged: names {len(names)} categories of a network with {settings.categories}")
    network.eval()
    visual = {**_VGG19, **(checkpoint.features or {}).get("visual", {})}
    _check_grid(checkpoint, visual["grid"])
    _try(network, settings, localization, tuple(visual["grid"]), path)
    return Loaded(network, localization, settings.categories, names, data.folder, generated, checkpoint.features)


def _evaluated_with(folder: Path, checkpoint: Path, epoch: int | None) -> dict[str, Any]:
    """The state of the localization that an evaluation used. Raises UserError for one of another checkpoint."""
    metrics = results.read_metrics(folder)
    if "localize" not in metrics or metrics.get("supervision") == "full":
        raise UserError(
            f"{folder}: is an evaluation of a supervised network, which has no localization rule to take over"
        )
    evaluated = metrics.get("checkpoint")
    if isinstance(evaluated, str):  # else by hand: nothing to compare
        is_beside = _is_same(folder.absolute().parent, folder_of(checkpoint.absolute()))  # and both may have been moved
        is_same = _is_same(ROOT / evaluated, checkpoint) or (is_beside and Path(evaluated).name == checkpoint.name)
        if not is_same or metrics.get("epoch") != epoch:
            raise UserError(
                f"{folder}: is an evaluation of {evaluated}, epoch {metrics.get('epoch')}, not of {checkpoint}, epoch "
                f"{epoch}; evaluate this checkpoint with weak_test.sh, or name that one"
            )
    return metrics


def _is_same(path: Path, other: Path) -> bool:
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):  # not there, or a name that no file can have
        return False


def _check_grid(checkpoint: Checkpoint, made: list[int]) -> None:
    """Raise UserError for a network that learned from features on another grid; it may be able to take any grid."""
    shape = (checkpoint.data or {}).get(files.VISUAL, {}).get("shape")
    if shape is not None and shape[2:4] != made[:2]:
        (height, width), (rows, columns) = shape[2:4], made[:2]
        raise UserError(
            f"{checkpoint.path}: learned from visual features on a grid of {height} x {width}, but those that are made "
            f"of videos here have {rows} x {columns}; name the checkpoint of a network trained on that grid"
        )


def _try(
    network: nn.Module, settings: NetworkSettings, localization: Localization, grid: tuple[int, ...], path: Path
) -> None:
    """Raise UserError where a network can't take the features of videos, or lacks what the localization reads."""
    for key, made in (("video_inputdim", grid[-1]), ("audio_inputdim", _AUDIO[-1])):
        if getattr(settings, key) != made:
            raise UserError(
                f"{path}: is of a network whose model.{key} is {getattr(settings, key)}, but the features that are "
                f"made of videos here have {made}; name the checkpoint of one that was trained on these"
            )
    like = next(network.parameters())
    visual, audio = (torch.zeros(1, labels.SEGMENTS, *shape).to(like) for shape in (grid, _AUDIO))
    try:
        with torch.inference_mode():
            localization(*network.explain(visual, audio))
    except ValueError as error:
        raise UserError(f"{path}: is of a network that can't take the features of videos: {error}") from error


def category_names(loaded: Loaded, annotations: Path | None, data_root: Path | None) -> list[str]:
    """Names of a network's categories: the checkpoint's, or where it has none those of the data it was trained on.

    Args:
        annotations, data_root: a file or a data folder that names them instead.

    Raises UserError where that names another number of categories, or others than the checkpoint.
    """
    source = annotations or (data_root and data_root / files.ANNOTATIONS)
    if source is None:
        if loaded.names is not None:
            return loaded.names
        source = loaded.root / files.ANNOTATIONS
        if not source.exists():
            print(f"{source} isn't there: categories are numbered; --annotations FILE names them")
            return labels.clip_names(loaded.root, loaded.categories).categories
    names = labels.categories_by_index(source)
    if len(names) != loaded.categories:
        raise UserError(f"{source}: names {len(names)} categories, but the network has {loaded.categories}")
    for index, (here, there) in enumerate(zip(names, loaded.names or names, strict=True)):
        if here != there:
            raise UserError(
                f"{source}: numbers the categories otherwise than the checkpoint, whose category {index} is {there!r}, "
                f"not {here!r}; the checkpoint has the categories' names, so leave this file out"
            )
    return names

"""A split of a data folder, made ready for a network: sizes checked, categories numbered alike, cut into batches."""

from __future__ import annotations

import logging

import torch

from dataset import files
from dataset.ave import AVEDataset
from dataset.labels import ClipNames, category_names, clip_names
from dataset.loading import PLACEMENTS, Batches, Shard, fitting_placement, make_batches
from model.settings import NetworkSettings
from utils.base import processes
from utils.base.checkpoint import Checkpoint
from utils.base.errors import UserError
from utils.config.settings import DataSettings

_log = logging.getLogger(__name__)


def check_sizes(dataset: AVEDataset, settings: NetworkSettings) -> None:
    """Raise UserError when the files have other sizes than the network."""
    root = dataset.root
    for file, size, what, key, wanted in (
        (
            root / files.VISUAL,
            dataset.sources[0].visual.shape[-1],
            "features",
            "video_inputdim",
            settings.video_inputdim,
        ),
        (root / files.AUDIO, dataset.sources[0].audio.shape[-1], "features", "audio_inputdim", settings.audio_inputdim),
        (root, dataset.categories, "categories", "categories", settings.categories),
    ):
        if size != wanted:
            if file.name == files.VISUAL and dataset.sources[0].visual.shape[2] == wanted:
                raise UserError(
                    f"{file}: has {wanted} features for each cell before its grid, not after it; "
                    f"`python -m dataset.convert --data_root {root} --to DIR --channels-first` writes them after it"
                )
            raise UserError(
                f"{file}: has {size} {what}, and the config says model.{key} = {wanted}; change one of them"
            )


def batches_of(
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


def number_as_trained(dataset: AVEDataset, checkpoint: Checkpoint) -> ClipNames:
    """Number a split's labels as those were that a checkpoint was trained on, by the categories' names.

    Returns the names of the categories in that order, and the clips' ids. Raises UserError where the data have other
    categories. A checkpoint or a folder without names is taken as it is.
    """
    names = clip_names(dataset.root, dataset.categories)
    here, there = category_names(dataset.root), checkpoint.categories
    if there is None or here == there:
        return names
    if here is not None:
        if sorted(here) != sorted(there):
            raise UserError(
                f"{checkpoint.path}: was trained on other categories than those of {dataset.root}, such as "
                f"{min(set(there) ^ set(here))!r}; name the data that it was trained on by --data_root"
            )
        _log.info(f"{dataset.root} numbers the categories otherwise than {checkpoint.path}: they are matched by name")
        dataset.labels = dataset.labels[..., [*(here.index(name) for name in there), -1]]
    return ClipNames(there, names.ids)

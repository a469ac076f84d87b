"""The threshold of a localization rule, chosen on training clips."""

from __future__ import annotations

import torch
from torch import nn

from dataset.ave import AVEDataset
from dataset.loading import Batches, epoch_generator
from model.localization import Localization
from utils.base import processes
from utils.base.devices import autocast
from utils.base.errors import UserError
from utils.evaluation.evaluate import finite_clips, require_finite

CLIPS = 1024  # 10,000 segments fix one threshold well; more would only cost time
AT_A_TIME = 64  # the computation's last digits depend on how many clips are computed together


@torch.inference_mode()
def choose_threshold(network: nn.Module, batches: Batches, localization: Localization, precision: str) -> None:
    """Let a localization choose its threshold on clips of the training split, at most CLIPS of them.

    Which clips, and which of them are computed together, depends on the run's seed alone: not on the size of its
    batches, on where the features are, nor on the number of processes. Raises UserError where there is nothing to
    choose from, or a clip's output is not finite.
    """
    network.eval()
    shuffled = torch.randperm(len(batches.dataset), generator=epoch_generator(batches.seed, 0))
    mine = shuffled[:CLIPS].split(AT_A_TIME)[processes.rank() :: processes.world_size()]
    parts = []
    for batch in batches.batches_of([(clips, 1.0) for clips in mine]):
        with autocast(batches.device, precision):
            output, explanation = network.explain(batch.visual, batch.audio)
        finite = finite_clips([*output, *explanation.scores.values(), *explanation.activations.values()])
        scores = localization.scores(explanation, batch.labels)
        parts.append((batch.clips, finite.cpu(), scores.float().cpu()))
    positions, finite, scores = zip(*(part for share in processes.all_gather(parts) for part in share), strict=True)
    require_finite(torch.cat(finite), torch.cat(positions), batches.dataset)
    try:
        localization.choose(torch.cat(scores))
    except ValueError as error:
        raise UserError(f"eval.localize {localization.localize!r}: {error}") from error


@torch.inference_mode()
def check_localization(network: nn.Module, dataset: AVEDataset, localization: Localization) -> None:
    """Try the network on a clip of `dataset`.

    Raises UserError where it can't take clips of that size, and where it lacks what the localization rule reads.
    """
    network.eval()
    device = next(network.parameters()).device
    visual, audio, _ = dataset[0]
    try:
        _, explanation = network.explain(visual[None].to(device), audio[None].to(device))
    except ValueError as error:
        raise UserError(f"{dataset.root}: {error}") from error
    try:
        localization.check(explanation)
    except ValueError as error:
        raise UserError(f"eval.localize: {error}") from error

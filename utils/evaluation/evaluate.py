"""Predicting every clip of a split once, and what that gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dataset.ave import AVEDataset
from dataset.loading import Batches
from model.localization import Localization
from utils.base import processes
from utils.base.devices import autocast, naming_batch_size
from utils.base.errors import UserError

GATES = ("gate", "audio_gate", "visual_gate")
CHOOSING_CLIPS = 1024  # 10,000 segments fix one threshold well; more would only cost time


def accuracy(predicted: Tensor, target: Tensor) -> float:
    """Percent of segments whose category, or background, is right: two [n, T] int64 tensors."""
    return 100.0 * (predicted == target).double().mean().item()


class Evaluation(NamedTuple):
    """Every clip of a split, in its order; on the CPU."""

    segments: Tensor  # [n, T] int64: predicted category indices, background is C
    target: Tensor  # [n, T] int64
    category: Tensor  # [n] int64: predicted category of the clip
    event_probability: Tensor  # [n, T] float32
    gate: Tensor  # [n, T] float32: what time-level suppression makes of the two gates below
    audio_gate: Tensor  # [n, T] float32
    visual_gate: Tensor  # [n, T] float32
    attention: Tensor | None = None  # [n, T, H, W] float16, where asked for: sums to 1 over the grid

    @property
    def accuracy(self) -> float:
        """Percent of segments that are right."""
        return accuracy(self.segments, self.target)


@torch.inference_mode()
def evaluate(
    network: nn.Module, batches: Batches, predict: Callable, precision: str, attention: bool = False
) -> Evaluation:
    """Predict every clip of a split once.

    Args:
        predict: (output, explanation) -> Prediction: a localization, or the network's own `predict`.
        precision: float32, float64 or bfloat16.
        attention: whether to keep the attention maps too.
    """
    network.eval()
    places, parts = [], []
    for batch in tqdm(batches.epoch(0), "evaluating", len(batches), leave=False, disable=no_bar()):
        with naming_batch_size("--test_batch_size", batches.batch_size), autocast(batches.device, precision):
            output, explanation = network.explain(batch.visual, batch.audio)
            prediction = predict(output, explanation)
        if batch.weight:  # else the clips are another process's
            always = torch.ones_like(prediction.event_probability)
            gates = [explanation.scores.get(name, always) for name in GATES]
            columns = [prediction.segments, batch.labels.argmax(-1), prediction.category]
            columns += [probability.float() for probability in (prediction.event_probability, *gates)]
            if attention:
                columns.append(explanation.attention.half())
            places.append(batch.clips)
            parts.append(columns)
    mine = Evaluation(*(torch.cat(column).cpu() for column in zip(*parts, strict=True))) if parts else None
    return _in_order(processes.all_gather((places, mine)))


def _in_order(shares: list[tuple[list[Tensor], Evaluation | None]]) -> Evaluation:
    """The split's evaluation, from each process's places in the split and its evaluation of those."""
    places = torch.cat([place for places, _ in shares for place in places])
    order = places.argsort()
    if not torch.equal(places[order], torch.arange(len(places))):
        raise RuntimeError("a clip was evaluated twice or not at all")
    columns = zip(*(evaluation for _, evaluation in shares if evaluation is not None), strict=True)
    return Evaluation(*(None if column[0] is None else torch.cat(column)[order] for column in columns))


def no_bar() -> bool | None:
    """tqdm's `disable`: a bar where there is a terminal, and only by the first process."""
    return True if processes.rank() else None


@torch.inference_mode()
def choose_threshold(network: nn.Module, batches: Batches, localization: Localization, precision: str) -> None:
    """Let a localization that needs a threshold choose it on training clips, at most CHOOSING_CLIPS of them."""
    network.eval()
    parts, clips = [], 0
    for batch in batches.epoch(0):
        with autocast(batches.device, precision):
            _, explanation = network.explain(batch.visual, batch.audio)
        parts.append(localization.scores(explanation, batch.labels).float().cpu())
        clips += len(batch.clips)
        if clips >= CHOOSING_CLIPS:
            break
    try:
        localization.choose(torch.cat(processes.all_gather(torch.cat(parts))))
    except ValueError as error:
        raise UserError(
            f"eval.localize {localization.localize!r}: {error}; look for bad features with `python -m dataset.check`"
        ) from error


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

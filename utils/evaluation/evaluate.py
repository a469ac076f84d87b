"""Predicting every clip of a split once, and what that gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dataset.ave import AVEDataset
from dataset.loading import Batches
from model.localization import Localization
from utils.base import processes
from utils.base.devices import autocast, naming_batch_size
from utils.base.errors import UserError

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
    scores: dict[str, Tensor]  # [n, T] float32 each: those of the network's explanation, by name
    attention: Tensor | None = None  # [n, T, H, W] float16, where asked for and there: sums to 1 over the grid

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

    Raises UserError where the network's answer for a clip is not a finite number.
    """
    network.eval()
    parts: list[dict[str, Tensor]] = []
    for batch in tqdm(batches.epoch(0), "evaluating", len(batches), leave=False, disable=no_bar()):
        with naming_batch_size("--test_batch_size", batches.batch_size), autocast(batches.device, precision):
            output, explanation = network.explain(batch.visual, batch.audio)
            prediction = predict(output, explanation)
        if batch.weight:  # else the clips are another process's
            part = {
                "position": batch.clips,
                "segments": prediction.segments,
                "target": batch.labels.argmax(-1),
                "category": prediction.category,
                "event_probability": prediction.event_probability.float(),
                "is_finite": prediction.category_probability.isfinite().flatten(1).all(1),
                **{f"{_SCORE}{name}": score.float() for name, score in explanation.scores.items()},
            }
            if attention and explanation.attention is not None:
                part["attention"] = explanation.attention.half()
            parts.append(part)
    mine = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]} if parts else {}
    return _in_order(processes.all_gather(mine), batches.dataset)


_SCORE = "score of "  # before the names of scores, which may be any


def _in_order(shares: list[dict[str, Tensor]], dataset: AVEDataset) -> Evaluation:
    """The split's evaluation, from each process's share of its clips."""
    shares = [share for share in shares if share]
    columns = {name: torch.cat([share[name] for share in shares]) for name in shares[0]}
    order = columns["position"].argsort()
    if not torch.equal(columns.pop("position")[order], torch.arange(len(order))):
        raise RuntimeError("a clip was evaluated twice or not at all")
    columns = {name: column[order] for name, column in columns.items()}
    if not columns.pop("is_finite").all():
        _refuse_nonfinite(shares, dataset)
    scores = {name.removeprefix(_SCORE): columns.pop(name) for name in list(columns) if name.startswith(_SCORE)}
    return Evaluation(**columns, scores=scores)


def _refuse_nonfinite(shares: list[dict[str, Tensor]], dataset: AVEDataset) -> NoReturn:
    clips = torch.cat([share["position"][~share["is_finite"]] for share in shares]).tolist()
    source, row = dataset.source(min(clips))
    path = dataset.sources[source].visual.path
    raise UserError(
        f"the network's answer is not a finite number in {len(clips)} of the {dataset.split} split's {len(dataset)} "
        f"clips (the first is row {row} of {path}); look for bad features with `python -m dataset.check`, or use "
        f"another checkpoint"
    )


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

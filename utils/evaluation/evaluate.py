"""Predicting every clip of a split once, and what that gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dataset.ave import AVEDataset
from dataset.loading import Batches
from utils.base import processes
from utils.base.devices import autocast, naming_batch_size
from utils.base.errors import UserError

_SCORE = "score of "  # before the name of a network's score, in the columns that are gathered


def accuracy(predicted: Tensor, target: Tensor) -> float:
    """Percent of segments whose category, or background, is right: two [n, T] int64 tensors."""
    return 100.0 * (predicted == target).double().mean().item()


class Evaluation(NamedTuple):
    """Every clip of a split, in its order; on the CPU."""

    segments: Tensor  # [n, T] int64: predicted category indices, background is C
    target: Tensor  # [n, T] int64
    category: Tensor  # [n] int64: predicted category of the clip
    event_probability: Tensor  # [n, T] float32
    scores: dict[str, Tensor]  # [n, T] float32 each: the network's own scores of how much a segment is an event
    attention: Tensor | None = None  # [n, T, H, W] float16, where asked for and there: sums to 1 over the grid

    @property
    def accuracy(self) -> float:
        """Percent of segments that are right."""
        return accuracy(self.segments, self.target)

    @property
    def clip_accuracy(self) -> Tensor:
        """The same of each clip: [n] float64."""
        return 100.0 * (self.segments == self.target).sum(1).double() / self.target.shape[1]


@torch.inference_mode()
def evaluate(
    network: nn.Module, batches: Batches, predict: Callable, precision: str, attention: bool = False
) -> Evaluation:
    """Predict every clip of a split once.

    Args:
        predict: (output, explanation) -> Prediction: a localization, or the network's own `predict`.
        precision: float32, float64 or bfloat16.
        attention: whether to keep the attention maps too.

    Raises UserError that names the clips where the network's output is not finite.
    """
    network.eval()
    parts: list[dict[str, Tensor]] = []
    for batch in tqdm(batches.epoch(0), "evaluating", len(batches), leave=False, disable=no_bar()):
        with naming_batch_size("--test_batch_size", batches.batch_size), autocast(batches.device, precision):
            output, explanation = network.explain(batch.visual, batch.audio)
            prediction = predict(output, explanation)
        if batch.weight:  # else the clips are another process's
            scores = {_SCORE + name: score.float() for name, score in explanation.scores.items()}
            columns = {
                "position": batch.clips,
                "finite": finite_clips([prediction.category_probability]),
                "segments": prediction.segments,
                "target": batch.labels.argmax(-1),
                "category": prediction.category,
                "event_probability": prediction.event_probability.float(),
                **scores,
            }
            if attention and explanation.attention is not None:
                columns["attention"] = explanation.attention.half()
            parts.append(columns)
    mine = {name: torch.cat([columns[name] for columns in parts]).cpu() for name in parts[0]} if parts else {}
    shares = [share for share in processes.all_gather(mine) if share]
    whole = {name: torch.cat([share[name] for share in shares]) for name in shares[0]}
    positions = whole.pop("position")
    order = positions.argsort()
    if not torch.equal(positions[order], torch.arange(len(batches.dataset))):
        raise RuntimeError("a clip was evaluated twice or not at all")
    whole = {name: column[order] for name, column in whole.items()}
    scores = {name.removeprefix(_SCORE): whole.pop(name) for name in list(whole) if name.startswith(_SCORE)}
    finite = whole.pop("finite") & finite_clips([whole["event_probability"], *scores.values()])
    require_finite(finite, positions[order], batches.dataset)
    return Evaluation(**whole, scores=scores)


def no_bar() -> bool | None:
    """tqdm's `disable`: a bar where there is a terminal, and only by the first process."""
    return True if processes.rank() else None


def finite_clips(values: Iterable[Any]) -> Tensor:
    """Which clips of a batch are finite in every floating-point tensor [B, ...] among some values: [B] bool."""
    kept = [x for x in values if isinstance(x, Tensor) and x.is_floating_point()]
    return torch.stack([x.isfinite().flatten(1).all(1) for x in kept]).all(0)


def require_finite(finite: Tensor, positions: Tensor, dataset: AVEDataset) -> None:
    """Raise UserError that names the clips of a split, at `positions` [n], where `finite` [n] is false."""
    bad = positions[~finite]
    if len(bad):
        raise UserError(
            f"the network's output is not finite in {len(bad)} of {len(positions)} clips of the {dataset.split} split, "
            f"{name_clips(dataset, bad)}; its weights are damaged, or these features far too large: use another "
            f"checkpoint, or look at them with `python -m dataset.check`"
        )


def name_clips(dataset: AVEDataset, positions: Tensor) -> str:
    """Clips at some positions of a split, by their rows in the feature files."""
    rows: dict[str, list[int]] = {}
    for position in positions.tolist():
        source, row = dataset.source(position)
        rows.setdefault(dataset.sources[source].visual.path.name, []).append(row)
    return " and ".join(
        f"rows {', '.join(map(str, numbers[:10]))}{' ...' if len(numbers) > 10 else ''} of {name}"
        for name, numbers in rows.items()
    )

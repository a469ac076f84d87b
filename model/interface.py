"""What every network gives, so that training, evaluation and reports need not know which one it is.

A network is a `BaseNetwork`, an `nn.Module` built from its settings, with

- `forward(visual, audio)`: features [B, T, H, W, Dv] and [B, T, Da] -> its output, a NamedTuple, batch first.
- `explain(visual, audio)` -> (output, `Explanation`): the same computation with what happened inside.
- `predict(output, explanation=None)` -> `Prediction`: its authors' rule.
- `correct(prediction, labels)` -> [2] float64: how many predictions of a training batch are right, and of how many.
- `prediction_rule`: the authors' rule in words, for results.
- `event_threshold`: by that rule, a segment is an event where its event probability is above this (unless its clip is
  called background).
- `begin_epoch(epoch, n_epoch)`, only where the computation depends on the epoch, which counts from 1. Without a call
  the network computes as in the last epoch.

Its loss is a `model.losses.Loss`, built from the same settings and weights by term: `forward(output, labels)` -> a dict
of named terms, unweighted, and their weighted "total". Labels are one-hot with background in the last column: of
segments [B, T, C+1] under full supervision, of clips [B, C+1] under weak supervision, where they may also be the shares
of each clip's segments.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from model.settings import NetworkSettings


class Network(NamedTuple):
    """An entry of `model.NETWORKS`: the classes that make a network, and which labels it learns from."""

    settings: type[NetworkSettings]
    network: type[nn.Module]  # network(settings)
    loss: type[nn.Module]  # loss(settings, weights)
    supervision: Literal["full", "weak"]  # that of its settings: labels of segments, or of clips


class Explanation(NamedTuple):
    """What happened inside a network, by names. Disabled parts have no entry."""

    attention: Tensor | None  # [B, T, H, W]: audio-guided spatial attention, sums to 1 over the grid; see attention_map
    scores: dict[str, Tensor]  # [B, T] each, in [0, 1]: how much a segment is an event
    activations: dict[str, Tensor]  # [B, T, K] each: class activation sequences, logits of K categories


def require_features(visual: Tensor, audio: Tensor, settings: NetworkSettings) -> None:
    """Raise ValueError unless visual is [B, T, H, W, Dv] and audio [B, T, Da], with Dv and Da of the settings."""
    wanted = settings.video_inputdim, settings.audio_inputdim
    fit = visual.dim() == 5 and audio.dim() == 3 and visual.shape[:2] == audio.shape[:2]
    if not fit or (visual.shape[4], audio.shape[2]) != wanted:
        raise ValueError(
            f"this network takes visual features [B, T, H, W, {wanted[0]}] and audio features [B, T, {wanted[1]}], not "
            f"{list(visual.shape)} and {list(audio.shape)}"
        )


def attention_map(weights: Tensor, grid: torch.Size) -> Tensor | None:
    """Attention to cells [B, T, H*W] as maps [B, T, H, W] of a grid, H and W.

    None where the grid has one cell, as features without a grid have: attention to it is always 1, and shows nothing.
    """
    return None if grid == (1, 1) else weights.unflatten(2, grid)


class Prediction(NamedTuple):
    """Per clip and segment; category indices run from 0 to C-1, C is background."""

    segments: Tensor  # [B, T] int64: predicted index
    category: Tensor  # [B] int64: the clip's category (under weak supervision it may be background)
    event_probability: Tensor  # [B, T] in [0, 1]: that the segment is an event, of whatever category
    category_probability: Tensor  # [B, T, C] in [0, 1]: that the segment is an event of this category


def correct(prediction: Prediction, labels: Tensor) -> Tensor:
    """How many of a batch's predictions are right, and of how many: [2] float64.

    Counts segments where labels are of segments, [B, T, C+1], and clips where they are of clips, [B, C+1].
    """
    if labels.dim() == 3:
        predicted, target = prediction.segments, labels.argmax(-1)
    else:
        predicted, target = prediction.category, category_of_clips(labels)
    right = (predicted == target).sum()
    # Not torch.tensor(...): that would be a copy from the host, which waits for all that the GPU has still to do.
    return torch.stack([right, right.new_full((), predicted.numel())]).double()


class BaseNetwork(nn.Module):
    """Base of all networks: what they have in common. Each has its own `explain`, `predict` and `prediction_rule`."""

    event_threshold = 0.5
    correct = staticmethod(correct)

    def forward(self, visual: Tensor, audio: Tensor) -> Any:
        """Features [B, T, H, W, Dv] and [B, T, Da] -> the network's output, the first result of its `explain`."""
        return self.explain(visual, audio)[0]


def category_of_clips(labels: Tensor) -> Tensor:
    """Category of clips, [B], by labels [B, C+1] that are one-hot or shares of segments: background if nothing else."""
    events, background = labels[:, :-1], labels.shape[1] - 1
    return torch.where(events.any(1), events.argmax(1), background)


def spread_category(category: Tensor, is_event: Tensor, background: int) -> Tensor:
    """The clip's category [B] in its event segments [B, T] bool, background elsewhere -> [B, T] int64."""
    return torch.where(is_event, category.unsqueeze(1), background)


def predict_events(event_logits: Tensor, category_logits: Tensor, background: int) -> Prediction:
    """A segment is background where sigma(event_logit) <= 0.5, else it has its clip's best category.

    category_probability[b, t, c] = sigma(event_logits[b, t]) * softmax(category_logits[b])[c].

    Args:
        event_logits: [B, T].
        category_logits: [B, C], or [B, C+1] where the clip may be background as a whole; the softmax is over all.
        background: its index, C.
    """
    category = category_logits.argmax(1)
    event_probability = event_logits.sigmoid()
    return Prediction(
        spread_category(category, event_probability > 0.5, background),
        category,
        event_probability,
        event_probability.unsqueeze(2) * category_logits.softmax(1)[:, None, :background],
    )


def best_column(logits: Tensor, category: Tensor | None = None) -> Prediction:
    """The rule of networks that give each segment logits [B, T, C+1], background last: each has its best column.

    event_probability compares the best category with the background alone, sigma(best category's logit - background's),
    so that it is above 0.5 just where the segment is an event. category_probability is the share of it that the
    softmax over the C categories gives.

    Args:
        category: of the clips, [B]; None: the one of the highest category_probability, summed over the segments.
    """
    categories, background = logits[..., :-1], logits[..., -1]
    event_probability = (categories.amax(2) - background).sigmoid()
    category_probability = event_probability.unsqueeze(2) * categories.softmax(2)
    if category is None:
        category = category_probability.sum(1).argmax(1)
    return Prediction(logits.argmax(2), category, event_probability, category_probability)


def begin_epoch(network: nn.Module, epoch: int, n_epoch: int) -> None:
    """Tell a network whose computation depends on the epoch that `epoch` (from 1) of `n_epoch` begins."""
    if hasattr(network, "begin_epoch"):
        network.begin_epoch(epoch, n_epoch)

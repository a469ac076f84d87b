"""From what a network says of a clip to a category for each of its segments."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Prediction(NamedTuple):
    """Per clip and segment; category indices run from 0 to C-1, C is background."""

    segments: Tensor  # [B, T] int64: predicted index
    category: Tensor  # [B] int64: the clip's category (weak: may be background)
    event_probability: Tensor  # [B, T] in (0, 1)


def spread_category(category: Tensor, is_event: Tensor, background: int) -> Tensor:
    """The clip's category [B] in its event segments [B, T] bool, background elsewhere -> [B, T] int64."""
    return torch.where(is_event, category.unsqueeze(1), background)


def hits(predicted: Tensor, target: Tensor) -> Tensor:
    """How many of a batch's predictions are right, and of how many: [2] float64."""
    return torch.stack([(predicted == target).sum(), torch.tensor(target.numel(), device=target.device)]).double()

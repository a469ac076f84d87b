"""What is counted of predictions: segments that are right, and the ceilings to read that number against."""

from __future__ import annotations

from torch import Tensor


def accuracy(predicted: Tensor, target: Tensor) -> float:
    """Percent of segments whose category, or background, is right: two [n, T] int64 tensors."""
    return 100.0 * (predicted == target).double().mean().item()


def right_category_everywhere(target: Tensor, background: int) -> float:
    """Accuracy, in percent, of naming the clip's right category in every one of its segments: target [n, T]."""
    return 100.0 * (target != background).double().mean().item()

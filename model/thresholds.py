"""Where to part scores into a lower and a higher group, from the scores alone."""

from __future__ import annotations

import torch
from torch import Tensor


def otsu_threshold(scores: Tensor) -> float:
    """The threshold that parts scores into two groups of least variance within (Otsu, 1979).

    Among all midpoints of neighbouring scores, the one with the largest variance between the groups. Below all
    scores when they are all equal. Raises ValueError for scores that aren't finite, and for none at all.
    """
    x = _sorted(scores)
    return _midpoint(x, _between(x).argmax()) if x[0] < x[-1] else x[0].item() - 1


def likely_threshold(scores: Tensor) -> float:
    """The maximum-likelihood threshold, which suits two groups of unlike size better than Otsu's.

    The scores are taken for draws from two normal distributions of one variance w and of shares p and 1 - p. Among
    all midpoints of neighbouring scores, the one with the least log w - 2 (p log p + (1 - p) log(1 - p)), where p is
    the share below it and w the variance within the groups. With p = 1/2 in the second term this is Otsu's.

    Source: Kurita, Otsu and Abdelmalek, "Maximum likelihood thresholding based on population mixture models" (1992).
    """
    x = _sorted(scores)
    if x[0] == x[-1]:
        return x[0].item() - 1
    below = torch.arange(1, len(x), device=x.device) / len(x)
    within = ((x - x.mean()).square().mean() - _between(x)).clamp_min(torch.finfo(x.dtype).tiny)
    entropy = -(below * below.log() + (1 - below) * (1 - below).log())
    unlikelihood = (within.log() + 2 * entropy).where(x[:-1] < x[1:], torch.inf)  # equal scores are in one group
    return _midpoint(x, unlikelihood.argmin())


def _sorted(scores: Tensor) -> Tensor:
    x = scores.double().flatten().sort().values
    if not len(x) or not x.isfinite().all():
        raise ValueError(
            "no threshold can be chosen: " + ("there are no scores" if not len(x) else "some scores are not finite")
        )
    return x


def _between(x: Tensor) -> Tensor:
    """Variance between the n lowest of N sorted scores and the others, for n = 1 ... N-1: [N-1]."""
    below = torch.arange(1, len(x), device=x.device)
    above = len(x) - below
    total = (x - x.mean()).cumsum(0)[:-1]  # of the lower group; the upper one's is its negative
    return total.square() / (below * above)


def _midpoint(x: Tensor, index: Tensor) -> float:
    return ((x[index] + x[index + 1]) / 2).item()

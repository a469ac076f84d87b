"""95 % intervals of a mean over clips and of the difference of two, by the bootstrap.

What is resampled: the clips, with replacement, and always the same ones for both networks and all of their seeds, since
these were evaluated on the same clips. A clip is drawn whole: its segments are not independent. Where a network was
trained with several seeds, its seeds are drawn with replacement too, each network's by themselves.

So with one seed an interval says what other clips would do to the number of this one checkpoint; with several it says
also what training again would. Clips and seeds drawn apart are the pigeonhole bootstrap of a table of seeds x clips
(Owen, Annals of Applied Statistics 1 (2007), pp. 386-411), which errs towards too wide an interval where seed and
clip interact. S seeds spread less around their own mean than around the true one, by sqrt(1 - 1/S), which is corrected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

RESAMPLES = 9999
_AT_A_TIME = 500  # resamples; fewer need less memory

Scores = np.ndarray  # [seeds, clips], any unit; NaN in clips that have no such score
Combine = Callable[[list[Any]], Any]  # the networks' means -> what the interval is of


class Interval(NamedTuple):
    """A number and its 95 % interval, in the unit of the scores; None where nothing or a single clip was scored."""

    value: float | None
    low: float | None
    high: float | None

    def text(self, sign: str = "") -> str:
        """The number, and in brackets its interval where there is one; `sign` is "+" for a difference."""
        if self.low is None or self.high is None:
            return number(self.value, sign)
        return f"{number(self.value, sign)} ({number(self.low, sign)} to {number(self.high, sign)})"


def number(value: float | None, sign: str = "") -> str:
    """A number with two digits after the point; "none" where there is none."""
    return "none" if value is None else f"{round(value, 2) + 0.0:{sign}.2f}"  # + 0.0: not -0.00


def mean_interval(scores: Scores) -> Interval:
    """The mean of a network's scores [seeds, clips], and its interval."""
    return _interval([np.asarray(scores)], lambda means: means[0])


def difference_interval(scores: Scores, base: Scores) -> Interval:
    """Mean of `scores` less mean of `base`, and the interval of this difference.

    Args:
        scores, base: of two networks on the same clips, [seeds, clips] each; the numbers of seeds may differ.

    Raises ValueError where they are of different numbers of clips.
    """
    return _interval([np.asarray(scores), np.asarray(base)], lambda means: means[0] - means[1])


def _interval(networks: list[np.ndarray], combine: Combine) -> Interval:
    """The interval of `combine(the networks' means)`."""
    if len({scores.shape[1:] for scores in networks}) > 1:
        raise ValueError(f"scores of different clips: {[list(scores.shape) for scores in networks]}")
    there = ~np.isnan(np.concatenate(networks)).any(0)
    networks = [scores[:, there] for scores in networks]
    clips = int(there.sum())
    value = float(combine([scores.mean() for scores in networks])) if clips else None
    if clips < 2:
        return Interval(value, None, None)
    low, high = bounds(networks, combine)
    return Interval(value, float(low), float(high))


def bounds(networks: list[np.ndarray], combine: Combine, resamples: int = RESAMPLES) -> tuple[Any, Any]:
    """Ends of the 95 % interval of `combine(the networks' means)`.

    Args:
        networks: [seeds, ..., clips] of each; where there are axes between, the ends are arrays of them.
    """
    from scipy.stats import bootstrap  # here: it takes a second to import

    rng = np.random.default_rng(0)  # the same scores have the same interval

    def statistic(*rows: np.ndarray, axis: int) -> np.ndarray:
        """Of resampled clips [..., resamples, clips], a row for each seed of each network."""
        means, left = [], iter(rows)
        for scores in networks:
            means.append(_of_drawn_seeds(np.stack([next(left).mean(axis) for _ in scores]), rng))
        return combine(means)

    rows = [row for scores in networks for row in scores]
    found = bootstrap(
        rows, statistic, paired=True, vectorized=True, axis=-1, method="percentile", n_resamples=resamples,
        batch=_AT_A_TIME, rng=rng,
    )  # fmt: skip
    return found.confidence_interval


def _of_drawn_seeds(means: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means [seeds, ..., resamples] of each seed -> mean of as many seeds, drawn with replacement, [..., resamples]."""
    seeds = len(means)
    if seeds == 1:
        return means[0]
    drawn = rng.integers(seeds, size=(seeds, means.shape[-1]))
    middle = means.mean(0)
    around = means[drawn, ..., np.arange(means.shape[-1])].mean(0)  # [resamples, ...]
    return middle + (np.moveaxis(around, 0, -1) - middle) * np.sqrt(seeds / (seeds - 1))

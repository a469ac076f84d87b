"""Intervals cover what they should, as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from utils.evaluation.intervals import Interval, bounds, difference_interval, mean_interval

SIMULATIONS = 300
DIFFERENCE = 2.0  # points by which the second network is better


def evaluations(seeds: int, clips: int, of_seed: float, of_clip: float, noise: float) -> list[np.ndarray]:
    """Scores of two networks in many simulated evaluations, [seeds, SIMULATIONS, clips] each.

    Clips are easy or hard for both networks, by more than anything else; `of_clip` is the spread of how much a clip
    suits one network better, `of_seed` that of how well a training turned out, `noise` what is of neither.
    """
    rng = np.random.default_rng(0)
    hardness = rng.normal(80, 20, (1, SIMULATIONS, clips))
    return [
        hardness
        + better
        + rng.normal(0, of_clip, (1, SIMULATIONS, clips))
        + rng.normal(0, of_seed, (seeds, SIMULATIONS, 1))
        + rng.normal(0, noise, (seeds, SIMULATIONS, clips))
        for better in (0, DIFFERENCE)
    ]


def coverage(networks: list[np.ndarray]) -> float:
    low, high = bounds(networks, lambda means: means[1] - means[0], resamples=399)
    assert low.shape == (SIMULATIONS,)
    return float(((low <= DIFFERENCE) & (high >= DIFFERENCE)).mean())


def test_a_known_difference_is_covered_at_the_nominal_rate() -> None:
    """Of 300 intervals 285 should hold the difference; the bounds are four standard errors, sqrt(0.95 * 0.05 / 300)."""
    one_seed = coverage(evaluations(seeds=1, clips=100, of_seed=0, of_clip=10, noise=5))
    assert 0.90 < one_seed < 0.995
    several = coverage(evaluations(seeds=3, clips=100, of_seed=0.5, of_clip=10, noise=5))
    assert 0.90 < several < 0.995


def test_the_spread_of_seeds_is_in_the_interval() -> None:
    """A difference between seeds that are far apart is not mistaken for one between networks."""
    networks = evaluations(seeds=5, clips=100, of_seed=5, of_clip=1, noise=1)
    assert coverage(networks) > 0.88
    assert coverage([np.mean(scores, 0, keepdims=True) for scores in networks]) < 0.5  # of the clips alone


def test_pairing_takes_out_how_hard_a_clip_is() -> None:
    base, better = (scores[:, 0] for scores in evaluations(1, 100, 0, 1, 1))
    paired = difference_interval(better, base)
    shuffled = difference_interval(better[:, np.random.default_rng(1).permutation(100)], base)
    assert paired.low < DIFFERENCE < paired.high
    assert 5 * (paired.high - paired.low) < shuffled.high - shuffled.low
    assert paired.value == pytest.approx(better.mean() - base.mean())


def test_an_interval_of_a_mean_is_the_textbooks() -> None:
    scores = np.random.default_rng(0).normal(70, 10, (1, 400))
    found = mean_interval(scores)
    half = 1.96 * scores.std(ddof=1) / 20
    assert found == pytest.approx((scores.mean(), scores.mean() - half, scores.mean() + half), abs=0.1)


def test_the_same_scores_have_the_same_interval() -> None:
    scores = np.random.default_rng(0).random((3, 50))
    assert mean_interval(scores) == mean_interval(scores.copy())
    assert difference_interval(scores, scores[::-1]).value == pytest.approx(0)


def test_clips_without_a_score_are_left_out() -> None:
    scores = np.array([[0.0, 100, np.nan, 100], [0, 0, np.nan, 100]])
    whole = scores[:, [0, 1, 3]]
    assert mean_interval(scores) == mean_interval(whole)
    assert difference_interval(scores, np.array([[1, 1, np.nan, 1]])) == difference_interval(whole, np.ones((1, 3)))


def test_few_clips_and_other_clips() -> None:
    assert mean_interval(np.array([[50.0]])) == (50, None, None)
    assert mean_interval(np.array([[np.nan, np.nan]])) == (None, None, None)
    with pytest.raises(ValueError, match="different clips"):
        difference_interval(np.zeros((1, 3)), np.zeros((1, 4)))


def test_an_interval_in_words() -> None:
    assert Interval(50.0, None, None).text("+") == "+50.00"
    assert Interval(None, None, None).text() == "none"
    assert Interval(-0.001, -0.004, 0.2).text("+") == "+0.00 (+0.00 to +0.20)"

"""Scores of clips against numbers worked out by hand, and against a plain reading of open-vocabulary AVEL's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from made_evaluation import BACKGROUND as B
from made_evaluation import made_evaluation, rows

from utils.evaluation import metrics
from utils.evaluation.clip_scores import SCORES, clip_scores, means


def test_naming_and_timing_are_told_apart() -> None:
    target = rows("0000......", "1111......")
    times_well = clip_scores(rows("1111......", "0000......"), target, np.array([1, 0]), B)
    assert means(times_well) == pytest.approx(
        # Background and its one run are right, two categories of a clip are wrong: 1/3.
        {
            "accuracy": 60,
            "category_accuracy": 0,
            "event_background_accuracy": 100,
            "segment_f1": 100 / 3,
            "event_f1": 100 / 3,
        }
    )
    names_well = clip_scores(rows("0000000000", "1111111111"), target, np.array([0, 1]), B)
    assert means(names_well) == pytest.approx(
        # Category: 2 * 4 / 14 of segments, IoU 4/10 of the event; background: nothing is right.
        {
            "accuracy": 40,
            "category_accuracy": 100,
            "event_background_accuracy": 40,
            "segment_f1": 200 / 7,
            "event_f1": 0,
        }
    )


def test_a_clip_without_an_event_has_no_category() -> None:
    target = rows("......", "00....")
    scores = clip_scores(target, target, np.array([1, 0]), B)
    assert np.isnan(scores["category_accuracy"]).tolist() == [True, False]
    assert means(scores) == dict.fromkeys(SCORES, 100)
    assert means(clip_scores(target[:1], target[:1], np.array([1]), B))["category_accuracy"] is None


def test_f1_of_each_clip_by_hand() -> None:
    target, predicted = rows("00..00..", "0011...."), rows("00..0011", "0000....")
    scores = clip_scores(predicted, target, np.zeros(2, int), B)
    # First clip: category 0 has 4 and 4 segments, all right; 1 has 0 and 2; background 4 and 2, 2 of them right.
    # Events: 0 has two and two, right; 1 none and one; background two and one, one of them right.
    f1 = 100 * np.array([(8 / 8 + 0 + 4 / 6) / 3, (4 / 6 + 0 + 8 / 8) / 3])
    assert scores["segment_f1"] == pytest.approx(f1)
    # Second clip: category 0's run of 2 in one of 4 has IoU 0.5, which is enough; 1 is missed; background is right.
    assert scores["event_f1"] == pytest.approx(100 * np.array([(4 / 4 + 0 + 2 / 3) / 3, (2 / 2 + 0 + 1) / 3]))


def runs(segments: list[int], category: int) -> list[set[int]]:
    groups = itertools.groupby(enumerate(segments), key=lambda pair: pair[1])
    return [{t for t, _ in group} for value, group in groups if value == category]


def plain_f1(predicted: list[int], target: list[int]) -> tuple[float, float]:
    """Segment and event F1 of a clip, by sets of its segments."""
    segment_f1, event_f1 = [], []
    for category in {*predicted, *target}:
        said, true = ({t for t, value in enumerate(x) if value == category} for x in (predicted, target))
        segment_f1.append(2 * len(said & true) / (len(said) + len(true)))
        found, annotated = runs(predicted, category), runs(target, category)
        right = sum(any(2 * len(x & y) >= len(x | y) for y in annotated) for x in found)
        missed = sum(not any(2 * len(x & y) >= len(x | y) for x in found) for y in annotated)
        event_f1.append(2 * right / (2 * right + (len(found) - right) + missed))
    return 100 * float(np.mean(segment_f1)), 100 * float(np.mean(event_f1))


def test_f1_is_open_vocabulary_avels() -> None:
    rng = np.random.default_rng(0)
    target = np.repeat(rng.integers(0, 4, (400, 5)), 2, 1)
    predicted = np.where(rng.random(target.shape) < 0.7, target, rng.integers(0, 4, target.shape))
    predicted[:40], target[20:60] = 3, 3  # clips of background alone
    scores = clip_scores(predicted, target, predicted[:, 0], 3)
    plain = [plain_f1(said, true) for said, true in zip(predicted.tolist(), target.tolist(), strict=True)]
    assert np.stack([scores["segment_f1"], scores["event_f1"]], 1) == pytest.approx(np.array(plain))


def test_metrics_json_has_the_means() -> None:
    result = made_evaluation(300, 5)
    found = metrics.detailed(result, list("abcde"))["naming_and_timing"]
    arrays = (x.numpy() for x in (result.segments, result.target, result.category))
    expected = means(clip_scores(*arrays, 5))
    assert expected.pop("accuracy") == pytest.approx(result.accuracy)
    assert found == expected

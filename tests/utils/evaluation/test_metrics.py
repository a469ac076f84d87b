"""Metrics against numbers worked out by hand, and against the libraries' own on made-up predictions."""

from __future__ import annotations

import numpy as np
import pytest
from made_evaluation import BACKGROUND as B
from made_evaluation import made_evaluation, rows
from sklearn.calibration import calibration_curve

from utils.evaluation import metrics


def test_errors_and_accuracy_add_up_to_everything() -> None:
    target, predicted = rows("00....", "111..."), rows("0.1...", "101..1")
    found = metrics.errors(predicted, target, B)
    assert found == pytest.approx({"missed": 100 / 12, "false_alarm": 200 / 12, "wrong_category": 100 / 12})
    assert sum(found.values()) + 100 * (predicted == target).mean() == pytest.approx(100)


def test_scores_of_nothing_are_none() -> None:
    nothing = rows("......")
    assert metrics.separation(np.zeros((1, 6)), nothing != B) == {"ap": None, "auc": None}
    table = metrics.per_category(nothing, nothing, ["a", "b"])
    assert [row["precision"] for row in table] == [None, None, 100]
    assert [row["accuracy"] for row in table] == [None, None, 100]


def test_per_category_by_hand() -> None:
    target, predicted = rows("000...", "1111..", "......"), rows("001...", "11..00", "......")
    first, second, background = metrics.per_category(predicted, target, ["a", "b"])
    assert first == {
        "category": "a",
        "accuracy": pytest.approx(500 / 6),
        "precision": pytest.approx(50),
        "recall": pytest.approx(200 / 3),
        "f1": pytest.approx(400 / 7),
        "clips": 1,
        "segments": 3,
    }
    assert second["accuracy"] == pytest.approx(200 / 6)
    assert second["precision"] == pytest.approx(200 / 3)
    assert background["recall"] == pytest.approx(900 / 11)
    assert background["clips"] == 1


def test_category_accuracies_weighted_by_clips_give_the_accuracy() -> None:
    result = made_evaluation(300, 5)
    table = metrics.per_category(result.segments.numpy(), result.target.numpy(), list("abcde"))
    total = sum(row["accuracy"] * row["clips"] for row in table) / 300
    assert total == pytest.approx(result.accuracy)


def test_confusion_matrix_has_annotated_rows() -> None:
    matrix = metrics.confusion_matrix(rows("01."), rows("00."), B)
    assert matrix.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_separation_by_hand() -> None:
    score, is_event = np.array([[0.9, 0.8, 0.7, 0.1]]), np.array([[True, False, True, False]])
    # By falling score: precision 1 at recall 1/2, 2/3 at recall 1. Three of four pairs are in order.
    assert metrics.separation(score, is_event) == pytest.approx({"ap": 100 * (0.5 + 0.5 * 2 / 3), "auc": 75})
    assert metrics.separation(1 - score, is_event)["auc"] == pytest.approx(25)


def test_calibration_by_hand() -> None:
    score = np.array([[0.0, 0.05, 0.1, 0.95, 1.0]])  # a bin holds its upper end, and the first 0 too
    is_event = np.array([[False, False, True, True, True]])
    found = metrics.calibration(score, is_event)
    assert [row["segments"] for row in found["bins"]] == [3, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert found["bins"][0] == {"segments": 3, "score": pytest.approx(0.05), "event_share": pytest.approx(1 / 3)}
    assert found["bins"][1] == {"segments": 0, "score": None, "event_share": None}
    assert found["error"] == pytest.approx(100 * (3 / 5 * (1 / 3 - 0.05) + 2 / 5 * 0.025))


def test_calibration_is_scikit_learns() -> None:
    result = made_evaluation(200, 3)
    score, is_event = result.event_probability.double().numpy(), (result.target != 3).numpy()
    bins = [row for row in metrics.calibration(score, is_event)["bins"] if row["segments"]]
    shares, scores = calibration_curve(is_event.ravel(), score.ravel(), n_bins=metrics.CALIBRATION_BINS)
    assert [row["event_share"] for row in bins] == pytest.approx(shares.tolist())
    assert [row["score"] for row in bins] == pytest.approx(scores.tolist())


def test_accuracy_along_time_by_hand() -> None:
    target, predicted = rows("..000.", "......", "1....."), rows(".0000.", "......", ".....1")
    assert metrics.by_event_length(predicted, target, B) == [
        {"seconds": 0, "accuracy": 100, "clips": 1},
        {"seconds": 1, "accuracy": pytest.approx(400 / 6), "clips": 1},
        {"seconds": 3, "accuracy": pytest.approx(500 / 6), "clips": 1},
    ]
    seconds = metrics.by_second(predicted, target, B)
    assert [row["accuracy"] for row in seconds] == pytest.approx([200 / 3, 200 / 3, 100, 100, 100, 200 / 3])
    assert [row["event_share"] for row in seconds] == pytest.approx([100 / 3, 0, 100 / 3, 100 / 3, 100 / 3, 0])
    positions = {
        row["position"]: (row["accuracy"], row["segments"]) for row in metrics.by_position(predicted, target, B)
    }
    assert positions == {
        "before": (50, 2),
        "first second": (50, 2),
        "inside": (100, 1),
        "last second": (100, 1),
        "after": (pytest.approx(500 / 6), 6),
    }

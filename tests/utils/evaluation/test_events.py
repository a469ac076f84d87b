"""Events against numbers worked out by hand."""

from __future__ import annotations

import pytest
from made_evaluation import BACKGROUND as B
from made_evaluation import rows

from utils.evaluation import events


def test_events_are_longest_runs_of_a_category() -> None:
    found = events.events(rows("00.011", "......", "1....1"), B)
    assert list(zip(*(column.tolist() for column in found), strict=True)) == [
        (0, 0, 0, 2),
        (0, 0, 3, 4),
        (0, 1, 4, 6),
        (2, 1, 0, 1),
        (2, 1, 5, 6),
    ]


def test_event_scores_by_hand() -> None:
    # IoU 4/5; the right time with the wrong category; a false alarm; an event that is missed.
    target = rows("00000.....", "1111......", "..........", ".....00000")
    predicted = rows("0000......", "0000......", "..11......", "..........")
    found = events.event_scores(predicted, target, B)
    assert (found["predicted"], found["annotated"]) == (3, 3)
    assert found["iou_0.5"] == pytest.approx({"precision": 100 / 3, "recall": 100 / 3, "f1": 100 / 3})
    # The one match counts at IoU 0.1 to 0.8, and no longer at 0.9.
    assert found["iou_0.1_to_0.9"] == pytest.approx(dict.fromkeys(("precision", "recall", "f1"), 800 / 27))


@pytest.mark.parametrize(("predicted", "right"), [("00000.....", 1), ("0000......", 0)])
def test_an_iou_equal_to_the_threshold_is_enough(predicted: str, right: int) -> None:
    assert events.event_scores(rows(predicted), rows("0" * 10), B)["iou_0.5"]["recall"] == 100 * right


def test_an_annotated_event_counts_once_and_the_better_match_first() -> None:
    target, predicted = rows("0000000..."), rows("00.0000...")
    found = events.event_scores(predicted, target, B)["iou_0.5"]  # 4/7 matches, 2/7 doesn't
    assert found == pytest.approx({"precision": 50, "recall": 100, "f1": 200 / 3})
    low = events._matches(events.overlaps(events.events(predicted, B), events.events(target, B)), 0.1)
    assert low == 1


def test_scores_of_no_events_are_none() -> None:
    nothing = rows("......")
    found = events.event_scores(nothing, nothing, B)
    assert found["iou_0.5"] == found["iou_0.1_to_0.9"] == {"precision": None, "recall": None, "f1": None}

"""Each clip's scores, whose means over the clips are an evaluation's numbers: so a number has an interval.

A network can go wrong in naming an event and in timing it. `category_accuracy` tells of the first alone,
`event_background_accuracy` of the second alone, the others of both.
"""

from __future__ import annotations

import numpy as np

from utils.evaluation.events import IOU_ROUNDING, events, overlaps

ACCURACY = "accuracy"
# Of `clip_scores`, in words for tables and reports; ACCURACY comes first.
SCORES = {
    ACCURACY: "segments right",
    "category_accuracy": "clip's category right",
    "event_background_accuracy": "event or background right",
    "segment_f1": "segment F1",
    "event_f1": "event F1, IoU 0.5",
}


def clip_scores(
    predicted: np.ndarray, target: np.ndarray, category: np.ndarray, background: int
) -> dict[str, np.ndarray]:
    """Scores of each clip by the names of SCORES, in percent: [n] float64 each.

    Args:
        predicted, target: [n, T] category indices, C is background.
        category: [n] the category that the network gives the clip as a whole.
        background: C.

    `accuracy`: segments that are right. `category_accuracy`: 100 where the clip's category is right, the one of most
    of its annotated event segments, and NaN in a clip without an event, which has none. `event_background_accuracy`:
    segments that are rightly an event or background, whatever the category.

    `segment_f1` and `event_f1` are those of open-vocabulary AVEL: for each category that the clip is predicted or
    annotated to have, F1 = 2 right / (predicted + annotated), counted in segments, or in events (longest runs of
    segments of a category) that are right at an IoU of at least 0.5; then the mean over these categories. Background
    is a category here as any other, with runs of its own. They differ from the F1 of `event_scores`, which counts the
    events of all clips together and knows none of background: a clip with many events weighs more there, and one
    without any doesn't count.

    Source: Zhou et al., "Towards Open-Vocabulary Audio-Visual Event Localization" (CVPR 2025), as its released code
    (github.com/jasongief/OV-AVEL, `segment_level` and `event_level` of utils/eval_metrics.py) computes them, after
    Tian et al., "Unified Multisensory Perception" (ECCV 2020), where background doesn't count.
    """
    of_clip, is_event = clip_categories(target, background), target != background
    return {
        ACCURACY: _percent(predicted == target),
        "category_accuracy": np.where(is_event.any(1), 100.0 * (category == of_clip), np.nan),
        "event_background_accuracy": _percent((predicted != background) == is_event),
        "segment_f1": _segment_f1(predicted, target, background + 1),
        "event_f1": _event_f1(predicted, target, background + 1),
    }


def means(scores: dict[str, np.ndarray]) -> dict[str, float | None]:
    """The mean of each score over the clips that have it; None where no clip has."""
    return {name: None if np.isnan(values).all() else float(np.nanmean(values)) for name, values in scores.items()}


def clip_categories(target: np.ndarray, background: int) -> np.ndarray:
    """The category of most of a clip's event segments, `background` in a clip without any: [n, T] -> [n] int64."""
    counts = np.stack([(target == index).sum(1) for index in range(background)], 1)
    return np.where(counts.any(1), counts.argmax(1), background)


def _percent(right: np.ndarray) -> np.ndarray:
    return 100.0 * right.mean(1)


def _segment_f1(predicted: np.ndarray, target: np.ndarray, categories: int) -> np.ndarray:
    clips, shape = np.indices(target.shape)[0], (len(target), categories)
    right = predicted == target
    pairs = ((clips[right], target[right]), (clips, predicted), (clips, target))
    return _mean_f1(*(_count(*pair, shape) for pair in pairs))


def _event_f1(predicted: np.ndarray, target: np.ndarray, categories: int) -> np.ndarray:
    found, annotated, shape = events(predicted), events(target), (len(target), categories)
    # At an IoU of 0.5 no event has two others: these would lie apart, and so fill less than the union.
    matched = [i for iou, i, _ in overlaps(found, annotated) if iou >= 0.5 - IOU_ROUNDING]
    pairs = ((found.clip[matched], found.category[matched]), found[:2], annotated[:2])
    return _mean_f1(*(_count(*pair, shape) for pair in pairs))


def _count(clip: np.ndarray, category: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """How often each category is among some of each clip: two arrays of one shape -> [n, C+1] float64."""
    counts = np.zeros(shape)
    np.add.at(counts, (clip, category), 1)
    return counts


def _mean_f1(right: np.ndarray, predicted: np.ndarray, annotated: np.ndarray) -> np.ndarray:
    """Each clip's mean F1 over the categories that it has, in percent: counts [n, C+1] -> [n]."""
    either = predicted + annotated
    f1 = np.divide(2 * right, either, out=np.zeros_like(either), where=either > 0)
    return 100.0 * f1.sum(1) / (either > 0).sum(1)

"""Metrics of predictions: by segment, event and category, and how well a score tells events from background.

Arrays are [n, T]: n clips of T segments. A category index runs from 0 to C-1, C is background. Shares are in
percent; a share of nothing (the precision of a category that is never predicted) is None.
"""

from __future__ import annotations

import importlib
import random
from types import ModuleType
from typing import Any

import numpy as np

from utils.evaluation.clip_scores import ACCURACY, clip_categories, clip_scores, means
from utils.evaluation.evaluate import Evaluation
from utils.evaluation.events import event_scores

CALIBRATION_BINS = 10
POSITIONS = ("before", "first second", "inside", "last second", "after")  # of a segment, seen from the clip's event


def detailed(result: Evaluation, categories: list[str]) -> dict[str, Any]:
    """Everything that is reported of an evaluation besides its accuracy, as JSON can hold it.

    Args:
        categories: [C] names.
    """
    predicted, target = result.segments.numpy(), result.target.numpy()
    background = len(categories)
    scores = {"event_probability": result.event_probability, **result.scores}  # of a segment, each in [0, 1]
    scores = {name: values.double().numpy() for name, values in scores.items()}
    is_event = target != background
    confusion = confusion_matrix(predicted, target, background)
    return {
        "categories": categories,
        "naming_and_timing": naming_and_timing(result, background),
        "errors": errors(predicted, target, background),
        "events": event_scores(predicted, target, background),
        "separation": {name: separation(values, is_event) for name, values in scores.items()},
        "calibration": {name: calibration(values, is_event) for name, values in scores.items()},
        "per_category": per_category(predicted, target, categories),
        "by_event_length": by_event_length(predicted, target, background),
        "by_second": by_second(predicted, target, background),
        "by_position": by_position(predicted, target, background),
        "confusion_matrix": confusion.tolist(),
    }


def naming_and_timing(result: Evaluation, background: int) -> dict[str, float | None]:
    """The mean over clips of each of the `clip_scores` except the accuracy, in percent."""
    arrays = (tensor.numpy() for tensor in (result.segments, result.target, result.category))
    found = means(clip_scores(*arrays, background))
    return {name: value for name, value in found.items() if name != ACCURACY}


def errors(predicted: np.ndarray, target: np.ndarray, background: int) -> dict[str, float]:
    """Shares of all segments that are wrong, by kind; with the accuracy they add up to 100.

    `missed`: an event taken for background. `false_alarm`: background taken for an event. `wrong_category`: an
    event taken for another category's.
    """
    wrong = predicted != target
    return {
        "missed": _percent(wrong & (predicted == background)),
        "false_alarm": _percent(wrong & (target == background)),
        "wrong_category": _percent(wrong & (predicted != background) & (target != background)),
    }


def confusion_matrix(predicted: np.ndarray, target: np.ndarray, background: int) -> np.ndarray:
    """Segments by annotated (row) and predicted (column) category, background last: [C+1, C+1] int64."""
    return _sklearn().confusion_matrix(target.ravel(), predicted.ravel(), labels=np.arange(background + 1))


def per_category(predicted: np.ndarray, target: np.ndarray, categories: list[str]) -> list[dict[str, Any]]:
    """A row for each category, and a last one for background.

    `precision`, `recall` and `f1` are over segments: of those predicted as the category, of those annotated with
    it. `accuracy` is that of all segments, background ones too, of the `clips` whose event has the category (the
    category of most of a clip's event segments; for the row of background: clips without an event), so that the
    rows' accuracies, weighted by clips, give the split's.
    """
    columns = _sklearn().precision_recall_fscore_support(
        target.ravel(), predicted.ravel(), labels=np.arange(len(categories) + 1), zero_division=np.nan
    )
    of_clip = clip_categories(target, len(categories))
    right = (predicted == target).mean(1)
    return [
        {
            "category": name,
            "accuracy": _percent(right[of_clip == index]),
            "precision": _number(100 * precision),
            "recall": _number(100 * recall),
            "f1": _number(100 * f1),
            "clips": int((of_clip == index).sum()),
            "segments": int(segments),
        }
        for index, (name, precision, recall, f1, segments) in enumerate(
            zip([*categories, "background"], *columns, strict=True)
        )
    ]


def separation(score: np.ndarray, is_event: np.ndarray) -> dict[str, float | None]:
    """How well a score tells event from background segments, whatever their category; in percent.

    `ap`: average precision, sum_k (R_k - R_{k-1}) P_k over the score's thresholds (scikit-learn's definition).
    `auc`: area under the ROC curve, the chance that an event segment scores above a background segment.
    A score that knows nothing has the share of events as its AP and 50 as its AUC.
    """
    if is_event.all() or not is_event.any():
        return {"ap": None, "auc": None}
    truth, values, metrics = is_event.ravel(), score.ravel(), _sklearn()
    return {
        "ap": 100 * float(metrics.average_precision_score(truth, values)),
        "auc": 100 * float(metrics.roc_auc_score(truth, values)),
    }


def calibration(score: np.ndarray, is_event: np.ndarray) -> dict[str, Any]:
    """The share of events among segments of like score, in ten equally wide bins, as a reliability diagram shows.

    `bins`: `segments`, mean `score` and `event_share` (0 to 1) of each; a bin k holds k/10 < score <= (k+1)/10.
    `error`: expected calibration error, the mean over segments of |score - event_share| of their bin, in percent.

    Source: Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning" (AAAI 2015); Guo et al.,
    "On calibration of modern neural networks" (ICML 2017).
    """
    values, truth = score.ravel(), is_event.ravel()
    inner_edges = np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]
    bins = np.searchsorted(inner_edges, values)
    segments = np.bincount(bins, minlength=CALIBRATION_BINS)
    scores = np.bincount(bins, values, minlength=CALIBRATION_BINS)
    happened = np.bincount(bins, truth, minlength=CALIBRATION_BINS)
    rows = [
        {"segments": int(n), "score": s / n if n else None, "event_share": h / n if n else None}
        for n, s, h in zip(segments, scores.tolist(), happened.tolist(), strict=True)
    ]
    return {"bins": rows, "error": 100 * float(np.abs(scores - happened).sum() / len(values))}


def by_event_length(predicted: np.ndarray, target: np.ndarray, background: int) -> list[dict[str, Any]]:
    """Accuracy of the clips with 0, 1, ..., T seconds of event; lengths that no clip has are left out."""
    lengths = (target != background).sum(1)
    right = (predicted == target).mean(1)
    return [
        {"seconds": int(length), "accuracy": _percent(right[lengths == length]), "clips": int(count)}
        for length, count in zip(*np.unique(lengths, return_counts=True), strict=True)
    ]


def by_second(predicted: np.ndarray, target: np.ndarray, background: int) -> list[dict[str, Any]]:
    """Accuracy at each of the T positions in the clip, and the share of event segments there."""
    right, is_event = predicted == target, target != background
    return [
        {"second": t, "accuracy": _percent(right[:, t]), "event_share": _percent(is_event[:, t])}
        for t in range(target.shape[1])
    ]


def by_position(predicted: np.ndarray, target: np.ndarray, background: int) -> list[dict[str, Any]]:
    """Accuracy by where a segment stands relative to its clip's events.

    Positions: background before the first event, an event's first second, inside it, its last second (an event of one
    second is its own first), background after an event. Clips without an event have none.
    """
    is_event = target != background
    edge = np.full((len(target), 1), -1)
    starts = is_event & (target != np.concatenate([edge, target[:, :-1]], 1))
    ends = is_event & (target != np.concatenate([target[:, 1:], edge], 1))
    begun = np.logical_or.accumulate(is_event, 1)
    masks = (
        ~begun & is_event.any(1, keepdims=True),
        starts,
        is_event & ~starts & ~ends,
        ends & ~starts,
        begun & ~is_event,
    )
    right = predicted == target
    return [
        {"position": position, "accuracy": _percent(right[mask]), "segments": int(mask.sum())}
        for position, mask in zip(POSITIONS, masks, strict=True)
    ]


def _sklearn() -> ModuleType:
    """scikit-learn's metrics, imported when they are first needed: that takes a second."""
    state = random.getstate()  # which a run saves, and the import draws from it
    metrics = importlib.import_module("sklearn.metrics")
    random.setstate(state)
    return metrics


def _percent(values: np.ndarray) -> float | None:
    return 100 * float(values.mean()) if values.size else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)

"""What is counted of predictions: segments, events, categories, and how well a probability tells events apart.

Arrays are [n, T]: n clips of T segments. A category index runs from 0 to C-1, C is background. Shares are in
percent; a share of nothing (the precision of a category that is never predicted) is None.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from utils.evaluation.evaluate import Evaluation

IOU_THRESHOLDS = tuple(round(0.1 * k, 1) for k in range(1, 10))  # 0.1 ... 0.9
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
        "errors": errors(predicted, target, background),
        "events": event_scores(predicted, target, background),
        "separation": {name: separation(values, is_event) for name, values in scores.items()},
        "calibration": {name: calibration(values, is_event) for name, values in scores.items()},
        "per_category": per_category(predicted, target, categories),
        "by_event_length": by_event_length(predicted, target, background),
        "by_second": by_second(predicted, target, background),
        "by_place": by_place(predicted, target, background),
        "confusion_matrix": confusion.tolist(),
    }


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


class Events(NamedTuple):
    """Events of many clips, in the order of clips and time: four [m] int64 arrays; `end` is exclusive."""

    clip: np.ndarray
    category: np.ndarray
    start: np.ndarray
    end: np.ndarray


def events(segments: np.ndarray, background: int) -> Events:
    """Events of [n, T] category indices: an event is a longest run of segments of one category.

    Source: the event-level evaluation of Tian et al., "Unified Multisensory Perception" (ECCV 2020), which joins
    positive consecutive snippets of a category to an event.
    """
    edge = np.full((len(segments), 1), -1)
    changes = np.diff(np.concatenate([edge, segments, edge], 1), axis=1) != 0  # [n, T+1]
    clip, start = np.nonzero(changes[:, :-1])
    end = np.nonzero(changes[:, 1:])[1] + 1
    category = segments[clip, start]
    kept = category != background
    return Events(clip[kept], category[kept], start[kept], end[kept])


def event_scores(predicted: np.ndarray, target: np.ndarray, background: int) -> dict[str, Any]:
    """Event-level precision, recall and F1 at IoU 0.5, and each one's mean over IoU 0.1, 0.2, ..., 0.9.

    A predicted event is right when an annotated event of the same clip and category overlaps it with an
    intersection over union of at least the threshold; each annotated event counts once, pairs of higher IoU
    first. Counts are over all clips (micro average).

    Source: event-level F-score at mIoU 0.5 as in Tian et al. (ECCV 2020), matched one to one as in temporal
    action localization (ActivityNet, Heilbron et al., CVPR 2015), summed over clips as the event-based metrics of
    Mesaros et al., "Metrics for polyphonic sound event detection" (2016), whose F1 this is.
    """
    found, true = events(predicted, background), events(target, background)
    pairs = _overlaps(found, true)
    counts = {threshold: _matches(pairs, threshold) for threshold in IOU_THRESHOLDS}
    scores = {threshold: _prf(count, len(found.clip), len(true.clip)) for threshold, count in counts.items()}
    mean = {name: _mean([score[name] for score in scores.values()]) for name in ("precision", "recall", "f1")}
    return {"iou_0.5": scores[0.5], "iou_0.1_to_0.9": mean, "predicted": len(found.clip), "annotated": len(true.clip)}


def _overlaps(found: Events, true: Events) -> list[tuple[float, int, int]]:
    """(IoU, predicted event, annotated event) of overlapping pairs of one clip and category, highest IoU first."""
    by_key: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for j, (clip, category, start, end) in enumerate(zip(*(column.tolist() for column in true), strict=True)):
        by_key.setdefault((clip, category), []).append((j, start, end))
    pairs = []
    for i, (clip, category, start, end) in enumerate(zip(*(column.tolist() for column in found), strict=True)):
        for j, true_start, true_end in by_key.get((clip, category), []):
            common = min(end, true_end) - max(start, true_start)
            if common > 0:
                pairs.append((common / (end - start + true_end - true_start - common), i, j))
    return sorted(pairs, key=lambda pair: (-pair[0], *pair[1:]))


def _matches(pairs: list[tuple[float, int, int]], threshold: float) -> int:
    found, true = set(), set()
    for iou, i, j in pairs:
        if iou < threshold - 1e-9:  # 3 / 10 and 0.3 are the same share
            break
        if i not in found and j not in true:
            found.add(i)
            true.add(j)
    return len(found)


def _prf(right: int, predicted: int, annotated: int) -> dict[str, float | None]:
    """Precision, recall and F1 = 2 right / (predicted + annotated), in percent."""
    return {
        "precision": _share(right, predicted),
        "recall": _share(right, annotated),
        "f1": _share(2 * right, predicted + annotated),
    }


def confusion_matrix(predicted: np.ndarray, target: np.ndarray, background: int) -> np.ndarray:
    """Segments by annotated (row) and predicted (column) category, background last: [C+1, C+1] int64."""
    from sklearn.metrics import confusion_matrix  # here: only a report needs it, and it takes a second to import

    return confusion_matrix(target.ravel(), predicted.ravel(), labels=np.arange(background + 1))


def per_category(predicted: np.ndarray, target: np.ndarray, categories: list[str]) -> list[dict[str, Any]]:
    """A row for each category, and a last one for background.

    `precision`, `recall` and `f1` are over segments: of those predicted as the category, of those annotated with
    it. `accuracy` is that of all segments, background ones too, of the `clips` whose event has the category (the
    category of most of a clip's event segments; for the row of background: clips without an event), so that the
    rows' accuracies, weighted by clips, give the split's.
    """
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(
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


def clip_categories(target: np.ndarray, background: int) -> np.ndarray:
    """The category of most of a clip's event segments, `background` in a clip without any: [n, T] -> [n] int64."""
    counts = np.stack([(target == index).sum(1) for index in range(background)], 1)
    return np.where(counts.any(1), counts.argmax(1), background)


def separation(score: np.ndarray, is_event: np.ndarray) -> dict[str, float | None]:
    """How well a score tells event from background segments, whatever their category; in percent.

    `ap`: average precision, sum_k (R_k - R_{k-1}) P_k over the score's thresholds (scikit-learn's definition).
    `auc`: area under the ROC curve, the chance that an event segment scores above a background segment.
    A score that knows nothing has the share of events as its AP and 50 as its AUC.
    """
    if is_event.all() or not is_event.any():
        return {"ap": None, "auc": None}
    from sklearn.metrics import average_precision_score, roc_auc_score

    truth, values = is_event.ravel(), score.ravel()
    return {
        "ap": 100 * float(average_precision_score(truth, values)),
        "auc": 100 * float(roc_auc_score(truth, values)),
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


def by_place(predicted: np.ndarray, target: np.ndarray, background: int) -> list[dict[str, Any]]:
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
        {"place": position, "accuracy": _percent(right[mask]), "segments": int(mask.sum())}
        for position, mask in zip(POSITIONS, masks, strict=True)
    ]


def _percent(values: np.ndarray) -> float | None:
    return 100 * float(values.mean()) if values.size else None


def _share(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def _mean(values: list[float | None]) -> float | None:
    return None if None in values else float(np.mean(values))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)

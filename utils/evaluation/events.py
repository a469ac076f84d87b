"""Events: runs of segments of one category, and how many of those predicted are among those annotated."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

IOU_THRESHOLDS = tuple(round(0.1 * k, 1) for k in range(1, 10))  # 0.1 ... 0.9
IOU_ROUNDING = 1e-9  # 3 / 10 and 0.3 are the same share


class Events(NamedTuple):
    """Events of many clips, in the order of clips and time: four [m] int64 arrays; `end` is exclusive."""

    clip: np.ndarray
    category: np.ndarray
    start: np.ndarray
    end: np.ndarray


def events(segments: np.ndarray, background: int | None = None) -> Events:
    """Events of [n, T] category indices: an event is a longest run of segments of one category.

    Args:
        background: the index whose runs are no events; None: each index is a category's.

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
    pairs = overlaps(found, true)
    counts = {threshold: _matches(pairs, threshold) for threshold in IOU_THRESHOLDS}
    scores = {threshold: _prf(count, len(found.clip), len(true.clip)) for threshold, count in counts.items()}
    mean = {name: _mean([score[name] for score in scores.values()]) for name in ("precision", "recall", "f1")}
    return {"iou_0.5": scores[0.5], "iou_0.1_to_0.9": mean, "predicted": len(found.clip), "annotated": len(true.clip)}


def overlaps(found: Events, true: Events) -> list[tuple[float, int, int]]:
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
        if iou < threshold - IOU_ROUNDING:
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


def _share(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def _mean(values: list[float | None]) -> float | None:
    return None if None in values else float(np.mean(values))

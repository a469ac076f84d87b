"""Categories and labels, from `Annotations.txt` or from the label files of a data folder.

A line of `Annotations.txt` is `category&id&quality&start&end`; line i describes row i of every feature
and label file. Categories are numbered by first appearance, an event fills the segments start..end-1,
and every other segment is background, the last column. On AVE these two rules give `mil_labels.h5` and
`labels_closs.h5` exactly.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset import files
from dataset.arrays import array_file, say_once
from utils.base.errors import UserError
from utils.base.text import read_lines

SEGMENTS = 10  # of an AVE clip, one second each
MINIMUM_SEGMENTS = 4  # both networks average a category over its 4 highest segments


class Annotation(NamedTuple):
    """One line of Annotations.txt: an event of `category` in the segments start..end-1 of clip `id`."""

    category: str
    id: str
    quality: str
    start: int
    end: int


def read_annotations(path: str | os.PathLike) -> list[Annotation]:
    """Read `Annotations.txt`; the result's item i describes row i of the feature files.

    A first line that names the columns is passed over. Raises UserError with the line's number for a
    missing field, a time that isn't a whole number of seconds, or an event that ends before it starts.
    """
    path = Path(path)
    lines = read_lines(path, advice=files.HOW_TO_GET_DATA)
    while lines and not lines[-1].strip():
        lines.pop()
    numbered = [(f"{path}, line {number}", line) for number, line in enumerate(lines, start=1)]
    if numbered and numbered[0][1].lower().startswith("category&videoid&"):
        del numbered[0]
    annotations = [_annotation(line, where) for where, line in numbered]
    if not annotations:
        raise UserError(f"{path}: holds no annotation; each line is category&id&quality&start&end")
    return annotations


def _annotation(line: str, where: str) -> Annotation:
    fields = [field.strip() for field in line.split("&")]
    if len(fields) != 5 or not fields[0]:
        raise UserError(f"{where}: has {len(fields)} fields in {line[:80]!r}; a line is category&id&quality&start&end")
    try:
        start, end = (int(field) for field in fields[3:])
    except ValueError:
        raise UserError(f"{where}: start and end must be whole seconds, not {fields[3]!r} and {fields[4]!r}") from None
    if not 0 <= start <= end:
        raise UserError(f"{where}: the event runs from {start} to {end}; start must be >= 0 and <= end")
    return Annotation(fields[0], fields[1], fields[2], start, end)


def categories_of(annotations: list[Annotation]) -> list[str]:
    """Categories in the order of their first appearance: name i is category index i."""
    return list(dict.fromkeys(annotation.category for annotation in annotations))


def category_names(root: str | os.PathLike) -> list[str] | None:
    """Names of a data folder's categories, name i of category index i; None without its `Annotations.txt`."""
    path = Path(root) / files.ANNOTATIONS
    return categories_of(read_annotations(path)) if path.exists() else None


def labels_from_annotations(path: str | os.PathLike, segments: int = SEGMENTS) -> np.ndarray:
    """Segment labels from `Annotations.txt`: one-hot [clips, segments, C+1] float32, background last.

    Raises UserError (see `read_annotations`), also when an event ends after the last segment.
    """
    annotations = read_annotations(path)
    index = {name: i for i, name in enumerate(categories_of(annotations))}
    labels = np.zeros((len(annotations), segments, len(index) + 1), np.float32)
    labels[:, :, -1] = 1
    for row, annotation in enumerate(annotations):
        if annotation.end > segments:
            raise UserError(
                f"{path}: the event of row {row} ({annotation.id}) ends at {annotation.end} s, "
                f"but a clip has {segments} segments of one second"
            )
        event = slice(annotation.start, annotation.end)
        labels[row, event, -1] = 0
        labels[row, event, index[annotation.category]] = 1
    return labels


def clip_labels_from_annotations(path: str | os.PathLike) -> np.ndarray:
    """Clip labels from `Annotations.txt`: one-hot [clips, C+1] float32, the category of the clip's event."""
    annotations = read_annotations(path)
    index = {name: i for i, name in enumerate(categories_of(annotations))}
    labels = np.zeros((len(annotations), len(index) + 1), np.float32)
    labels[np.arange(len(annotations)), [index[a.category] for a in annotations]] = 1
    return labels


class ClipNames(NamedTuple):
    """What a data folder says of its clips in words: category names [C] and clip ids [N] or None."""

    categories: list[str]
    ids: list[str] | None


def clip_names(root: str | os.PathLike, categories: int) -> ClipNames:
    """Category names and clip ids of a data folder, from its `Annotations.txt`.

    Without that file the names are "category 0", "category 1", ... and there are no ids. Raises
    UserError when the file names another number of categories than `categories`.
    """
    path = Path(root) / files.ANNOTATIONS
    if not path.exists():
        return ClipNames([f"category {i}" for i in range(categories)], None)
    annotations = read_annotations(path)
    names = categories_of(annotations)
    if len(names) != categories:
        raise UserError(
            f"{path}: names {len(names)} categories, but the labels of {root} have {categories}; "
            f"they belong to different data sets"
        )
    return ClipNames(names, [annotation.id for annotation in annotations])


def segment_labels(root: str | os.PathLike) -> np.ndarray:
    """One-hot segment labels [N, T, C+1] float32 of a data folder: `labels.h5`, or else `Annotations.txt`."""
    root = Path(root)
    if (root / files.LABELS).exists() or not (root / files.ANNOTATIONS).exists():
        return _stored_labels(root / files.LABELS)
    say_once(f"{root} has no {files.LABELS}: segment labels follow from {files.ANNOTATIONS}")
    return labels_from_annotations(root / files.ANNOTATIONS, segments=_segments(root))


def clip_labels(root: str | os.PathLike) -> np.ndarray:
    """One-hot clip labels [N, C+1] float32 of a data folder: `mil_labels.h5`, or else `Annotations.txt`."""
    root = Path(root)
    if (root / files.CLIP_LABELS).exists() or not (root / files.ANNOTATIONS).exists():
        return _stored_labels(root / files.CLIP_LABELS)
    say_once(f"{root} has no {files.CLIP_LABELS}: clip labels follow from {files.ANNOTATIONS}")
    return clip_labels_from_annotations(root / files.ANNOTATIONS)


def segment_shares(root: str | os.PathLike) -> np.ndarray:
    """Of each clip, the share of its segments that carry each label: [N, C+1] float32, from `segment_labels`."""
    return segment_labels(root).mean(1)


def _stored_labels(path: Path) -> np.ndarray:
    """The labels of a file, float32. Where none is set, nothing was annotated: that is background, and is said."""
    stored = array_file(path).read().astype(np.float32)
    unset = ~stored.any(axis=-1)
    if unset.any():
        say_once(f"{path}: {unset.sum()} of {unset.size} labels are zero in every column: they count as background")
        stored[unset, -1] = 1
    return stored


def _segments(root: Path) -> int:
    """T of a data folder, from the first of its feature files that is there."""
    name = next((name for name in files.FEATURES if (root / name).exists()), files.AUDIO)
    return array_file(root / name).shape[1]

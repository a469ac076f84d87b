"""Categories and labels, from `Annotations.txt` or from the label files of a data folder.

A line of `Annotations.txt` is `category&id&quality&start&end`; line i describes row i of every feature
and label file. Categories are numbered as in the `categories.txt` beside it or, without that, by first
appearance; an event fills the segments start..end-1, and every other segment is background, the last
column. On AVE these rules give `mil_labels.h5` and `labels_closs.h5` exactly.
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


def categories_by_index(path: str | os.PathLike, annotations: list[Annotation] | None = None) -> list[str]:
    """Names of the categories of an annotation file, name i of category index i.

    The `categories.txt` beside it says how they are numbered, and may name some that no clip has.

    Args:
        annotations: what `read_annotations(path)` gave, where that is known.

    Raises UserError as the readers of the two files, and for a category that `categories.txt` lacks.
    """
    annotated = categories_of(read_annotations(path) if annotations is None else annotations)
    listed = Path(path).with_name(files.CATEGORIES)
    if not os.path.lexists(listed):
        return annotated
    names = read_categories(listed)
    if lacking := set(annotated).difference(names):
        raise UserError(f"{listed}: lacks the category {min(lacking)!r} of {path}; add it, or remove {listed.name}")
    return names


def read_categories(path: str | os.PathLike) -> list[str]:
    """The names in a `categories.txt`, one a line. Raises UserError where one is empty or stands there twice."""
    names = [line.strip() for line in "\n".join(read_lines(path)).rstrip().split("\n")]
    for number, name in enumerate(names, start=1):
        if not name or name in names[: number - 1]:
            fault = f"the name {name!r} is there twice" if name else "the line is empty"
            raise UserError(f"{path}, line {number}: {fault}; each line names one category, by its index")
    return names


def category_names(root: str | os.PathLike) -> list[str] | None:
    """Names of a data folder's categories, name i of category index i; None where none of its files names them."""
    annotated, listed = Path(root) / files.ANNOTATIONS, Path(root) / files.CATEGORIES
    if annotated.exists():
        return categories_by_index(annotated)
    return read_categories(listed) if os.path.lexists(listed) else None


def labels_from_annotations(path: str | os.PathLike, segments: int = SEGMENTS) -> np.ndarray:
    """Segment labels from `Annotations.txt`: one-hot [clips, segments, C+1] float32, background last.

    Raises UserError (see `read_annotations`), also when an event ends after the last segment.
    """
    annotations = read_annotations(path)
    index = {name: i for i, name in enumerate(categories_by_index(path, annotations))}
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
    index = {name: i for i, name in enumerate(categories_by_index(path, annotations))}
    labels = np.zeros((len(annotations), len(index) + 1), np.float32)
    labels[np.arange(len(annotations)), [index[a.category] for a in annotations]] = 1
    return labels


class ClipNames(NamedTuple):
    """What a data folder says of its clips in words: category names [C] and clip ids [N] or None."""

    categories: list[str]
    ids: list[str] | None


def clip_names(root: str | os.PathLike, categories: int) -> ClipNames:
    """Category names and clip ids of a data folder, from its `Annotations.txt` and `categories.txt`.

    Without these files the names are "category 0", "category 1", ...; without the first there are no ids. Raises
    UserError when they name another number of categories than `categories`.
    """
    path = Path(root) / files.ANNOTATIONS
    names = category_names(root)
    if names is None:
        return ClipNames([f"category {i}" for i in range(categories)], None)
    if len(names) != categories:
        raise UserError(
            f"{path}: names {len(names)} categories, but the labels of {root} have {categories}; "
            f"they belong to different data sets"
        )
    return ClipNames(names, [annotation.id for annotation in read_annotations(path)] if path.exists() else None)


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

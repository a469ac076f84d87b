"""What is in a data folder: `python -m dataset.stats [--root data] [--figure FILE.png]`.

Clips and event seconds per category and split, event lengths, background share, what trivial predictors
score (the floor and the ceilings that a result is read against), and videos that appear in several
splits. Needs the label files and the splits; of the features, at most one file's shape.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset import files, labels
from utils.errors import UserError, command
from utils.flags import Parser


class TrivialAccuracies(NamedTuple):
    """Segment accuracy, in percent, of predictors that look at no segment.

    `all_background` calls everything background; `most_frequent_category` names the category of most
    training clips everywhere (nan when that isn't known); `right_category` names a clip's own category
    in every segment, so a predictor that is never wrong about the category and never says background
    stays below it; `best_single_label` gives each clip the one label, background included, that fits most
    of its segments.
    """

    all_background: float
    most_frequent_category: float
    right_category: float
    best_single_label: float


def trivial_accuracies(segment_labels: np.ndarray, train_clip_labels: np.ndarray | None = None) -> TrivialAccuracies:
    """What predictors that look at no segment score on the labels of a split.

    Args:
        segment_labels: [n, T, C+1] one-hot labels of the split, the last column background.
        train_clip_labels: [m, C+1] one-hot clip labels of the training split, which say what category is
            the most frequent one there (the first of several).
    """
    segments = segment_labels[..., 0].size
    by_clip = segment_labels.sum(axis=1)  # [n, C+1] segments of each label
    most_frequent = np.nan
    if train_clip_labels is not None:
        category = train_clip_labels[:, :-1].sum(axis=0).argmax()
        most_frequent = by_clip[:, category].sum() / segments
    return TrivialAccuracies(
        all_background=100 * float(by_clip[:, -1].sum() / segments),
        most_frequent_category=100 * float(most_frequent),
        right_category=100 * float(by_clip[:, :-1].max(axis=1).sum() / segments),
        best_single_label=100 * float(by_clip.max(axis=1).sum() / segments),
    )


def leaked_clips(root: str | os.PathLike, split: str = "test") -> np.ndarray:
    """Rows of a split, [m] int64 in its order, whose video is also in the training split.

    Such a clip shows the network pictures and sounds that it was trained on. Raises UserError without
    `Annotations.txt`, which alone knows the videos.
    """
    rows = files.read_order(root, split)
    ids = _video_ids(root, max(rows, default=-1))
    trained_on = {ids[row] for row in _in_range(root, "train", len(ids))}
    return np.array([row for row in rows if ids[row] in trained_on], dtype=np.int64)


def _video_ids(root: str | os.PathLike, last_row: int) -> list[str]:
    path = Path(root) / files.ANNOTATIONS
    ids = [annotation.id for annotation in labels.read_annotations(path)]
    if last_row >= len(ids):
        raise UserError(
            f"{path}: describes {len(ids)} clips, but a split lists row {last_row}; "
            f"`python -m dataset.check --root {root}` says which files don't belong together"
        )
    return ids


def _in_range(root: str | os.PathLike, split: str, clips: int) -> np.ndarray:
    """Rows of a split, as `files.read_order`, none of them beyond the number of clips."""
    rows = files.read_order(root, split)
    if rows.size and rows.max() >= clips:
        raise UserError(
            f"{Path(root) / files.order_file(split)}: lists row {rows.max()}, but the labels describe {clips} clips; "
            f"`python -m dataset.check --root {root}` says which files don't belong together"
        )
    return rows


@dataclass(frozen=True)
class FolderStatistics:
    """A data folder in numbers; the splits are those that the folder has.

    Attributes:
        categories: names of the C categories.
        segment_labels: split -> [n, T, C+1] one-hot labels.
        clip_labels: split -> [n, C+1] one-hot labels.
        trivial: split -> TrivialAccuracies.
        videos_in_both: (split, split) -> number of videos that have clips in both; None without video ids.
    """

    root: Path
    categories: list[str]
    segment_labels: dict[str, np.ndarray]
    clip_labels: dict[str, np.ndarray]
    trivial: dict[str, TrivialAccuracies]
    videos_in_both: dict[tuple[str, str], int] | None

    @property
    def segments(self) -> int:
        """T, segments a clip."""
        return next(iter(self.segment_labels.values())).shape[1]

    def clips_by_category(self, split: str) -> np.ndarray:
        """[C] clips of each category in a split."""
        return self.clip_labels[split][:, :-1].sum(axis=0).astype(int)

    def event_seconds_by_category(self, split: str) -> np.ndarray:
        """[C] seconds of each category's events in a split."""
        return self.segment_labels[split][..., :-1].sum(axis=(0, 1)).astype(int)

    def event_lengths(self, split: str) -> np.ndarray:
        """[T+1] clips of a split with 0, 1, ..., T event seconds."""
        seconds = self.segment_labels[split][..., :-1].any(axis=-1).sum(axis=1)
        return np.bincount(seconds, minlength=self.segments + 1)

    def event_share_by_second(self, split: str) -> np.ndarray:
        """[T] share of a split's clips, 0 to 1, that have an event in each second."""
        return self.segment_labels[split][..., :-1].any(axis=-1).mean(axis=0)


def folder_statistics(root: str | os.PathLike) -> FolderStatistics:
    """Read the labels and splits of a data folder and count. Raises UserError as the readers of its files."""
    root = Path(root)
    every_label = labels.segment_labels(root)
    splits = [split for split in files.SPLITS if (root / files.order_file(split)).exists()]
    if not splits:
        raise UserError(f"{root}: has no split file such as {files.order_file('train')}; {files.HOW_TO_GET_DATA}")
    rows = {split: _in_range(root, split, len(every_label)) for split in splits}
    if empty := [split for split in splits if not rows[split].size]:
        raise UserError(f"{root / files.order_file(empty[0])}: lists no clip; {files.HOW_TO_GET_DATA}")
    every_clip_label = _clip_labels(root, every_label)
    segment_labels = {split: every_label[rows[split]] for split in splits}
    clip_labels = {split: every_clip_label[rows[split]] for split in splits}
    names = labels.clip_names(root, every_label.shape[-1] - 1)
    videos_in_both = None
    if names.ids is not None:
        ids = _video_ids(root, len(every_label) - 1)
        videos = {split: {ids[row] for row in rows[split]} for split in splits}
        videos_in_both = {(a, b): len(videos[a] & videos[b]) for a, b in itertools.combinations(splits, 2)}
    trivial = {split: trivial_accuracies(segment_labels[split], clip_labels.get("train")) for split in splits}
    return FolderStatistics(root, names.categories, segment_labels, clip_labels, trivial, videos_in_both)


def _clip_labels(root: Path, segment_labels: np.ndarray) -> np.ndarray:
    """Clip labels [N, C+1] of a data folder; a folder of segment labels alone has those of most event segments."""
    if not (root / files.CLIP_LABELS).exists() and not (root / files.ANNOTATIONS).exists():
        events = segment_labels[..., :-1].sum(axis=1)
        category = np.where(events.any(axis=1), events.argmax(axis=1), events.shape[1])
        return np.eye(segment_labels.shape[-1], dtype=np.float32)[category]
    clip_labels = labels.clip_labels(root)
    if clip_labels.shape != (len(segment_labels), segment_labels.shape[-1]):
        raise UserError(
            f"{root}: clip labels {list(clip_labels.shape)} and segment labels {list(segment_labels.shape)} disagree; "
            f"`python -m dataset.check --root {root}` says which files don't belong together"
        )
    return clip_labels


def _report(statistics: FolderStatistics) -> Iterator[str]:
    splits = list(statistics.segment_labels)
    clips = {split: len(statistics.segment_labels[split]) for split in splits}
    yield (
        f"{statistics.root}: {sum(clips.values())} clips of {statistics.segments} one-second segments, "
        f"{len(statistics.categories)} categories"
    )

    yield from _heading("Category", [f"{s} clips" for s in splits] + [f"{s} event s" for s in splits])
    by_category = [statistics.clips_by_category(split) for split in splits]
    by_category += [statistics.event_seconds_by_category(split) for split in splits]
    for index, name in enumerate(statistics.categories):
        yield _line(name, [str(counts[index]) for counts in by_category])
    background = [int(statistics.clip_labels[split][:, -1].sum()) for split in splits]
    if any(background):
        yield _line("(background alone)", [str(count) for count in background])
    totals = [clips[split] for split in splits] + [int(counts.sum()) for counts in by_category[len(splits) :]]
    yield _line("all", [str(total) for total in totals])

    yield from _heading("Event seconds in a clip", splits)
    lengths = [statistics.event_lengths(split) for split in splits]
    for seconds in range(statistics.segments + 1):
        if any(counts[seconds] for counts in lengths):
            yield _line(str(seconds), [f"{counts[seconds]}" for counts in lengths])

    yield from _heading("Trivial predictors, accuracy in %", splits)
    for title, name in TRIVIAL_PREDICTORS.items():
        yield _line(title, [f"{getattr(statistics.trivial[split], name):.1f}" for split in splits])
    yield "(The accuracy of all background is the share of background segments.)"

    yield "\nVideos with clips in two splits"
    if statistics.videos_in_both is None:
        yield f"unknown without {files.ANNOTATIONS}"
    else:
        for (first, second), count in statistics.videos_in_both.items():
            yield _line(f"{first} and {second}", [str(count)])


TRIVIAL_PREDICTORS = {
    "all background": "all_background",
    "most frequent training category": "most_frequent_category",
    "right category in every segment": "right_category",
    "best possible single label per clip": "best_single_label",
}


def _heading(title: str, columns: list[str]) -> tuple[str, str]:
    return "", _line(title, columns)


def _line(title: str, cells: list[str]) -> str:
    return f"{title:<36}" + "".join(f"{cell:>15}" for cell in cells)


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m dataset.stats", description="What is in this data folder?")
    parser.add_argument("--root", type=Path, default=Path("data"), help="the data folder (default: %(default)s)")
    parser.add_argument(
        "--figure", type=Path, help="where the figure goes (default: statistics.png in the data folder)"
    )
    args = parser.parse_args(argv)

    statistics = folder_statistics(args.root)
    print(*_report(statistics), sep="\n")
    from dataset.stats_figure import save_figure  # a training asks for the numbers alone, without matplotlib

    path = args.figure or args.root / "statistics.png"
    save_figure(statistics, path)
    print(f"\nFigure: {path}")


if __name__ == "__main__":
    sys.exit(main())

"""The lines that `python -m dataset.stats` prints."""

from __future__ import annotations

from collections.abc import Iterator

from dataset import files
from dataset.stats.counts import FolderStatistics


def report_lines(statistics: FolderStatistics) -> Iterator[str]:
    splits = list(statistics.segment_labels)
    clips = {split: len(statistics.segment_labels[split]) for split in splits}
    of_videos = f" of {statistics.videos.different} videos" if statistics.videos else ""
    yield (
        f"{statistics.root}: {sum(clips.values())} clips{of_videos}, {statistics.segments} one-second segments each, "
        f"{len(statistics.categories)} categories"
    )

    yield "\n" + _line("Category", [f"{s} clips" for s in splits] + [f"{s} event s" for s in splits])
    by_category = [statistics.clips_by_category(split) for split in splits]
    by_category += [statistics.event_seconds_by_category(split) for split in splits]
    for index, name in enumerate(statistics.categories):
        yield _line(name, [str(counts[index]) for counts in by_category])
    background = [int(statistics.clip_labels[split][:, -1].sum()) for split in splits]
    if any(background):
        yield _line("(background alone)", [str(count) for count in background])
    totals = [clips[split] for split in splits] + [int(counts.sum()) for counts in by_category[len(splits) :]]
    yield _line("all", [str(total) for total in totals])

    yield "\n" + _line("Event seconds in a clip", splits)
    lengths = [statistics.event_lengths(split) for split in splits]
    for seconds in range(statistics.segments + 1):
        if any(counts[seconds] for counts in lengths):
            yield _line(str(seconds), [f"{counts[seconds]}" for counts in lengths])

    yield "\n" + _line("Trivial predictors, accuracy in %", splits)
    for title, name in TRIVIAL_PREDICTORS.items():
        yield _line(title, [f"{getattr(statistics.trivial[split], name):.1f}" for split in splits])
    yield "(The accuracy of all background is the share of background segments.)"

    yield "\nVideos with clips in two splits"
    if statistics.videos is None:
        yield f"unknown without {files.ANNOTATIONS}"
        return
    for (first, second), count in statistics.videos.in_both.items():
        yield _line(f"{first} and {second}", [str(count)])
    for split, rows in statistics.videos.leaked.items():
        if rows:
            listed = ", ".join(map(str, rows[:LISTED])) + (", ..." if len(rows) > LISTED else "")
            yield f"{split} clips whose video is in train too: {len(rows)}, rows {listed}"


LISTED = 20  # rows of leaked clips
TRIVIAL_PREDICTORS = {
    "all background": "all_background",
    "most frequent training category": "most_frequent_category",
    "right category in every segment": "right_category",
    "best possible single label per clip": "best_single_label",
}


def _line(title: str, cells: list[str]) -> str:
    return f"{title:<36}" + "".join(f"{cell:>15}" for cell in cells)

"""Which videos become which rows of a data folder: events from annotation lines, and background-only clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dataset import labels
from dataset.extract.find import find_videos
from utils.base.errors import UserError

BACKGROUND = "background"  # the category, in any case, of a line that says that its video has no event


class Plan(NamedTuple):
    """Which videos to extract, and in which order their clips are written.

    videos: each video by its id. lines: the annotation line of each row; None without annotations, where the rows are
    the videos. background: ids of the background-only clips, which go to files of their own.
    """

    videos: dict[str, Path]
    lines: list[labels.Annotation] | None
    background: list[str]

    @property
    def rows(self) -> list[str]:
        """The id of each row's video, background-only clips left out."""
        return list(self.videos) if self.lines is None else [line.id for line in self.lines]

    def without(self, broken: dict[str, str]) -> Plan:
        """The plan without videos that can't be read. Raises UserError where no clip or no background clip is left."""
        kept = Plan(
            {id: path for id, path in self.videos.items() if id not in broken},
            None if self.lines is None else [line for line in self.lines if line.id not in broken],
            [id for id in self.background if id not in broken],
        )
        for before, after, what in (
            (self.rows, kept.rows, "videos"),
            (self.background, kept.background, "background-only videos"),
        ):
            if before and not after:
                raise UserError(f"none of the {len(set(before))} {what} can be read; the reasons are listed above")
        return kept


def make_plan(sources: Sequence[Path], background: Sequence[Path], annotation_file: Path | None, seconds: int) -> Plan:
    """Find the videos and match them with the annotations.

    Args:
        sources: videos and folders of videos.
        background: the same, of videos without an event; they may lie in the folders of `sources`.
        annotation_file: lines of category&id&quality&start&end; a line of the category `Background` says that its
            video has no event.
        seconds: of a clip.

    Raises UserError for videos of the same name, and where the annotations don't fit.
    """
    without_event = find_videos(background)
    videos = find_videos(sources)
    for id in videos.keys() & without_event.keys():
        if videos[id].resolve() != without_event[id].resolve():
            raise UserError(f"{videos[id]} and {without_event[id]} have the same name {id!r}; rename one")
        del videos[id]
    if annotation_file is None:
        if background:
            raise UserError("--background needs --annotations: its labels have a column for each category")
        return Plan(videos, None, [])
    every = labels.read_annotations(annotation_file)
    lines = [line for line in every if line.id in videos or line.id in without_event]
    if not lines:
        raise UserError(
            f"{annotation_file}: names none of the {len(videos)} videos; its ids (such as {every[0].id!r}) must be the "
            f"videos' names without their endings (such as {next(iter({**videos, **without_event}))!r})"
        )
    events = [line for line in lines if not _is_background(line)]
    ids = dict.fromkeys([*(line.id for line in lines if _is_background(line)), *without_event])
    _check_lines(events, ids, annotation_file, seconds)
    _say_what_is_left_out(every, lines, events, videos, annotation_file)
    found = videos | without_event
    return Plan({id: found[id] for id in [*(line.id for line in events), *ids]}, events, list(ids))


def _is_background(line: labels.Annotation) -> bool:
    return line.category.casefold() == BACKGROUND


def _check_lines(events: list[labels.Annotation], background: dict[str, None], path: Path, seconds: int) -> None:
    if not events:
        raise UserError(f"{path}: has no event in the given videos; training needs clips with events too")
    for line in events:
        if line.end > seconds:
            raise UserError(f"{path}: the event of {line.id} ends at {line.end} s, but a clip has {seconds} seconds")
        if line.id in background:
            raise UserError(
                f"{path}: has an event of {line.id} ({line.category}), which is given as background only too; "
                f"leave one out"
            )


def _say_what_is_left_out(
    every: list[labels.Annotation],
    lines: list[labels.Annotation],
    events: list[labels.Annotation],
    videos: dict[str, Path],
    path: Path,
) -> None:
    named = {line.id for line in lines}
    without = [id for id in videos if id not in named]
    if without:
        print(f"{len(without)} videos have no line in {path} and are left out: {', '.join(without)}")
    if len(lines) < len(every):
        print(f"{len(every) - len(lines)} of {len(every)} lines of {path} name no given video and are left out")
    of_all = labels.categories_of([line for line in every if not _is_background(line)])
    if labels.categories_of(events) != of_all:
        print(
            f"categories are numbered by their first line, and without the lines left out {path} names "
            f"{len(labels.categories_of(events))} instead of {len(of_all)}: the folder's numbers aren't those of a "
            f"network that was trained on all of it"
        )

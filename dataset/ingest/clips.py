"""A clip's files -> its features and labels, or the reason why it is left out."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset.ingest import shapes
from dataset.ingest.forms import Form
from dataset.ingest.reading import READERS, State, naming, part_of, read_content, state_of
from dataset.ingest.table import Clip
from utils.base.atomic import inside
from utils.base.errors import UserError

VISUAL, AUDIO, LABELS = "visual", "audio", "labels"


class Source(NamedTuple):
    """A folder with a file for each clip: the files' ending, the parts that each file holds, and the parts' keys."""

    folder: Path
    ending: str
    parts: dict[str, str | None]

    @classmethod
    def of(cls, folder: Path, parts: dict[str, str | None]) -> Source:
        """Find out the files' ending. Raises UserError for a missing folder, no known ending, or several."""
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; name the one that holds the clips' files")
        with os.scandir(folder) as entries:
            endings = {os.path.splitext(entry.name)[1] for entry in entries if not entry.name.startswith(".")}
        found = sorted(endings.intersection(READERS))
        if len(found) != 1:
            what = f"files of several kinds ({', '.join(found)})" if found else f"none of {', '.join(READERS)}"
            raise UserError(f"{folder}: holds {what}; it must hold a file a clip, all of one kind")
        return cls(folder, found[0], parts)

    def path(self, id: str) -> Path:
        return inside(self.folder, id + self.ending)


class Layout(NamedTuple):
    """What all clips of a data set share: the shapes of a clip's features, and the types in which they are stored."""

    visual: tuple[int, ...]
    audio: tuple[int, ...]
    visual_dtype: str
    audio_dtype: str

    @property
    def segments(self) -> int:
        return self.visual[0]


# Notes on clips that are used, but are unusual.
DISAGREE = "table and stored labels disagree: the table's were taken"
REPEATED = "audio of fewer segments: its last one was repeated"
CUT = "audio of more segments: cut"
PAST_THE_END = "event that ends after the last segment: cut there"
NO_EVENT = "no event segment: background throughout, the clip label is the table's category"


@dataclasses.dataclass
class Outcome:
    """What became of a clip: features and labels, or why it is left out; and the states of its files when read."""

    states: list[State]
    left_out: str | None = None
    visual: np.ndarray | None = None  # [T, h, w, D] or [T, D]
    audio: np.ndarray | None = None  # [T, D]
    event: np.ndarray | None = None  # [T] bool
    notes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads the clips of one data set; `dtype`, of the features, is None where the first clip's files say it."""

    form: Form
    sources: tuple[Source, ...]
    categories: int
    grid: shapes.Grid | None
    dtype: str | None

    def states(self, clip: Clip) -> list[State]:
        """The states of a clip's files."""
        return [state_of(source.path(clip.id)) for source in self.sources]

    def layout(self, clip: Clip) -> Layout | str:
        """The layout of a clip, which all must have, or the reason why it is left out. Raises UserError as `read`."""
        outcome, arrays = self._arrays(clip, self.form.segments)
        if outcome.left_out is not None:
            return outcome.left_out
        visual, audio = arrays[VISUAL], arrays[AUDIO]
        segments = self.form.segments or len(visual)
        dtypes = [self.dtype or ("float16" if array.dtype == np.float16 else "float32") for array in (visual, audio)]
        return Layout((segments, *visual.shape[1:]), (segments, *audio.shape[1:]), *dtypes)

    def read(self, clip: Clip, layout: Layout) -> Outcome:
        """A clip's features and labels, or why it is left out.

        Raises UserError that names the file and what is wrong with it: code in it, damaged, a shape that other clips
        don't have, not finite, float32 where the others are float16.
        """
        outcome, arrays = self._arrays(clip, layout.segments)
        if outcome.left_out is not None:
            return outcome
        if len(arrays[AUDIO]) != layout.segments and self.form.fit_audio:
            outcome.notes.append(REPEATED if len(arrays[AUDIO]) < layout.segments else CUT)
            arrays[AUDIO] = shapes.fitted(arrays[AUDIO], layout.segments)
        outcome.visual = self._stored(clip, VISUAL, arrays[VISUAL], layout.visual, layout.visual_dtype)
        outcome.audio = self._stored(clip, AUDIO, arrays[AUDIO], layout.audio, layout.audio_dtype)
        outcome.event = self._event(clip, arrays.get(LABELS), layout.segments, outcome.notes)
        return outcome

    def _arrays(self, clip: Clip, segments: int | None) -> tuple[Outcome, dict[str, np.ndarray]]:
        """The arrays of a clip's files, by part, of `segments` segments at least."""
        outcome = Outcome(self.states(clip))
        arrays: dict[str, np.ndarray] = {}
        there = [source for source, state in zip(self.sources, outcome.states, strict=True) if state is not None]
        for source in self.sources:
            needed = clip.event is None or set(source.parts) != {LABELS}  # else the table tells when the event is
            if needed and source not in there:
                kind = "" if len(source.parts) > 1 else f"{next(iter(source.parts))} "
                outcome.left_out = f"no {kind}file ({source.ending} in {source.folder})"
                return outcome, {}
        for source in there:
            path = source.path(clip.id)
            content = read_content(path)
            for part, key in source.parts.items():
                if part == LABELS and clip.event and key and isinstance(content, dict) and key not in content:
                    continue  # as above, the table tells when the event is
                with naming(path):
                    array = part_of(content, key, path)
                    if part == VISUAL:
                        array = shapes.visual_of(array, self.grid)
                    elif part == AUDIO:
                        array = shapes.audio_of(array)
                    arrays[part] = array
        for kind in (VISUAL,) if self.form.fit_audio else (AUDIO, VISUAL):
            if segments is not None and len(arrays[kind]) < segments:
                outcome.left_out = f"fewer than {segments} segments of {kind} features"
        return outcome, arrays

    def _stored(self, clip: Clip, part: str, array: np.ndarray, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        path = self._path(clip, part)
        if array.shape != shape:
            raise UserError(
                f"{path}: has {part} features of shape {list(array.shape)}, but a clip of this data set has "
                f"{list(shape)}; a data set has one shape: make it again, or remove it to leave its clip out"
            )
        if self.dtype is None and dtype == "float16" and array.dtype != np.float16:
            raise UserError(
                f"{path}: has {array.dtype} {part} features where the first clip's are float16; say which to store: "
                f"--dtype float32 or --dtype float16"
            )
        with naming(path):
            return shapes.stored(array, np.dtype(dtype))

    def _event(self, clip: Clip, array: np.ndarray | None, segments: int, notes: list[str]) -> np.ndarray:
        """The segments that the event fills, [T] bool: by the table where it says so, else by the stored labels."""
        stored = None
        if array is not None:
            with naming(self._path(clip, LABELS)):
                stored = shapes.labels_of(array, segments, self.categories)
        if clip.event is None:
            event = stored if stored.ndim == 1 else stored.any(axis=1)
        else:
            start, end = map(round, clip.event)  # half to even
            event = np.zeros(segments, bool)
            event[start:end] = True
            if end > segments:
                notes.append(PAST_THE_END)
        if stored is not None:
            of_table = event if stored.ndim == 1 else event[:, None] & (np.arange(self.categories) == clip.category)
            if (of_table != stored).any():
                notes.append(DISAGREE)
        if not event.any():
            notes.append(NO_EVENT)
        return event

    def _path(self, clip: Clip, part: str) -> Path:
        return next(source.path(clip.id) for source in self.sources if part in source.parts)

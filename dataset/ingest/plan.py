"""From the command line to the plan of an ingest: the clips, the categories, and the folders of their files."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from typing import Any, NamedTuple

from dataset.ingest.clips import AUDIO, LABELS, VISUAL, Reader, Source
from dataset.ingest.forms import Form
from dataset.ingest.journal import hash_of
from dataset.ingest.table import Clip, Names, read_clips
from utils.base.errors import UserError

_VERSION = 1  # of what is made; raised when the same input gives another result than before


class Plan(NamedTuple):
    """What an ingest works on: the clips of the table, the categories' names, and the reader of a clip's files.

    `record` is all that decides the result, besides the content of the clips' files; journal and `ingest.json` keep it.
    """

    clips: list[Clip]
    names: list[str]
    reader: Reader
    record: dict[str, Any]

    def states(self, start: int, stop: int) -> str:
        """A hash of the present states of the clips' files, from position `start` in the table up to `stop`."""
        return hash_of(state for clip in self.clips[start:stop] for state in self.reader.states(clip))


def read_plan(args: argparse.Namespace, form: Form) -> Plan:
    """The plan of what the command line asks for. Raises UserError for a table, names or folders that can't be used."""
    numbering = Names(args.names)
    clips = read_clips(args.table, form, numbering)
    names = numbering.names()
    sources = _sources(args, form)
    grid = tuple(args.grid) if args.grid else None
    reader = Reader(form, sources, len(names), grid, args.dtype)
    record = {
        "version": _VERSION,
        "form": dataclasses.asdict(form),
        "table": hashlib.sha256("".join(repr(tuple(clip)) for clip in clips).encode()).hexdigest(),
        "names": names,
        "parts": [[source.ending, source.parts] for source in sources],
        "dtype": args.dtype,
        "grid": args.grid,
    }
    return Plan(clips, names, reader, record)


def _sources(args: argparse.Namespace, form: Form) -> tuple[Source, ...]:
    """The folders of the clips' files. Raises UserError where the flags don't say where every part is."""
    keys = {VISUAL: form.visual_key, AUDIO: form.audio_key, LABELS: form.labels_key}
    apart = {part: getattr(args, part) for part in keys if getattr(args, part) is not None}
    if args.features is not None:
        if apart:
            raise UserError(f"--features and --{next(iter(apart))}: give one folder, or a folder a kind")
        parts = {part: key or part for part, key in keys.items() if key or part != LABELS or form.start is None}
        return (Source.of(args.features, parts),)
    for part in (VISUAL, AUDIO, *((LABELS,) if form.start is None else ())):
        if part not in apart:
            other = " (or --start and --end, the table's columns)" if part == LABELS else ", or --features"
            raise UserError(f"--{part} is missing: name the folder of its files{other}")
    return tuple(Source.of(folder, {part: keys[part]}) for part, folder in apart.items())

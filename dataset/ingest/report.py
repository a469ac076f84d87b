"""The report at the end of an ingest: clips used, clips left out and why, splits, categories, what was unusual."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from dataset import files
from dataset.ingest.clips import DISAGREE
from dataset.ingest.journal import Journal, hash_of
from dataset.ingest.plan import Plan


class Report:
    """What became of the clips of a table, from the journal of an ingest that has ended."""

    def __init__(self, journal: Journal, plan: Plan) -> None:
        self.layout, self.plan, clips = journal.layout, plan, plan.clips
        self.states = hash_of(block.states for block in journal.blocks)  # of the clips' files
        self.listed = Counter(clip.split for clip in clips)
        self.kept = [clips[position] for block in journal.blocks for position, _ in block.kept]
        self.left_out: dict[str, list[str]] = {}  # reason -> ids
        self.notes: dict[str, list[str]] = {}  # note -> ids
        for block in journal.blocks:
            for said, into in ((block.left_out, self.left_out), (block.notes, self.notes)):
                for position, text in said:
                    into.setdefault(text, []).append(clips[position].id)

    def record(self) -> str:
        """The content of `ingest.json`: the plan, and the ids of the clips that aren't as the others."""
        content = {
            "plan": self.plan.record,
            "states": self.states,
            "listed": dict(self.listed),
            "left_out": self.left_out,
            "notes": self.notes,
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def lines(self, root: Path) -> Iterator[str]:
        """The report as lines of text."""
        yield f"{root}: {len(self.kept):,} clips of {self.listed.total():,} in the table"
        for reason, ids in self.left_out.items():
            yield f"left out: {_count(ids)}: {reason}"
        splits = Counter(clip.split for clip in self.kept)
        yield "splits: " + ", ".join(f"{split} {splits[split]:,}" for split in files.SPLITS)
        for split in (split for split in files.SPLITS if splits[split] < self.listed[split]):
            yield (
                f"{split} has {splits[split]:,} of its {self.listed[split]:,} clips: results aren't comparable with "
                f"those on all of them"
            )
        seen = {clip.category for clip in self.kept}
        without = [name for index, name in enumerate(self.plan.names) if index not in seen]
        some = f", {len(without)} of them without a clip (such as {without[0]})" if without else ""
        yield f"categories: {len(self.plan.names)}{some}"
        for name, shape, dtype in (
            (files.VISUAL, self.layout.visual, self.layout.visual_dtype),
            (files.AUDIO, self.layout.audio, self.layout.audio_dtype),
        ):
            yield f"{name}: {' x '.join(map(str, (len(self.kept), *shape)))}, {dtype}"
        for note, ids in self.notes.items():
            yield f"{_count(ids)}: {note}"
        if len(self.notes.get(DISAGREE, [])) > len(self.kept) / 2:
            yield "where most labels disagree, the table or the names are of another data set than the files"
        if self.left_out or self.notes:
            yield f"the ids of such clips are in {root / 'ingest.json'}"
        yield "there are no background-only clips: weak training needs --set data.label_regime=clips"
        yield f"next: python -m dataset.check --data_root {root}"


def _count(ids: list[str]) -> str:
    return f"{len(ids):,} clip{'s' * (len(ids) > 1)} (such as {ids[0]})"

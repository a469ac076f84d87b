"""The journal of an ingest: what became of each block of clips, so that a killed ingest goes on after the last block.

The first line of DIR/.ingest/journal.jsonl holds the plan (all that decides the result, besides the content of the
clips' files) and the layout; each other line is a block, written once its features are on the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from dataset.ingest.clips import Layout
from dataset.ingest.reading import State
from utils.base.atomic import require_no_obstacle, write_text, writing
from utils.base.errors import UserError


class Block(NamedTuple):
    """Clips that follow one another in the table: those that became rows, those left out, and what was said of them.

    Attributes:
        clips: how many of the table it covers.
        kept: (position in the table, its event: a "1" or "0" a segment) of each row.
        left_out: (position, reason).
        notes: (position, note).
        states: a hash of the states of all its clips' files.
    """

    clips: int
    kept: list[tuple[int, str]]
    left_out: list[tuple[int, str]]
    notes: list[tuple[int, str]]
    states: str


def hash_of(states: Iterable[State] | Iterable[str]) -> str:
    return hashlib.sha256(json.dumps(list(states)).encode()).hexdigest()


class Journal:
    """The journal of one ingest, with what an earlier process wrote.

    Raises UserError where the earlier process had another plan, or where the file is damaged.
    """

    def __init__(self, path: Path, plan: dict[str, Any]) -> None:
        self.path, self.plan = path, plan
        self.layout: Layout | None = None
        self.blocks: list[Block] = []
        self.finished = False  # whether every clip was read and the feature files have their headers
        self._read()

    def _read(self) -> None:
        require_no_obstacle(self.path)
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return
        *lines, _ = content.split(b"\n")  # the last one is empty, or the process was killed while it wrote it
        for line in lines:
            try:
                self._take(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise UserError(f"{self.path}: is damaged; remove {self.path.parent} to begin anew") from error

    def _take(self, entry: dict[str, Any]) -> None:
        if self.layout is None:
            if changed := [key for key in self.plan if entry["plan"].get(key) != self.plan[key]]:
                raise UserError(
                    f"{self.path.parent}: the ingest that was begun there differs in {', '.join(changed)}; give the "
                    f"same flags and files again, or remove this folder to begin anew"
                )
            visual, audio, *dtypes = entry["layout"]
            self.layout = Layout(tuple(visual), tuple(audio), *dtypes)
        elif "finished" in entry:
            self.finished = True
        else:
            self.blocks.append(Block(**entry))

    @property
    def clips(self) -> int:
        """How many clips of the table are done."""
        return sum(block.clips for block in self.blocks)

    @property
    def rows(self) -> int:
        return sum(len(block.kept) for block in self.blocks)

    def keep(self, blocks: int) -> None:
        """Forget all but the first `blocks` blocks; with no row in these, all: the layout may change."""
        kept, layout = self.blocks[:blocks], self.layout
        self.layout, self.blocks, self.finished = None, [], False
        if any(block.kept for block in kept):
            self.begin(layout, kept)

    def begin(self, layout: Layout, blocks: Iterable[Block] = ()) -> None:
        """Write the journal anew, with the layout and blocks that are done."""
        self.layout, self.blocks = layout, list(blocks)
        entries = [{"plan": self.plan, "layout": layout}, *(block._asdict() for block in self.blocks)]
        write_text(self.path, "".join(json.dumps(entry) + "\n" for entry in entries))

    def add(self, block: Block) -> None:
        self._append(block._asdict())
        self.blocks.append(block)

    def finish(self) -> None:
        self._append({"finished": True})
        self.finished = True

    def _append(self, entry: dict[str, Any]) -> None:
        with writing(self.path), open(self.path, "ab") as file:
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

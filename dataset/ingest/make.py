"""A data folder from the files of clips, block by block, so that memory stays flat and a killed run goes on."""

from __future__ import annotations

import contextlib
import functools
import itertools
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset import files
from dataset.ingest.clips import Layout, Outcome
from dataset.ingest.journal import Block, Journal, hash_of
from dataset.ingest.plan import Plan
from dataset.ingest.report import Report
from dataset.prefetch import ahead
from dataset.writing import RowWriter, alone, move_into, size_of_file, write_array
from utils.base.atomic import make_folder, require_free_space, write_text, writing
from utils.base.errors import UserError
from utils.base.text import read_json

RECORD = "ingest.json"
WORK = ".ingest"
BLOCK = 64  # clips between two points at which a killed run goes on: 64 MB of AVE's shape in float32


def make_data_folder(root: Path, plan: Plan, workers: int) -> Report | None:
    """Make the data folder `root`, or go on where an earlier run ended; None where the folder is already made.

    Raises UserError for a clip's file that can't be used (what was done before it stays), for a folder that holds other
    data, no clip that can be used, a full disk, or while another command writes there.
    """
    work = root / WORK
    with alone(make_folder(root)), writing(root):
        if _is_made(root, plan):
            shutil.rmtree(work, ignore_errors=True)  # left by a process that was killed just before it ended
            return None
        make_folder(work)
        if work.is_symlink():
            raise UserError(f"{work}: is a link to another folder; remove it")
        journal = Journal(work / "journal.jsonl", plan.record)
        if not journal.finished:
            _go_on(journal, plan)
            _read_all(work, journal, plan, workers)
        report = Report(journal, plan)
        _write_small_files(work, journal, plan)
        write_text(work / RECORD, report.record())
        move_into(work, root, RECORD)
        shutil.rmtree(work)
    return report


def _is_made(root: Path, plan: Plan) -> bool:
    """Whether `root` holds what this plan makes of these clips, whole. Raises UserError where it holds other data."""
    present = [name for name in (*files.EVERY_FILE, files.GENERATED) if (root / name).exists()]
    if not present or (root / WORK / "journal.jsonl").exists():
        return False
    made = read_json(root / RECORD) if (root / RECORD).exists() else {}
    if not isinstance(made, dict) or made.get("plan") != plan.record or files.VISUAL not in present:
        raise UserError(f"{root}: holds {present[0]} already, of other data; choose another folder")
    states = hash_of(plan.states(start, start + BLOCK) for start in range(0, len(plan.clips), BLOCK))
    if made.get("states", states) != states:  # earlier versions didn't note them
        raise UserError(f"{root}: was made of the clips' files as they were before; remove it to make it of these")
    return True


def _go_on(journal: Journal, plan: Plan) -> None:
    """Take over the blocks whose clips' files are as they were; say so."""
    if journal.layout is None:
        return
    position, same = 0, 0
    for block in tqdm(journal.blocks, desc="looking for changes", unit="block", leave=False, disable=None):
        end = position + block.clips
        if plan.states(position, end) != block.states:
            first, last = plan.clips[position], plan.clips[end - 1]
            print(f"a file of the clips {first.id} to {last.id} has changed: these and later ones are read again")
            break
        position, same = end, same + 1
    journal.keep(same)
    if journal.clips:
        print(f"going on after {journal.clips:,} of {len(plan.clips):,} clips")


def _read_all(work: Path, journal: Journal, plan: Plan, workers: int) -> None:
    """Read every clip that isn't done yet and write its features; after each BLOCK clips the journal has them."""
    clips = plan.clips
    if journal.layout is None:
        journal.begin(_layout(plan))
    layout, done, rows = journal.layout, journal.clips, journal.rows
    kinds = ((files.VISUAL, layout.visual, layout.visual_dtype), (files.AUDIO, layout.audio, layout.audio_dtype))
    require_free_space(work, sum(size_of_file((len(clips) - rows, *shape), dtype) for _, shape, dtype in kinds))
    jobs = (functools.partial(plan.reader.read, clip, layout) for clip in clips[done:])
    with (
        contextlib.ExitStack() as stack,
        tqdm(total=len(clips), initial=done, desc="ingesting", unit="clip", disable=None) as bar,
        contextlib.closing(ahead(jobs, workers, most=2 * workers)) as outcomes,
    ):
        writers = [RowWriter(work / name, (len(clips), *shape), dtype, rows=rows) for name, shape, dtype in kinds]
        for writer in writers:
            stack.callback(writer.close)
        for start in range(done, len(clips), BLOCK):
            journal.add(_write(start, itertools.islice(outcomes, BLOCK), writers, bar))
        for writer in writers:
            writer.finish()
    journal.finish()


def _layout(plan: Plan) -> Layout:
    """The layout of the first clip that isn't left out. Raises UserError where all are."""
    reasons = Counter()
    for clip in plan.clips:
        found = plan.reader.layout(clip)
        if isinstance(found, Layout):
            return found
        reasons[found] += 1
    why = "; ".join(f"{count:,}: {reason}" for reason, count in reasons.items())
    raise UserError(
        f"none of the {len(plan.clips):,} clips can be used: {why}; look at the folders and the ids of the table"
    )


def _write(start: int, outcomes: Iterator[Outcome], writers: list[RowWriter], bar: tqdm) -> Block:
    """Write the features of the clips from the table's position `start` on; returns what the journal keeps of them."""
    visual, audio = writers
    block, states, position = Block(0, [], [], [], ""), [], start
    for position, outcome in enumerate(outcomes, start):
        if outcome.left_out is not None:
            block.left_out.append((position, outcome.left_out))
        else:
            visual.append(outcome.visual)
            audio.append(outcome.audio)
            block.kept.append((position, "".join("01"[int(filled)] for filled in outcome.event)))
            block.notes.extend((position, note) for note in outcome.notes)
        states += outcome.states
        bar.update()
    for writer in writers:
        writer.sync()
    return block._replace(clips=position + 1 - start, states=hash_of(states))


def _write_small_files(work: Path, journal: Journal, plan: Plan) -> None:
    """Write all but the features: labels, splits and names, a row at a time."""
    clips, names = plan.clips, plan.names
    kept = [(clips[position], event) for block in journal.blocks for position, event in block.kept]
    write_text(work / files.CATEGORIES, "".join(f"{name}\n" for name in names))
    with open(work / files.ANNOTATIONS, "w", encoding="utf-8") as annotations:
        for clip, event in kept:
            start, end = (event.index("1"), event.rindex("1") + 1) if "1" in event else (0, 0)
            annotations.write(f"{names[clip.category]}&{clip.id}&good&{start}&{end}\n")
    for split in files.SPLITS:
        rows = np.array([row for row, (clip, _) in enumerate(kept) if clip.split == split], np.int64)
        if rows.size:
            write_array(work / files.order_file(split), rows)
    columns = np.eye(len(names) + 1, dtype=np.float32)
    shape = (len(kept), journal.layout.segments, len(columns))
    with (
        contextlib.closing(RowWriter(work / files.LABELS, shape, "float32")) as of_segments,
        contextlib.closing(RowWriter(work / files.CLIP_LABELS, shape[::2], "float32")) as of_clips,
    ):
        for clip, event in kept:
            of_segments.append(columns[[clip.category if filled == "1" else -1 for filled in event]])
            of_clips.append(columns[clip.category])

"""Video files to a data folder, clip by clip.

Each clip's features are kept in DIR/clips as soon as they are there, so that an interrupted run goes on where it
was and a later one with more videos does only those. DIR/extraction.json tells which video is which row, what was
unusual about it and which were left out, DIR/features.json how the features were made.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dataset import files, labels, made_with
from dataset.extract import vggish
from dataset.extract.decoding import BrokenVideo, Prepare
from dataset.extract.features import FeatureExtractor, Recipe
from dataset.extract.find import as_text
from dataset.extract.plan import Plan, make_plan
from dataset.extract.store import ClipStore
from dataset.extract.video import Clip, read_clip
from dataset.prefetch import ahead
from dataset.writing import alone, write_array, write_features
from utils.base.atomic import atomic_path, make_folder, require_free_space, write_text
from utils.base.devices import choose_device
from utils.base.errors import UserError
from utils.base.text import read_json

RECORD = "extraction.json"
CLIPS = "clips"
_FLOAT_BYTES = 4
_SPLIT_SEED = 0
_HELD_OUT = 0.1  # share of the videos in val and in test, about AVE's


def extract(
    sources: Sequence[Path],
    background: Sequence[Path],
    root: Path,
    annotation_file: Path | None,
    seconds: int,
    recipe: Recipe,
    gpu: str | None,
    batch: int | None,
    workers: int,
) -> None:
    """Make or complete the data folder `root` from videos and folders of videos.

    A video that can't be read is reported and left out. Raises UserError when no video is left, when two have the
    same name, when the annotations don't fit, when `root` holds a data folder that this command didn't make, or while
    another command writes there.

    Args:
        background: videos, and folders of them, without an event (see `make_plan`).
        seconds: of a clip. batch: see `FeatureExtractor`. workers: videos that are decoded at once.
    """
    plan = make_plan(sources, background, annotation_file, seconds)
    _refuse_other_folder(root, plan)
    with alone(make_folder(root)):
        store = ClipStore(make_folder(root / CLIPS), seconds, recipe)
        broken = _extract_clips(root, store, plan, gpu, batch, workers)
        _write_folder(root, store, plan.without(broken), broken)


def _extract_clips(
    root: Path, store: ClipStore, plan: Plan, gpu: str | None, batch: int | None, workers: int
) -> dict[str, str]:
    """Store the features of each video that isn't stored yet; return the videos that can't be read, with the reason."""
    remaining = {id: path for id, path in plan.videos.items() if not store.holds(id, path)}
    print(f"{len(plan.videos)} videos, {len(plan.videos) - len(remaining)} of them done before")
    broken: dict[str, str] = {}
    if remaining:
        device, where = choose_device(gpu)
        print(where)
        extractor = FeatureExtractor(store.recipe, device, batch)
        values = math.prod(extractor.made_with["visual"]["grid"]) + vggish.EMBEDDING
        clips = len(remaining) + len(plan.rows) + len(plan.background)  # in files of their own and in the folder's
        require_free_space(root, clips * store.seconds * values * _FLOAT_BYTES)
        with tqdm(total=len(remaining), desc="extracting", unit="video", disable=None) as progress:
            for id, clip in decoded_ahead(remaining, store.seconds, workers, extractor.prepare):
                if isinstance(clip, BrokenVideo):
                    broken[id] = str(clip)
                    progress.write(f"left out: {clip}")
                else:
                    for note in clip.notes:
                        progress.write(f"note: {remaining[id]} {note}")
                    store.save(id, remaining[id], extractor(clip), clip.notes, extractor.made_with)
                progress.update()
    return broken


def _write_folder(root: Path, store: ClipStore, plan: Plan, broken: dict[str, str]) -> None:
    """Write the data folder from the stored clips."""
    _refuse_splits_of_other_rows(root, plan.rows)
    made_with.write(root, _made_with(store, plan, root))
    _write_record(root, store, plan, broken)
    write_features_of(plan.rows, store, (root / files.VISUAL, root / files.AUDIO))
    if plan.lines is not None:
        write_text(root / files.ANNOTATIONS, "".join("&".join(map(str, line)) + "\n" for line in plan.lines))
        _write_splits(root, plan.rows)
    if plan.background:
        write_features_of(plan.background, store, (root / files.NOISY_VISUAL, root / files.NOISY_AUDIO))
        columns = len(labels.category_names(root)) + 1
        with atomic_path(root / files.NOISY_LABELS) as part:
            write_array(part, np.eye(columns, dtype=np.float32)[[-1] * len(plan.background)])
    also = f" and {len(plan.background)} background-only clips" if plan.background else ""
    left_out = f", {len(broken)} left out" if broken else ""
    print(f"{len(plan.rows)} clips of {store.seconds} segments{also} in {root}{left_out}")
    weak = " --weak" if plan.background else ""
    print(f"next: python -m dataset.check --data_root {root}{weak}" if plan.lines is not None else _WITHOUT_LABELS)


def _refuse_splits_of_other_rows(root: Path, rows: Sequence[str]) -> None:
    """Raise UserError where a split is there, and its rows would be of other videos than they were."""
    order = next((root / name for name in files.ORDERS if (root / name).exists()), None)
    if order is None or not (root / RECORD).exists():
        return
    try:
        before = [row["id"] for row in read_json(root / RECORD)["rows"]]
    except (KeyError, TypeError):
        raise UserError(f"{root / RECORD}: is damaged; remove {root} to make it anew") from None
    if list(rows[: len(before)]) != before:
        raise UserError(
            f"{order}: was made for other rows than the videos and annotations give now; remove the three *_order.h5 "
            f"for new ones, or choose another folder"
        )


_WITHOUT_LABELS = "there are no labels: training and evaluation need --annotations"


def _made_with(store: ClipStore, plan: Plan, root: Path) -> dict[str, Any]:
    """What made the features of all clips. Raises UserError where they were made in different ways."""
    first, *others = (store.made_with(id) for id in [*plan.rows, *plan.background])
    if any(other != first for other in others):
        raise UserError(f"{root / CLIPS}: holds features made with different weights or packages; remove it")
    return first


def decoded_ahead(
    videos: dict[str, Path], seconds: int, workers: int, prepare: Prepare
) -> Iterator[tuple[str, Clip | BrokenVideo]]:
    """(id, clip) of each video in order, decoded by threads while the clips before are being used.

    At most `workers` clips (25 MB each for 10 seconds) wait. A video that can't be read comes as its error.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)

    def decoded(path: Path) -> Clip | BrokenVideo:
        try:
            return read_clip(path, seconds, threads, prepare)
        except BrokenVideo as error:
            return error

    clips = ahead((functools.partial(decoded, path) for path in videos.values()), workers, most=workers)
    return zip(videos, clips, strict=True)


def _refuse_other_folder(root: Path, plan: Plan) -> None:
    """Raise UserError for a data folder of something else, and for one of more than the plan has."""
    if (root / RECORD).exists():
        if plan.lines is None and (root / files.ANNOTATIONS).exists():
            raise UserError(
                f"{root}: was made with annotations; give them again (--annotations {root / files.ANNOTATIONS}) "
                f"or choose another folder"
            )
        if not plan.background and (root / files.NOISY_LABELS).exists():
            raise UserError(
                f"{root}: was made with background-only clips; give them again (--background VIDEO ...) or choose "
                f"another folder"
            )
        return
    for name in (*files.EVERY_FILE, files.GENERATED):
        made_by_hand = name in files.ORDERS or name == files.CATEGORIES  # which splits, and how categories are numbered
        if not made_by_hand and (root / name).exists():
            raise UserError(f"{root / name}: is there already and not from this command; choose another folder")


def write_features_of(rows: Sequence[str], store: ClipStore, paths: tuple[Path, Path]) -> None:
    """Write the visual and the audio file of stored clips, a row for each of their ids."""
    shapes = tuple((len(rows), *array.shape) for array in store.load(rows[0]))
    with (
        atomic_path(paths[0]) as visual,
        atomic_path(paths[1]) as audio,
        tqdm(total=len(rows), desc="writing", unit="clip", disable=None) as bar,
    ):
        write_features((visual, audio), shapes, "float32", lambda row: store.load(rows[row]), threads=1, bar=bar)


def _write_splits(root: Path, rows: Sequence[str]) -> None:
    """Write a random split by video, so that no video is in two splits; keep a split that is there already."""
    paths = {split: root / files.order_file(split) for split in files.SPLITS}
    if any(path.exists() for path in paths.values()):
        print(f"{root}: keeps its train, val and test rows; remove the three *_order.h5 for new ones")
        return
    ids = list(dict.fromkeys(rows))
    held_out = max(1, round(_HELD_OUT * len(ids)))
    if len(ids) < 3:
        print(f"{len(ids)} videos are too few for train, val and test: no *_order.h5 written")
        return
    shuffled = np.random.default_rng(_SPLIT_SEED).permutation(ids)
    for split, members in zip(("test", "val", "train"), np.split(shuffled, [held_out, 2 * held_out]), strict=True):
        with atomic_path(paths[split]) as part:
            write_array(part, np.flatnonzero(np.isin(rows, members)))


def _write_record(root: Path, store: ClipStore, plan: Plan, broken: dict[str, str]) -> None:
    def entries(ids: Sequence[str]) -> list[dict[str, object]]:
        return [{"id": id, "video": as_text(plan.videos[id]), "notes": store.notes(id)} for id in ids]

    record = {
        "seconds": store.seconds,
        **dataclasses.asdict(store.recipe),
        "torch": torch.__version__,
        "rows": entries(plan.rows),
        "background_only": entries(plan.background),
        "left_out": [as_text(reason) for reason in broken.values()],
    }
    write_text(root / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")

"""Video files to a data folder, clip by clip.

Each clip's features are kept in DIR/clips as soon as they are there, so that an interrupted run goes on where it
was and a later one with more videos does only those. DIR/extraction.json tells which video is which row, what was
unusual about it, which were left out, and how the features were made.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset import files, labels
from dataset.extract.decoding import BrokenVideo
from dataset.extract.features import FeatureExtractor, Features
from dataset.extract.find import as_text, find_videos
from dataset.extract.video import Clip, read_clip
from dataset.prefetch import ahead
from dataset.writing import alone, write_array, write_features
from utils.base.atomic import atomic_path, inside, make_folder, require_free_space, write_text
from utils.base.devices import choose_device
from utils.base.errors import UserError

RECORD = "extraction.json"
CLIPS = "clips"
_SEGMENT_BYTES = 4 * (7 * 7 * 512 + 128)  # of a segment's features, in a clip's file and again in the data folder's
_SPLIT_SEED = 0
_HELD_OUT = 0.1  # share of the videos in val and in test, about AVE's


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How features are made: segments a clip and the weights of the two networks (see `FeatureExtractor`)."""

    seconds: int
    vgg19: str
    vggish: str


def extract(
    sources: Sequence[Path],
    root: Path,
    annotation_file: Path | None,
    recipe: Recipe,
    gpu: str | None,
    batch: int,
    workers: int,
) -> None:
    """Make or complete the data folder `root` from videos and folders of videos.

    A video that can't be read is reported and left out. Raises UserError when no video is left, when two have the
    same name, when the annotations don't fit, when `root` holds a data folder that this command didn't make, or while
    another command writes there.
    """
    _refuse_foreign_folder(root, annotation_file)
    videos = find_videos(sources)
    lines = None if annotation_file is None else _lines_of(annotation_file, videos, recipe.seconds)
    wanted = videos if lines is None else {id: videos[id] for id in dict.fromkeys(line.id for line in lines)}
    with alone(make_folder(root)):
        broken = _extract_clips(root, wanted, recipe, gpu, batch, workers, len(lines or wanted))
        _write_folder(root, wanted, lines, recipe, broken)


def _extract_clips(
    root: Path, wanted: dict[str, Path], recipe: Recipe, gpu: str | None, batch: int, workers: int, rows: int
) -> dict[str, str]:
    """Store the features of each video that aren't there yet; the videos that can't be read, with the reason."""
    store = ClipStore(make_folder(root / CLIPS), recipe)
    remaining = {id: path for id, path in wanted.items() if not store.holds(id, path)}
    print(f"{len(wanted)} videos, {len(wanted) - len(remaining)} of them done before")
    require_free_space(root, (len(remaining) + rows) * recipe.seconds * _SEGMENT_BYTES)

    broken: dict[str, str] = {}
    if remaining:
        device, where = choose_device(gpu)
        print(where)
        extractor = FeatureExtractor(recipe.vgg19, recipe.vggish, device, batch)
        with tqdm(total=len(remaining), desc="extracting", unit="video", disable=None) as progress:
            for id, clip in decoded_ahead(remaining, recipe.seconds, workers):
                if isinstance(clip, BrokenVideo):
                    broken[id] = str(clip)
                    progress.write(f"left out: {clip}")
                else:
                    for note in clip.notes:
                        progress.write(f"note: {remaining[id]} {note}")
                    store.save(id, remaining[id], extractor(clip), clip.notes)
                progress.update()
    return broken


def _write_folder(
    root: Path, wanted: dict[str, Path], lines: list[labels.Annotation] | None, recipe: Recipe, broken: dict[str, str]
) -> None:
    """Write the data folder from the stored clips of the videos that can be read."""
    store = ClipStore(root / CLIPS, recipe)
    rows = [id for id in (wanted if lines is None else (line.id for line in lines)) if id not in broken]
    if not rows:
        raise UserError(f"none of the {len(wanted)} videos can be read; the reasons are listed above")
    _write_record(root, store, recipe, [(id, wanted[id]) for id in rows], broken)
    _write_features(root, store, rows)
    if lines is not None:
        kept = [line for line in lines if line.id not in broken]
        write_text(root / files.ANNOTATIONS, "".join("&".join(map(str, line)) + "\n" for line in kept))
        _write_splits(root, rows)
    print(f"{len(rows)} clips of {recipe.seconds} segments in {root}" + (f", {len(broken)} left out" if broken else ""))
    print(f"next: python -m dataset.check --data_root {root}" if lines is not None else _WITHOUT_LABELS)


_WITHOUT_LABELS = "there are no labels: training and evaluation need --annotations"


def decoded_ahead(videos: dict[str, Path], seconds: int, workers: int) -> Iterator[tuple[str, Clip | BrokenVideo]]:
    """(id, clip) of each video in order, decoded by threads while the clips before are being used.

    At most `workers` clips (25 MB each for 10 seconds) wait. A video that can't be read comes as its error.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)

    def decoded(path: Path) -> Clip | BrokenVideo:
        try:
            return read_clip(path, seconds, threads)
        except BrokenVideo as error:
            return error

    clips = ahead((functools.partial(decoded, path) for path in videos.values()), workers, most=workers)
    return zip(videos, clips, strict=True)


class ClipStore:
    """The features of clips made so far, a file each; written whole or not at all."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.recipe = folder, recipe

    def holds(self, id: str, video: Path) -> bool:
        """Whether this clip was made from this very video in this very way."""
        try:
            with np.load(self._path(id)) as stored:
                return str(stored["origin"]) == self._origin(video)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return False

    def save(self, id: str, video: Path, features: Features, notes: Sequence[str]) -> None:
        """Keep a clip's features. Raises UserError when the disk is full or the folder can't be written."""
        with atomic_path(self._path(id)) as part, open(part, "wb") as file:
            np.savez(file, **features._asdict(), notes=np.array(list(notes), str), origin=np.array(self._origin(video)))

    def load(self, id: str) -> Features:
        with np.load(self._path(id)) as stored:
            return Features(stored["visual"], stored["audio"])

    def notes(self, id: str) -> list[str]:
        """What was unusual about the clip's video."""
        with np.load(self._path(id)) as stored:
            return stored["notes"].tolist()

    def _path(self, id: str) -> Path:
        return inside(self.folder, f"{id}.npz")

    def _origin(self, video: Path) -> str:
        state = video.stat()
        return json.dumps([video.name, state.st_size, state.st_mtime_ns, *dataclasses.astuple(self.recipe)])


def _refuse_foreign_folder(root: Path, annotation_file: Path | None) -> None:
    if (root / RECORD).exists():
        if annotation_file is None and (root / files.ANNOTATIONS).exists():
            raise UserError(
                f"{root}: was made with annotations; give them again (--annotations {root / files.ANNOTATIONS}) "
                f"or choose another folder"
            )
        return
    for name in (files.VISUAL, files.AUDIO, files.LABELS, files.ANNOTATIONS):
        if (root / name).exists():
            raise UserError(f"{root / name}: is there already and not from this command; choose another folder")


def _lines_of(path: Path, videos: dict[str, Path], seconds: int) -> list[labels.Annotation]:
    """The annotations of the given videos, in the file's order. Raises UserError where they don't fit."""
    every = labels.read_annotations(path)
    lines = [line for line in every if line.id in videos]
    if not lines:
        raise UserError(
            f"{path}: names none of the {len(videos)} videos; its ids (such as {every[0].id!r}) must be the videos' "
            f"names without their endings (such as {next(iter(videos))!r})"
        )
    for line in lines:
        if line.end > seconds:
            raise UserError(f"{path}: the event of {line.id} ends at {line.end} s, but a clip has {seconds} seconds")
    without = [id for id in videos if id not in {line.id for line in lines}]
    if without:
        print(f"{len(without)} videos have no line in {path} and are left out: {', '.join(without)}")
    if len(lines) < len(every):
        print(f"{len(every) - len(lines)} of {len(every)} lines of {path} name no given video and are left out")
    if labels.categories_of(lines) != labels.categories_of(every):
        print(
            f"categories are numbered by their first line, and without the lines left out {path} names "
            f"{len(labels.categories_of(lines))} instead of {len(labels.categories_of(every))}: the folder's "
            f"numbers aren't those of a network that was trained on all of it"
        )
    return lines


def _write_features(root: Path, store: ClipStore, rows: Sequence[str]) -> None:
    shapes = tuple((len(rows), *array.shape) for array in store.load(rows[0]))
    with (
        atomic_path(root / files.VISUAL) as visual,
        atomic_path(root / files.AUDIO) as audio,
        tqdm(total=len(rows), desc="writing", unit="clip", disable=None) as bar,
    ):
        write_features((visual, audio), shapes, "float32", lambda row: store.load(rows[row]), threads=1, bar=bar)


def _write_splits(root: Path, rows: Sequence[str]) -> None:
    """A random split by video, so that no video is on two sides; one that is there already stays."""
    paths = {split: root / files.order_file(split) for split in files.SPLITS}
    if any(path.exists() for path in paths.values()):
        print(f"{root}: keeps its train, val and test rows; remove the three *_order.h5 for new ones")
        return
    ids = list(dict.fromkeys(rows))
    held_out = max(1, round(_HELD_OUT * len(ids)))
    if len(ids) < 3:
        print(f"{len(ids)} videos are too few for train, val and test: no *_order.h5 written")
        return
    shuffled = np.random.default_rng(_SPLIT_SEED).permutation(ids).tolist()
    members = {
        "test": shuffled[:held_out],
        "val": shuffled[held_out : 2 * held_out],
        "train": shuffled[2 * held_out :],
    }
    for split, path in paths.items():
        order = np.array([row for row, id in enumerate(rows) if id in set(members[split])], np.int64)
        with atomic_path(path) as part:
            write_array(part, order)


def _write_record(
    root: Path, store: ClipStore, recipe: Recipe, rows: Sequence[tuple[str, Path]], broken: dict[str, str]
) -> None:
    record = {
        **dataclasses.asdict(recipe),
        "versions": {name: importlib.metadata.version(name) for name in ("av", "keras", "torch")},
        "rows": [{"id": id, "video": as_text(path), "notes": store.notes(id)} for id, path in rows],
        "left_out": [as_text(reason) for reason in broken.values()],
    }
    write_text(root / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")

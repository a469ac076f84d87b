"""Generated clips in exactly the AVE format, for the demo, the tests, and benchmarks at full AVE size.

The features are random numbers with a planted structure (see `dataset.synthetic.planted`): an accuracy on them says
whether the code learns, and nothing about AVE. Each folder carries `generated.json`, which says so.

The same settings give the same array data (under the same NumPy), whatever the number of threads: each clip
has its own random streams. A folder appears whole or not at all: the files are written in
a hidden folder in `FOLDER`, flushed, then renamed, the visual features last.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset import files, labels, writing
from dataset.synthetic import planted
from dataset.synthetic.clips import Layout, Settings, lay_out
from utils.base import atomic
from utils.base.errors import UserError
from utils.base.text import read_json

# Of what is generated: raised when the same settings give other data than before.
_VERSION = 2
_FILES = (files.GENERATED, *(name for name in writing.MOVED if name != files.CATEGORIES))
# The first number of each random stream; those of `dataset.synthetic.clips` are others.
_WORLD, _SCRIPT, _VISUAL, _AUDIO = 0, 3, 4, 5
_EVENT_CLIP, _BACKGROUND_CLIP = range(2)

_log = logging.getLogger(__name__)


def generate(
    out: str | os.PathLike, settings: Settings | None = None, *, force: bool = False, threads: int | None = None
) -> Path:
    """Generate a data folder at `out`; return its path.

    A folder that already holds what `settings` (default: the demo data) ask for is left as it is. Data
    generated with other settings are replaced with `force` only, files that were not generated never.

    Raises:
        UserError: impossible settings, a folder in use, too little disk space, annotations without their splits.
    """
    settings, out = settings or Settings(), Path(out)
    settings.check()
    layout = lay_out(settings)
    record = _record(settings, layout)
    if _holds(out, record, force):
        _log.info(f"{out}: already holds these generated data")
        return out
    atomic.require_free_space(
        out,
        _size(settings, layout),
        fix="free some space, choose another folder, or ask for fewer clips or a smaller number type",
    )
    atomic.make_folder(out)
    with atomic.writing(out), writing.alone(out), atomic.private_folder(out / "generating") as part:
        _write(part, settings, layout, threads or os.cpu_count() or 1)
        record["bytes"] = {name: (part / name).stat().st_size for name in _FILES if name != files.GENERATED}
        (part / files.GENERATED).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        writing.move_into(part, out, files.GENERATED)
    return out


def _record(settings: Settings, layout: Layout) -> dict:
    """What `generated.json` says, but for the sizes of the files."""
    chosen = {**asdict(settings), "grid": list(settings.grid), "background_only": layout.background_only}
    real = []
    if chosen.pop("annotations") is not None:
        for name in ("train", "val", "test", "categories"):  # the annotations and the order files say these
            del chosen[name]
        real.append("categories, event times and splits")
    if layout.real_background is not None:
        real.append("audio and labels of the background-only clips")
    clips = hashlib.sha256(layout.text.encode())
    for order in layout.orders.values():
        clips.update(order.tobytes())
    return {
        "what": "Generated features: an accuracy on them is no result on AVE.",
        "real": real,
        "version": _VERSION,
        "settings": chosen,
        "clips": clips.hexdigest(),  # tells two sets of annotations and splits apart
    }


def _holds(out: Path, record: dict, force: bool) -> bool:
    """Whether `out` holds the whole data of `record`. Raises UserError where it holds data that must stay."""
    present = [name for name in (*_FILES, files.CATEGORIES, files.MADE_WITH) if (out / name).exists()]
    if not present:
        return False
    try:
        made = read_json(out / files.GENERATED)
        sizes = dict(made.pop("bytes"))
    except (UserError, KeyError, TypeError, ValueError, AttributeError):
        made, sizes = None, {}
    for name in present:
        if name != files.GENERATED and (out / name).stat().st_size != sizes.get(name):
            raise UserError(
                f"{out}: holds {name}, which was not generated here; choose another folder for generated data"
            )
    if made is not None and made != record and not force:
        raise UserError(
            f"{out}: holds data generated with other settings or by another version; remove the folder, replace "
            f"them with `python -m dataset.synthetic --force ...`, or choose another folder"
        )
    return made == record and not force and len(present) == len(_FILES)


def _size(settings: Settings, layout: Layout) -> int:
    """Bytes of the features, the labels and room for the HDF5 headers."""
    clips = len(layout.text.splitlines()) + layout.background_only
    cells = settings.grid[0] * settings.grid[1]
    features = settings.segments * (cells * settings.visual_dim + settings.audio_dim)
    return clips * features * np.dtype(settings.dtype).itemsize + clips * 2_000 + 100_000


def _write(part: Path, settings: Settings, layout: Layout, threads: int) -> None:
    """Write every file but `generated.json` into `part`."""
    path = part / files.ANNOTATIONS
    path.write_text(layout.text, encoding="utf-8")
    for split, rows in layout.orders.items():
        writing.write_array(part / files.order_file(split), rows)
    writing.write_array(part / files.LABELS, labels.labels_from_annotations(path, settings.segments))
    clip_labels = labels.clip_labels_from_annotations(path)
    writing.write_array(part / files.CLIP_LABELS, clip_labels)
    background = np.eye(clip_labels.shape[1], dtype=np.float32)[[-1] * layout.background_only]
    writing.write_array(part / files.NOISY_LABELS, background)

    clips = _Clips(settings, labels.read_annotations(path))
    with tqdm(total=len(clip_labels) + layout.background_only, desc="generating", unit="clip", disable=None) as bar:
        for visual, audio, clip, count in (
            (files.VISUAL, files.AUDIO, clips.with_event, len(clip_labels)),
            (files.NOISY_VISUAL, files.NOISY_AUDIO, clips.background_only, layout.background_only),
        ):
            shapes = [(count, *shape) for shape in clips.shapes]
            writing.write_features((part / visual, part / audio), shapes, settings.dtype, clip, threads, bar)
    if layout.real_background is not None:
        for name in (files.NOISY_AUDIO, files.NOISY_LABELS):
            shutil.copyfile(layout.real_background / name, part / name)


class _Clips:
    """The features of each clip: visual [T, H, W, Dv] and audio [T, Da], in the type in which they are stored."""

    def __init__(self, settings: Settings, annotations: list[labels.Annotation]) -> None:
        self.settings, self.annotations = settings, annotations
        names = labels.categories_of(annotations)
        self.index = {name: i for i, name in enumerate(names)}
        self.world = planted.make_world(
            len(names), settings.visual_dim, settings.audio_dim, np.random.default_rng((_WORLD, settings.seed))
        )
        # As stored: features on a grid of one cell are features without a grid.
        grid = () if tuple(settings.grid) == (1, 1) else settings.grid
        self.shapes = (
            (settings.segments, *grid, settings.visual_dim),
            (settings.segments, settings.audio_dim),
        )

    def with_event(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        event, rng = self.annotations[row], self._rng(_SCRIPT, _EVENT_CLIP, row)
        category, categories = self.index[event.category], len(self.index)
        script = planted.event_script(category, event.start, event.end, self.settings.segments, categories, rng)
        return self._features(script, _EVENT_CLIP, row)

    def background_only(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        rng = self._rng(_SCRIPT, _BACKGROUND_CLIP, row)
        script = planted.background_script(self.settings.segments, len(self.index), rng)
        return self._features(script, _BACKGROUND_CLIP, row)

    def _features(self, script: planted.Script, kind: int, row: int) -> tuple[np.ndarray, np.ndarray]:
        segments, grid, dtype = self.settings.segments, self.settings.grid, self.settings.dtype
        visual = planted.visual_features(self.world, script, segments, grid, self._rng(_VISUAL, kind, row))
        audio = planted.audio_features(self.world, script, segments, self._rng(_AUDIO, kind, row))
        return visual.astype(dtype, copy=False).reshape(self.shapes[0]), audio.astype(dtype, copy=False)

    def _rng(self, stream: int, kind: int, row: int) -> np.random.Generator:
        return np.random.default_rng((stream, self.settings.seed, kind, row))

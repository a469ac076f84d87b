"""Generated clips in exactly the AVE format, for the demo, the tests, and benchmarks at full AVE size.

    python -m dataset.synthetic --out data/demo                             # the demo data
    python -m dataset.synthetic --out FOLDER --annotations Annotations.txt  # AVE's categories, times and splits

The features are random numbers with a planted structure (see `dataset.planted`): an accuracy on them says
whether the code learns, and nothing about AVE. Each folder carries `generated.json`, which says so.

The same settings give the same array data, whatever the number of threads: each clip has its own random
stream. A folder appears whole or not at all: the files are written in `FOLDER/generating.part`, flushed,
then renamed, the visual features last.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import logging
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from tqdm import tqdm

from dataset import files, labels, planted
from utils import atomic
from utils.errors import UserError, command

MARKER = "generated.json"
DTYPES = ("float16", "float32", "float64")

# Small files first, the visual features last: a folder that a killed run left half renamed never looks whole.
_FILES = (
    MARKER,
    files.ANNOTATIONS,
    *(files.order_file(split) for split in files.SPLITS),
    files.LABELS,
    files.CLIP_LABELS,
    files.NOISY_LABELS,
    files.NOISY_AUDIO,
    files.NOISY_VISUAL,
    files.AUDIO,
    files.VISUAL,
)
_PART = "generating.part"

# The first number of each random stream, so that no two streams coincide: (stream, seed, row).
_WORLD, _TIMES, _ORDER, _SCRIPT, _VISUAL, _AUDIO = range(6)
_EVENT_CLIP, _BACKGROUND_CLIP = range(2)

_CATEGORIES = (
    "Doorbell", "Steam kettle", "Snare drum", "Piano, keyboard", "Dog growling", "Tractor", "Sewing machine", "Trumpet",
    "Power drill", "Cow mooing", "Waterfall", "Typewriter", "Hand bell", "Fire engine, siren", "Harp", "Rooster",
    "Vacuum cleaner", "Bicycle", "Cello", "Applause", "Sheep", "Lawn mower", "Telephone", "Tap dance",
    "Blender", "Owl", "Skateboard", "Xylophone",
)  # fmt: skip

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to generate; the defaults are the demo data.

    train, val, test: clips of each split. background_only: clips without any event (`*_noisy.h5`); None is
    32, or 178 (AVE's) with `annotations`. categories: C, without background. segments: T. grid: H, W.
    visual_dim, audio_dim: features of a cell and of a second. dtype: of the stored features.
    annotations: an `Annotations.txt` with the three order files beside it, which then say the categories,
    times and splits in place of `train`, `val`, `test` and `categories`.
    """

    train: int = 256
    val: int = 64
    test: int = 96
    background_only: int | None = None
    categories: int = 8
    segments: int = labels.SEGMENTS
    grid: tuple[int, int] = (7, 7)
    visual_dim: int = 512
    audio_dim: int = 128
    seed: int = 0
    dtype: str = "float32"
    annotations: str | os.PathLike | None = None


class Layout(NamedTuple):
    """Which clips there are: annotation text, rows of each split, number of background-only clips.

    real_background is the folder whose real background-only audio is used, or None.
    """

    text: str
    orders: dict[str, np.ndarray]
    background_only: int
    real_background: Path | None


def generate(
    out: str | os.PathLike, settings: Settings | None = None, *, force: bool = False, threads: int | None = None
) -> Path:
    """Generate a data folder at `out`; return its path.

    A folder that already holds what `settings` ask for is left as it is. Data generated with other
    settings are replaced with `force` only, and files that were not generated never.

    Raises:
        UserError: impossible settings, a folder in use, too little disk space, annotations without their splits.
    """
    settings = settings or Settings()
    out = Path(out)
    _check(settings)
    layout = _layout(settings)
    story = _story(settings, layout)
    if _is_whole(out, story, force):
        _log.info(f"{out} already holds these generated data")
        return out
    _check_space(out, _feature_bytes(settings, layout))
    atomic.make_folder(out)
    try:
        with _working_folder(out / _PART) as part:
            _write(part, settings, layout, threads or os.cpu_count() or 1)
            story["bytes"] = {name: (part / name).stat().st_size for name in _FILES if name != MARKER}
            (part / MARKER).write_text(json.dumps(story, indent=2) + "\n", encoding="utf-8")
            for name in _FILES:
                with open(part / name, "rb+") as file:
                    os.fsync(file.fileno())
            for name in reversed(_FILES):  # the visual features first, the marker last
                (out / name).unlink(missing_ok=True)
            for name in _FILES:
                os.replace(part / name, out / name)
    except OSError as error:
        raise atomic.write_error(out, error) from error
    return out


def _check(settings: Settings) -> None:
    least = {
        "train": 1,
        "val": 1,
        "test": 1,
        "categories": 2,
        "segments": 4,
        "visual_dim": 2,
        "audio_dim": 2,
        "seed": 0,
    }
    for name, smallest in least.items():
        if getattr(settings, name) < smallest:
            raise UserError(f"generated data: {name} is {getattr(settings, name)}; it must be at least {smallest}")
    if settings.background_only is not None and settings.background_only < 1:
        raise UserError(f"generated data: background_only is {settings.background_only}; it must be at least 1")
    if len(settings.grid) != 2 or min(settings.grid) < 1:
        raise UserError(
            f"generated data: grid is {tuple(settings.grid)}; it must be two numbers >= 1, height and width"
        )
    if settings.dtype not in DTYPES:
        raise UserError(f"generated data: dtype is {settings.dtype!r}; choose one of {', '.join(DTYPES)}")
    if settings.annotations is None and settings.train < settings.categories:
        raise UserError(
            f"generated data: {settings.train} training clips cannot show {settings.categories} categories; "
            f"ask for at least {settings.categories} training clips or fewer categories"
        )


def _layout(settings: Settings) -> Layout:
    if settings.annotations is None:
        return _own_layout(settings)
    path = Path(settings.annotations)
    annotations = labels.read_annotations(path)
    orders = {}
    for split in files.SPLITS:
        order = path.with_name(files.order_file(split))
        if not order.exists():
            raise UserError(
                f"{path}: the splits come from {', '.join(map(files.order_file, files.SPLITS))} beside it, "
                f"but {order.name} is missing; put the AVE files of that name there"
            )
        orders[split] = files.read_order(path.parent, split)
        if orders[split].size == 0 or orders[split].max() >= len(annotations):
            raise UserError(
                f"{order}: must list rows of {path.name}, which has {len(annotations)}; "
                f"they belong to different data sets"
            )
    real = path.parent if _has_real_background(path.parent) else None
    clips = settings.background_only
    if real is not None:
        with files.open_array(real / files.NOISY_AUDIO) as audio:
            shape = audio.shape
        if shape[1:] != (settings.segments, settings.audio_dim) or clips not in (None, shape[0]):
            raise UserError(
                f"{real / files.NOISY_AUDIO}: its shape is {list(shape)}, but {clips or 'any number of'} clips of "
                f"{settings.segments} segments and {settings.audio_dim} audio features are asked for; "
                f"leave those options away, or move the file elsewhere to have the background audio generated too"
            )
        clips = shape[0]
    return Layout(path.read_text(encoding="utf-8"), orders, clips or 178, real)


def _own_layout(settings: Settings) -> Layout:
    """Categories in turn, half of the events over the whole clip, the splits one after the other in the rows."""
    names = [_CATEGORIES[i] if i < len(_CATEGORIES) else f"Category {i}" for i in range(settings.categories)]
    lines, orders, first = [], {}, 0
    for number, (split, count) in enumerate(
        zip(files.SPLITS, (settings.train, settings.val, settings.test), strict=True)
    ):
        for row in range(first, first + count):
            start, end = _event_times(settings.segments, np.random.default_rng((_TIMES, settings.seed, row)))
            lines.append(f"{names[row % len(names)]}&generated{row:06d}&good&{start}&{end}\n")
        orders[split] = first + np.random.default_rng((_ORDER, settings.seed, number)).permutation(count)
        first += count
    return Layout("".join(lines), orders, settings.background_only or 32, None)


def _event_times(segments: int, rng: np.random.Generator) -> tuple[int, int]:
    if rng.random() < 0.5:
        return 0, segments
    length = int(rng.integers(2, segments))
    start = int(rng.integers(segments - length + 1))
    return start, start + length


def _has_real_background(folder: Path) -> bool:
    """Whether `folder` holds AVE's own background-only audio and labels, and not generated ones."""
    there = [(folder / name).exists() for name in (files.NOISY_AUDIO, files.NOISY_LABELS)]
    return all(there) and not (folder / MARKER).exists()


def _story(settings: Settings, layout: Layout) -> dict:
    """What `generated.json` says, but for the sizes of the files."""
    chosen = {key: value for key, value in asdict(settings).items() if key != "annotations"}
    chosen["grid"] = list(settings.grid)
    chosen["background_only"] = layout.background_only
    if settings.annotations is not None:
        for replaced in ("train", "val", "test", "categories"):
            del chosen[replaced]
    return {
        "what": "Generated features, not AVE: accuracies on them are no result on AVE.",
        "real": _real_parts(settings, layout),
        "settings": chosen,
    }


def _real_parts(settings: Settings, layout: Layout) -> list[str]:
    if settings.annotations is None:
        return []
    parts = ["categories, event times and splits"]
    return parts + (["audio and labels of the background-only clips"] if layout.real_background else [])


def _is_whole(out: Path, story: dict, force: bool) -> bool:
    """Whether `out` already holds the data of `story`. Raises UserError when something else must not be replaced."""
    present = [name for name in _FILES if (out / name).exists()]
    if not present:
        return False
    try:
        made = json.loads((out / MARKER).read_text(encoding="utf-8"))
        sizes = dict(made.pop("bytes"))
    except (OSError, ValueError, KeyError, TypeError):
        made, sizes = None, {}
    foreign = [name for name in present if name != MARKER and (out / name).stat().st_size != sizes.get(name)]
    if foreign:
        raise UserError(f"{out}: holds {foreign[0]}, which was not generated here; choose another folder with --out")
    if made is not None and made != story and not force:
        raise UserError(
            f"{out}: holds data generated with other settings; add --force to replace them, or choose another folder"
        )
    return made == story and not force and len(present) == len(_FILES)


def _feature_bytes(settings: Settings, layout: Layout) -> int:
    clips = layout.text.count("\n") + layout.background_only + 1
    features = settings.grid[0] * settings.grid[1] * settings.visual_dim + settings.audio_dim
    return clips * settings.segments * features * np.dtype(settings.dtype).itemsize


def _check_space(out: Path, needed: int) -> None:
    folder = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < needed * 1.02:
        raise UserError(
            f"{out}: the generated data need {needed / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free there; "
            f"free some space, choose another folder, or ask for fewer clips or --dtype float16"
        )


@contextlib.contextmanager
def _working_folder(part: Path) -> Iterator[Path]:
    """An empty folder that no other run uses; what a killed run left there is removed, and it goes in the end."""
    part.mkdir(exist_ok=True)
    with open(part / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{part.parent}: another run is generating data there; wait until it ends") from None
        for leftover in _FILES:
            (part / leftover).unlink(missing_ok=True)
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _write(part: Path, settings: Settings, layout: Layout, threads: int) -> None:
    """Write every file but the marker into `part`."""
    (part / files.ANNOTATIONS).write_text(layout.text, encoding="utf-8")
    annotations = labels.read_annotations(part / files.ANNOTATIONS)
    names = labels.category_names(annotations)
    for split, rows in layout.orders.items():
        _write_array(part / files.order_file(split), rows)
    _write_array(part / files.LABELS, labels.labels_from_annotations(part / files.ANNOTATIONS, settings.segments))
    _write_array(part / files.CLIP_LABELS, labels.clip_labels_from_annotations(part / files.ANNOTATIONS))

    rng = np.random.default_rng((_WORLD, settings.seed))
    world = planted.make_world(len(names), settings.visual_dim, settings.audio_dim, rng)
    index = {name: i for i, name in enumerate(names)}

    def event(row: int, rng: np.random.Generator) -> planted.Script:
        told = annotations[row]
        return planted.event_script(index[told.category], told.start, told.end, settings.segments, len(names), rng)

    def background(row: int, rng: np.random.Generator) -> planted.Script:
        return planted.background_script(settings.segments, len(names), rng)

    with tqdm(total=len(annotations) + layout.background_only, desc="generating", unit="clip", disable=None) as bar:
        clip = partial(_clip, world=world, settings=settings)
        event_clip = partial(clip, script=event, kind=_EVENT_CLIP)
        background_clip = partial(clip, script=background, kind=_BACKGROUND_CLIP)
        _write_features(part, files.VISUAL, files.AUDIO, event_clip, len(annotations), settings, threads, bar)
        _write_features(
            part, files.NOISY_VISUAL, files.NOISY_AUDIO, background_clip, layout.background_only, settings, threads, bar
        )
    if layout.real_background is None:
        only_background = np.zeros((layout.background_only, len(names) + 1), np.float32)
        only_background[:, -1] = 1
        _write_array(part / files.NOISY_LABELS, only_background)
    else:
        for name in (files.NOISY_AUDIO, files.NOISY_LABELS):
            shutil.copyfile(layout.real_background / name, part / name)


def _clip(
    row: int,
    *,
    world: planted.World,
    settings: Settings,
    script: Callable[[int, np.random.Generator], planted.Script],
    kind: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Visual [T, H, W, Dv] and audio [T, Da] features of a clip, as they are stored."""
    streams = (np.random.default_rng((stream, settings.seed, kind, row)) for stream in (_SCRIPT, _VISUAL, _AUDIO))
    told = script(row, next(streams))
    visual = planted.visual_features(world, told, settings.segments, settings.grid, next(streams))
    audio = planted.audio_features(world, told, settings.segments, next(streams))
    return visual.astype(settings.dtype, copy=False), audio.astype(settings.dtype, copy=False)


def _write_features(
    part: Path,
    visual_name: str,
    audio_name: str,
    clip: Callable,
    clips: int,
    settings: Settings,
    threads: int,
    bar: tqdm,
) -> None:
    """Write a visual and an audio feature file, `clip(row)` by `clip(row)`, with few clips in memory at a time."""
    visual_shape = (clips, settings.segments, *settings.grid, settings.visual_dim)
    audio_shape = (clips, settings.segments, settings.audio_dim)
    with (
        h5py.File(part / visual_name, "w") as visual_file,
        h5py.File(part / audio_name, "w") as audio_file,
        ThreadPoolExecutor(threads) as pool,
    ):
        visual = visual_file.create_dataset(files.KEY, visual_shape, settings.dtype)
        audio = audio_file.create_dataset(files.KEY, audio_shape, settings.dtype)
        for row, (seen, heard) in enumerate(_in_order(pool, clip, clips, ahead=4 * threads)):
            visual[row], audio[row] = seen, heard
            bar.update()


def _in_order(
    pool: ThreadPoolExecutor, clip: Callable, clips: int, ahead: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`clip(0)`, `clip(1)`, ..., computed by the pool at most `ahead` clips before they are taken."""
    waiting = deque()
    try:
        for row in range(clips):
            waiting.append(pool.submit(clip, row))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _write_array(path: Path, array: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset(files.key_of(path.name), data=array)


def _parser() -> argparse.ArgumentParser:
    defaults = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m dataset.synthetic",
        description="Generate clips in the AVE format with a planted structure. Without options: the demo data.",
        argument_default=argparse.SUPPRESS,  # only what was given overrides the defaults of Settings
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the data")
    parser.add_argument("--force", action="store_true", help="replace data generated with other settings")
    for name, text in (
        ("train", "training clips"),
        ("val", "validation clips"),
        ("test", "test clips"),
        ("background-only", "clips without an event (32, or 178 with --annotations)"),
        ("categories", "categories, without background"),
        ("segments", "segments a clip"),
        ("visual-dim", "visual features of a grid cell"),
        ("audio-dim", "audio features of a segment"),
        ("seed", "the same seed gives the same data"),
    ):
        default = getattr(defaults, name.replace("-", "_"))
        parser.add_argument(
            f"--{name}", type=int, metavar="N", help=text + (f" ({default})" if default is not None else "")
        )
    parser.add_argument("--grid", type=int, nargs=2, metavar=("H", "W"), help="cells of the visual grid (7 7)")
    parser.add_argument("--dtype", choices=DTYPES, help=f"type of the stored features ({defaults.dtype})")
    parser.add_argument(
        "--annotations",
        metavar="FILE",
        help="AVE's Annotations.txt: its categories and times, the splits of the order files beside it, "
        "and the real background-only audio if that is beside it too",
    )
    return parser


@command
def main(arguments: list[str] | None = None) -> None:
    given = vars(_parser().parse_args(arguments))
    out, force = given.pop("out"), given.pop("force", False)
    replaced = [name for name in ("train", "val", "test", "categories") if name in given]
    if replaced and "annotations" in given:
        raise UserError(
            f"--{replaced[0]}: with --annotations the file says the categories and splits; leave one of the two away"
        )
    if "grid" in given:
        given["grid"] = tuple(given["grid"])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = generate(out, Settings(**given), force=force)
    story = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    size = sum(story["bytes"].values())
    print(f"{folder}: generated data, {size / 1e9:.2f} GB" + "".join(f"; real: {part}" for part in story["real"]))


if __name__ == "__main__":
    sys.exit(main())

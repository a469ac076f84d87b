"""Which clips a generated data set has: their categories, event times, splits and number."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset import files, labels
from dataset.arrays import array_file, read_order
from utils.base.errors import UserError
from utils.base.text import read_text

DTYPES = ("float16", "float32", "float64")

BACKGROUND_ONLY = 32
BACKGROUND_ONLY_OF_AVE = 178
FULL_LENGTH = 0.4  # share of the events that fill their clip; two thirds on AVE, where background is scarce
SHORTEST = 4  # segments of the shortest event: CMBS names a clip's category by its top 4 segments

# The first number of each random stream; those of `dataset.synthetic.generate` are others.
_TIMES, _ORDER = 1, 2

_CATEGORIES = (
    "Doorbell", "Steam kettle", "Snare drum", "Piano, keyboard", "Dog growling", "Tractor", "Sewing machine", "Trumpet",
    "Power drill", "Cow mooing", "Waterfall", "Typewriter", "Hand bell", "Fire engine, siren", "Harp", "Rooster",
    "Vacuum cleaner", "Bicycle", "Cello", "Applause", "Sheep", "Lawn mower", "Telephone", "Tap dance",
    "Blender", "Owl", "Skateboard", "Xylophone",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to generate; the defaults are the demo data.

    train, val, test: clips of each split. background_only: clips without any event (`*_noisy.h5`); None is
    32, or 178 (AVE's) with `annotations`. categories: C, without background. segments: T. grid: H, W; of 1 x 1:
    stored without a grid. visual_dim, audio_dim: features of a cell and of a second. dtype: of the stored features.
    annotations: an `Annotations.txt` with the three order files beside it, which then say the categories,
    times and splits in place of `train`, `val`, `test` and `categories`.
    """

    train: int = 384
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

    def check(self) -> None:
        """Raise UserError where no data can be generated with these settings."""
        least = {"background_only": 1, "categories": 2, "segments": 4, "visual_dim": 2, "audio_dim": 2, "seed": 0}
        for name, smallest in {"train": 1, "val": 1, "test": 1, **least}.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise UserError(f"generated data: {name} is {value}; it must be at least {smallest}")
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise UserError(f"generated data: grid is {self.grid}; it must be two numbers >= 1, height and width")
        if self.dtype not in DTYPES:
            raise UserError(f"generated data: dtype is {self.dtype!r}; choose one of {', '.join(DTYPES)}")
        if self.annotations is None and self.train < self.categories:
            raise UserError(
                f"generated data: {self.train} training clips cannot show {self.categories} categories; "
                f"ask for at least {self.categories} training clips or fewer categories"
            )


class Layout(NamedTuple):
    """Which clips there are: annotation text, rows of each split, number of background-only clips.

    real_background is the folder whose real background-only audio is used, or None.
    """

    text: str
    orders: dict[str, np.ndarray]
    background_only: int
    real_background: Path | None


def lay_out(settings: Settings) -> Layout:
    """The layout that `settings` ask for. Raises UserError when the annotations and the files beside them don't fit."""
    if settings.annotations is None:
        return _own_layout(settings)
    path = Path(settings.annotations)
    orders = _orders_beside(path)
    folder = path.parent
    # Background-only files that were generated are generated again, with these settings.
    there = [(folder / name).exists() for name in (files.NOISY_AUDIO, files.NOISY_LABELS)]
    if not all(there) or (folder / files.GENERATED).exists():
        clips = settings.background_only or BACKGROUND_ONLY_OF_AVE
        return Layout(read_text(path), orders, clips, None)
    clips, *shape = array_file(folder / files.NOISY_AUDIO).shape
    if shape != [settings.segments, settings.audio_dim] or settings.background_only not in (None, clips):
        raise UserError(
            f"{folder / files.NOISY_AUDIO}: holds {clips} clips of {shape[0]} segments with {shape[1]} features, not "
            f"the background_only, segments or audio_dim asked for; drop these options, or move the file away to have "
            f"generated ones"
        )
    return Layout(read_text(path), orders, clips, folder)


def _orders_beside(path: Path) -> dict[str, np.ndarray]:
    """Rows of each split of the annotations at `path`, from the order files in the same folder."""
    clips = len(labels.read_annotations(path))
    orders = {}
    for split in files.SPLITS:
        order = path.with_name(files.order_file(split))
        if not order.exists():
            raise UserError(
                f"{path}: its splits come from {', '.join(map(files.order_file, files.SPLITS))} in the same folder, "
                f"but {order.name} isn't there; put the AVE files of that name beside it"
            )
        orders[split] = read_order(path.parent, split)
        if orders[split].size == 0 or orders[split].max() >= clips:
            raise UserError(
                f"{order}: must list rows of {path.name}, which has {clips}; they belong to different data sets"
            )
    return orders


def _own_layout(settings: Settings) -> Layout:
    """Categories in turn, the splits one after the other in the rows."""
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
    return Layout("".join(lines), orders, settings.background_only or BACKGROUND_ONLY, None)


def _event_times(segments: int, rng: np.random.Generator) -> tuple[int, int]:
    if rng.random() < FULL_LENGTH:
        return 0, segments
    length = int(rng.integers(min(SHORTEST, segments - 1), segments))
    start = int(rng.integers(segments - length + 1))
    return start, start + length

"""The structure planted in generated clips: what is seen and heard in each segment, and features that show it.

A clip is written as a *script* first: which categories can be seen and which can be heard in each
segment. A category that is seen *and* heard in the same segment is an event; everything else is there
to mislead a reader of one modality:

- before and after its event, the clip's own object stays visible but silent, or its sound goes on off-screen;
- another category sounds off-screen, also during the event: hearing alone leaves two candidates;
- another category's object stands there silently, also during the event: sight alone leaves two candidates.

The features then look like AVE's: `block5_pool` of a VGG after ReLU (a sparse scene over the whole grid,
an object in a few neighbouring cells whose place drifts) and VGGish after ReLU (about 65 % zeros, mean
0.12, standard deviation 0.26, as measured on the real background-only clips of AVE).

Arithmetic is elementwise on arrays of one clip, so that the same seed gives the same values whatever the
number of threads and the order of the clips.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# How often a clip misleads. A distractor is there for at least half of the clip, as loud or as large as the
# clip's own: one modality alone then has to guess between two categories.
EXTRA_SOUND = 0.5
EXTRA_OBJECT = 0.5
# What a run of background segments beside an event holds; "neither" has the rest.
SILENT_OBJECT = 0.4
OFF_SCREEN_SOUND = 0.4

SCENES = 16  # kinds of scene in the world
SCENES_PER_CLIP = 3


class Track(NamedTuple):
    """One category in one modality of a clip: where `on` [T] is true it can be seen (or heard)."""

    category: int
    on: np.ndarray


class Script(NamedTuple):
    """What can be seen and what can be heard in the segments of a clip."""

    objects: list[Track]
    sounds: list[Track]


class World(NamedTuple):
    """What all clips share: what each category looks and sounds like, the scenes, and the resting activity.

    objects [C, Dv], sounds [C, Da], scenes [S, Dv], visual_rest [Dv], audio_rest [Da]; float32.
    """

    objects: np.ndarray
    sounds: np.ndarray
    scenes: np.ndarray
    visual_rest: np.ndarray
    audio_rest: np.ndarray


def make_world(categories: int, visual_dim: int, audio_dim: int, rng: np.random.Generator) -> World:
    """Draw the world of a data set."""
    return World(
        objects=_patterns(categories, visual_dim, density=0.10, scale=3.0, rng=rng),
        sounds=_patterns(categories, audio_dim, density=0.16, scale=0.22, rng=rng),
        scenes=_patterns(SCENES, visual_dim, density=0.12, scale=1.2, rng=rng),
        visual_rest=rng.normal(-1.0, 0.4, visual_dim).astype(np.float32),
        audio_rest=rng.normal(-0.16, 0.22, audio_dim).astype(np.float32),
    )


def event_script(
    category: int, start: int, end: int, segments: int, categories: int, rng: np.random.Generator
) -> Script:
    """Script of a clip with an event of `category` in the segments start..end-1 and nowhere else."""
    event = np.zeros(segments, bool)
    event[start:end] = True
    seen, heard = event.copy(), event.copy()
    for run in (slice(0, start), slice(end, segments)):
        kind = rng.random()
        seen[run] = kind < SILENT_OBJECT
        heard[run] = SILENT_OBJECT <= kind < SILENT_OBJECT + OFF_SCREEN_SOUND
    other_sound, other_object = _other_categories(category, categories, rng)
    objects, sounds = [Track(category, seen)], [Track(category, heard)]
    if other_sound is not None and rng.random() < EXTRA_SOUND:
        sounds.append(Track(other_sound, _span(segments, rng)))
    if other_object is not None and rng.random() < EXTRA_OBJECT:
        objects.append(Track(other_object, _span(segments, rng)))
    return Script(objects, sounds)


def background_script(segments: int, categories: int, rng: np.random.Generator) -> Script:
    """Script of a background-only clip: a silent object and an off-screen sound of another category, or only one."""
    seen = int(rng.integers(categories))
    heard, also_heard = _other_categories(seen, categories, rng)
    kind = rng.random()
    objects = [Track(seen, _span(segments, rng))] if kind < 0.8 else []
    sounds = [Track(heard, _span(segments, rng))] if heard is not None and kind >= 0.2 else []
    if sounds and also_heard is not None and rng.random() < EXTRA_SOUND / 2:
        sounds.append(Track(also_heard, _span(segments, rng)))
    return Script(objects, sounds)


def visual_features(
    world: World, script: Script, segments: int, grid: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Visual features [T, H, W, Dv] float32 >= 0 of a clip."""
    height, width = grid
    rows, columns = np.divmod(np.arange(height * width), width)
    scale = min(height, width)

    scene = np.zeros((height * width, world.scenes.shape[1]), np.float32)
    for kind in rng.choice(len(world.scenes), SCENES_PER_CLIP, replace=False):
        row, column = rng.uniform(0, height - 1), rng.uniform(0, width - 1)
        reach = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * (0.4 * scale) ** 2))
        scene += (rng.uniform(0.5, 1.3) * reach[:, None]).astype(np.float32) * _instance(world.scenes[kind], rng)

    # Part of what is neither scene nor object stays for the clip (its texture), part changes every second.
    values = rng.standard_normal((segments, height * width, world.scenes.shape[1]), np.float32)
    values *= np.float32(0.5)
    values += scene + world.visual_rest + np.float32(0.4) * rng.standard_normal(scene.shape, np.float32)

    row, column = rng.uniform(0, height - 1), rng.uniform(0, width - 1)
    for track in script.objects:
        shape = _instance(world.objects[track.category], rng)
        radius, size = rng.uniform(0.11, 0.17) * scale, rng.uniform(0.7, 1.3)
        path = np.array([row, column]) + np.cumsum(rng.normal(0, 0.05 * scale, (segments, 2)), axis=0)
        path = np.clip(path, 0, [height - 1, width - 1])
        distance = (rows - path[:, :1]) ** 2 + (columns - path[:, 1:]) ** 2
        cover = np.exp(-distance / (2 * max(radius, 0.6) ** 2)) * track.on[:, None]
        for segment, cell in np.argwhere(cover > 0.2):
            # An object hides part of the scene behind it.
            shown = np.float32(cover[segment, cell])
            values[segment, cell] += shown * (np.float32(size) * shape - np.float32(0.7) * scene[cell])
        # The next object stands on the other side of the grid.
        row, column = (row + height / 2) % height, (column + width / 2) % width
    np.maximum(values, 0, out=values)
    return values.reshape(segments, height, width, -1)


def audio_features(world: World, script: Script, segments: int, rng: np.random.Generator) -> np.ndarray:
    """Audio features [T, Da] float32 >= 0 of a clip."""
    size = world.audio_rest.size
    room = rng.standard_normal(size, np.float32)
    values = (
        world.audio_rest + np.float32(0.2) * room + np.float32(0.15) * rng.standard_normal((segments, size), np.float32)
    )
    for track in script.sounds:
        sound = _instance(world.sounds[track.category], rng)
        loudness = rng.uniform(0.7, 1.3) * rng.uniform(0.8, 1.2, segments) * track.on
        values += loudness[:, None].astype(np.float32) * sound
    return np.maximum(values, 0, out=values)


def _patterns(count: int, size: int, density: float, scale: float, rng: np.random.Generator) -> np.ndarray:
    """[count, size] float32: each row has a share `density` of its features active, Gamma distributed."""
    patterns = np.zeros((count, size), np.float32)
    active = max(2, round(density * size))
    for pattern in patterns:
        pattern[rng.choice(size, active, replace=False)] = rng.gamma(2.0, scale, active)
    return patterns


def _instance(pattern: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How one clip shows a pattern: some of its features are missing, the others stronger or weaker."""
    kept = rng.random(pattern.size) > 0.15
    return pattern * np.exp(0.3 * rng.standard_normal(pattern.size)).astype(np.float32) * kept


def _other_categories(category: int, categories: int, rng: np.random.Generator) -> tuple[int | None, int | None]:
    """Two categories that differ from `category` and from each other; None where there are too few."""
    others = rng.permutation([c for c in range(categories) if c != category]).tolist()
    first, second, *_ = [*others, None, None]
    return first, second


def _span(segments: int, rng: np.random.Generator) -> np.ndarray:
    """A run of at least half of the segments, [T] bool."""
    length = int(rng.integers((segments + 1) // 2, segments + 1))
    start = int(rng.integers(segments - length + 1))
    on = np.zeros(segments, bool)
    on[start : start + length] = True
    return on

"""From a video of any length to its events: overlapping clips, the network's answer to each, merged by segment.

The networks know clips of 10 segments. A longer video is cut into such clips every `hop` seconds, the last one
ending with the video; a segment's numbers are means over the clips that contain it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from dataset.extract.features import FeatureExtractor
from dataset.extract.video import read_clips, read_timestamps
from dataset.labels import SEGMENTS
from model.localization import Localization
from utils.evaluation import events as runs


class Answer(NamedTuple):
    """What a network says of the clip that begins at second `start`.

    event [T]: probability that a segment is an event. joint [T, C+1]: that it is an event of each category, and last
    what remains, the share of its clip being background. attention [T, H, W]: sums to 1 over the grid; None for a
    network without.
    """

    start: int
    event: np.ndarray
    joint: np.ndarray
    attention: np.ndarray | None


class Event(NamedTuple):
    """A category from second `start` up to second `end`; `probability` of event and category, mean over them."""

    start: int
    end: int
    category: int
    probability: float


class Timeline(NamedTuple):
    """A video's segments and events.

    video: the file. length: of the picture, seconds. first_frame: its time in the file, seconds; segments count
    from there. event [S]: probability of an event in each segment. joint [S, C]: probability of an event of each
    category. segments [S]: predicted category, C is background. attention [S, H, W], or None. notes: what is unusual
    about the video.
    """

    video: Path
    length: float
    first_frame: float
    event: np.ndarray
    joint: np.ndarray
    segments: np.ndarray
    attention: np.ndarray | None
    events: list[Event]
    notes: list[str]


def clip_starts(seconds: int, hop: int) -> list[int]:
    """First seconds of the clips that cover a video of `seconds` whole seconds."""
    last = max(0, seconds - SEGMENTS)
    return [*range(0, last, hop), last]


@torch.inference_mode()
def timeline_of(
    path: Path,
    network: nn.Module,
    localization: Localization,
    extractor: FeatureExtractor,
    categories: int,
    hop: int,
    threshold: float,
) -> Timeline:
    """Find a video's events.

    Args:
        network: in evaluation mode, on `extractor.device`, with `explain` (see `model.interface`).
        localization: how its output becomes event probabilities.
        categories: C, background not counted.
        hop: seconds from a clip's start to the next one's.
        threshold: a segment with a higher probability is an event.

    Raises BrokenVideo for a file that can't be read.
    """
    video = read_timestamps(path)
    seconds = video.whole_seconds
    weight = next(network.parameters())
    answers, notes = [], list(video.notes)
    for clip in read_clips(video, clip_starts(seconds, hop), SEGMENTS, prepare=extractor.prepare):
        visual, audio = (torch.from_numpy(array)[None].to(weight) for array in extractor(clip))
        output, explanation = network.explain(visual, audio)
        prediction = localization(output, explanation)
        event, joint = (x[0].double().cpu().numpy() for x in prediction[2:])
        rest = np.maximum(event - joint.sum(1), 0)
        attention = None if explanation.attention is None else explanation.attention[0].double().cpu().numpy()
        answers.append(Answer(clip.start, event, np.column_stack([joint, rest]), attention))
        notes += [note for note in clip.notes if note not in notes]
    event, joint, attention = merge(answers, seconds)
    segments = decide(event, joint, categories, threshold)
    found, joint = list(events(segments, joint, categories)), joint[:, :categories]
    return Timeline(path, video.length, video.first_frame, event, joint, segments, attention, found, notes)


def merge(answers: Sequence[Answer], seconds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Means over the clips that contain a segment: event [S], joint [S, C+1], attention [S, H, W] or None.

    Of two clips, the one that finds the event in this segment so decides its category.
    """
    starts, event, joint, attention = zip(*answers, strict=True)
    return (
        _mean(starts, event, seconds),
        _mean(starts, joint, seconds),
        None if attention[0] is None else _mean(starts, attention, seconds),
    )


def _mean(starts: Sequence[int], arrays: Sequence[np.ndarray], seconds: int) -> np.ndarray:
    """For each second the mean of the arrays [T, ...], each from its start on, that contain it: [seconds, ...]."""
    total, count = np.zeros((seconds, *arrays[0].shape[1:])), np.zeros(seconds)
    for start, array in zip(starts, arrays, strict=True):
        inside = slice(start, min(start + len(array), seconds))
        total[inside] += array[: inside.stop - start]
        count[inside] += 1
    return total / count.reshape(-1, *[1] * (total.ndim - 1))


def decide(event: np.ndarray, joint: np.ndarray, categories: int, threshold: float) -> np.ndarray:
    """Category of each segment [S], background (= `categories`) where no event is probable enough.

    On a single clip, with the localization's own `event_threshold`, this is its prediction.
    """
    return np.where(event > threshold, joint.argmax(1), categories)


def events(segments: np.ndarray, joint: np.ndarray, categories: int) -> Iterator[Event]:
    """Neighbouring segments of one category, as one event each."""
    _, *columns = runs.events(segments[None], background=categories)
    for category, start, end in zip(*(column.tolist() for column in columns), strict=True):
        yield Event(start, end, category, float(joint[start:end, category].mean()))


def clock(seconds: float) -> str:
    """Seconds as people write them: 0:07, 12:30, 1:02:03."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"

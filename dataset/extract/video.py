"""Video files as the data set's authors cut them up: 16 frames a second at 224x224, mono audio at 16 kHz.

A clip of T seconds has frames n and interval = n // T; the frames of second s are int(s*interval + k/16*interval),
k = 0..15 (AVE-ECCV18's own extraction code). That rule counts frames, so it needs a constant frame rate; a video
of any other kind is first laid on a constant one (`Video.shown`), which changes nothing where it was constant.

Whatever is unusual about a file is dealt with here, and said in `Video.notes` or `Clip.notes`:

| video | what happens |
| --- | --- |
| variable frame rate | each instant of a constant grid at the average rate takes the frame that is on screen then |
| fewer than 1 frame a second | the grid has 1 frame a second; a frame fills several segments |
| no audio track, or one that ends early | silence |
| several channels | mixed down to one by FFmpeg's standard weights (stereo: the mean; 5.1: without the LFE) |
| longer than the clip by 0.5 s or more | only the clip's seconds are used |
| shorter by 0.5 s or more | the last frame stands still, in silence |
| length within 0.5 s of the clip's | as AVE's: interval = all frames // T |
| portrait, any shape and size | squeezed to 224x224, as AVE's; a phone's rotation mark is applied first |
| audio and picture start apart | time 0 is the first picture; earlier audio is cut, a later start is silence |
| damaged places | the frame before stands in; above 10 % of the frames that are needed, the file counts as broken |
| cannot be read, no picture track, breaks off | BrokenVideo |
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset.extract.decoding import (
    SAMPLE_RATE,
    BrokenVideo,
    Picture,
    Prepare,
    pictures,
    squeezed,
    timestamps,
    waveform,
)

FRAMES_A_SECOND = 16  # sampled for the network, whatever the video's own rate
TOLERANCE = 0.5  # seconds by which a video's length may differ from the clip's and still count as equal
_DAMAGED_SHARE = 0.1  # of the needed frames; above it a video counts as broken


class Clip(NamedTuple):
    """What the feature networks need of T seconds of a video.

    start: first second of the clip in the video. frames: uint8 RGB [n, 224, 224, 3], each needed frame once
    (of another size where the visual backbone prepares them so).
    index: [T, 16], which of `frames` are the frames of each second. waveform: float32 [T * 16000] in [-1, 1].
    notes: what was unusual, one sentence each.
    """

    start: int
    frames: np.ndarray
    index: np.ndarray
    waveform: np.ndarray
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Video:
    """A video file, known by its timestamps but not decoded yet.

    path: the file. times: [n] seconds at which each frame appears, the first at 0. length: seconds of the picture
    track. rate: frames a second of the constant grid. first_frame: its time on the file's own clock, seconds.
    ticks: [n] the frames' timestamps as the decoder gives them, None where the file keeps none and frames are
    counted. notes: what is unusual about the file.
    """

    path: Path
    times: np.ndarray
    length: float
    rate: float
    first_frame: float
    ticks: np.ndarray | None
    notes: tuple[str, ...]

    @property
    def shown(self) -> np.ndarray:
        """Which frame is on screen at each step of a constant grid at `rate`; [n] with n = length * rate."""
        steps = max(1, round(self.length * self.rate))
        # The middle of a step: a timestamp that the container rounded can't move a frame to its neighbour's step.
        middle = (np.arange(steps) + 0.5) / self.rate
        return np.searchsorted(self.times, middle, side="right") - 1

    @property
    def whole_seconds(self) -> int:
        """Seconds of the video, rounded, at least 1."""
        return max(1, int(self.length + 0.5))


def sampled_frames(frames: int, seconds: int) -> np.ndarray:
    """Frame numbers [seconds, 16] that the data set's authors take from a clip of `frames` frames."""
    interval = frames // seconds
    second, k = np.ogrid[:seconds, :FRAMES_A_SECOND]
    return (second * interval + k / FRAMES_A_SECOND * interval).astype(np.int64)


def read_timestamps(path: str | os.PathLike) -> Video:
    """Find out when each frame of a video is shown, without decoding it. Raises BrokenVideo."""
    path = Path(path)
    stamps = timestamps(path)
    times = stamps.frame_times - stamps.frame_times[0]
    first_frame = float(stamps.frame_times[0])
    gap = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    length = float(times[-1]) + (stamps.last_duration or gap)

    notes = []
    if len(times) / length < 1 - 1e-3:
        notes.append(f"has fewer than 1 frame a second ({len(times)} in {length:.1f} s): they are repeated")
    elif len(times) > 2 and np.abs(np.diff(times) - gap).max() > gap / 2:
        notes.append("has a variable frame rate: each instant takes the frame that is on screen then")
    if stamps.audio_starts is None:
        notes.append("has no audio track: silence is assumed")
    elif abs(late := stamps.audio_starts - first_frame) >= TOLERANCE:
        notes.append(
            f"has sound that starts {abs(late):.1f} s {'after' if late > 0 else 'before'} the picture: "
            f"times count from the first picture"
        )
    rate = max(len(times) / length, 1.0)
    return Video(path, times, length, rate, first_frame, stamps.ticks, tuple(notes))


def read_clip(path: str | os.PathLike, seconds: int, threads: int = 0, prepare: Prepare = squeezed) -> Clip:
    """A whole video as one clip of `seconds` seconds, cut or continued to that length (see the table above).

    `threads` decode one file (0: as many as FFmpeg likes). `prepare`: what becomes of each frame. Raises BrokenVideo.
    """
    video = read_timestamps(path)
    notes = list(video.notes)
    if video.length - seconds >= TOLERANCE:
        notes.append(f"is {video.length:.1f} s long: only its first {seconds} s are used")
    elif seconds - video.length >= TOLERANCE:
        notes.append(f"is {video.length:.1f} s long: its last frame stands still in silence up to {seconds} s")
    (clip,) = read_clips(video, [0], seconds, threads, prepare)
    return clip._replace(notes=(*notes, *clip.notes))


def read_clips(
    video: Video, starts: Sequence[int], seconds: int, threads: int = 0, prepare: Prepare = squeezed
) -> Iterator[Clip]:
    """Clips of `seconds` seconds that begin at the whole seconds `starts` (ascending; they may overlap).

    The picture is decoded once and never held as a whole. Raises BrokenVideo.
    """
    shown = video.shown
    whole = abs(video.length - seconds) < TOLERANCE
    frames = len(shown) if whole else round(seconds * video.rate)
    numbers = sampled_frames(frames, seconds)
    needed = [shown[np.minimum(round(start * video.rate) + numbers, len(shown) - 1)] for start in starts]
    audio = waveform(video.path, video.first_frame, starts[-1] + seconds, threads)
    decoded = pictures(video.path, video.ticks, np.unique(np.concatenate(needed)), threads, prepare)
    held: dict[int, Picture] = {}  # decoded, and needed by this clip or the next
    for i, (start, number) in enumerate(zip(starts, needed, strict=True)):
        unique, index = np.unique(number, return_inverse=True)
        while not held or max(held) < unique[-1]:
            picture = next(decoded)
            held[picture.number] = picture
        damaged = sum(held[n].damaged for n in unique)
        if damaged > _DAMAGED_SHARE * len(unique):
            raise BrokenVideo(
                f"{video.path}: {damaged} of {len(unique)} frames that are needed from {start} s on can't be decoded; "
                f"copy or download it again"
            )
        notes = (f"has {damaged} damaged frames: the frame before stands in",) if damaged else ()
        samples = audio[start * SAMPLE_RATE : (start + seconds) * SAMPLE_RATE].astype(np.float32) / 32768
        pixels = np.stack([held[n].pixels for n in unique])
        yield Clip(start, pixels, index.reshape(seconds, FRAMES_A_SECOND), samples, notes)
        if i + 1 < len(starts):
            held = {n: picture for n, picture in held.items() if n >= needed[i + 1].min()}

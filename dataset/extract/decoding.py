"""Decoding with FFmpeg (PyAV): frames at 224x224 and mono audio at 16 kHz, whatever the file holds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from utils.base.errors import UserError

try:
    import av
    import av.stream
except ImportError:
    raise UserError("decoding videos needs the package av: pip install -r requirements-video.txt") from None

SIZE = 224  # pixels, height and width
SAMPLE_RATE = 16000  # of the audio, Hz
_CUT_SHORT = 1.0  # seconds that a file may lack of the length that it states
_JUMP = 0.1  # seconds; a smaller step in the audio's timestamps is rounding of the container, a larger one a gap


# What becomes of a decoded frame as displayed, RGB uint8 [height, width, 3]: a smaller one for a network.
Prepare = Callable[[np.ndarray], np.ndarray]


def made_with() -> dict[str, Any]:
    """The versions of what decodes: another FFmpeg may give other pixels and samples of the same file."""
    return {"pyav": av.__version__, "ffmpeg": av.ffmpeg_version_info}


class BrokenVideo(UserError):
    """A file that isn't a video that can be decoded; the message names the file and the reason."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[av.container.InputContainer]:
    """A video file, open for demuxing. Raises BrokenVideo."""
    try:
        container = av.open(str(path), metadata_errors="ignore")
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or error
        raise BrokenVideo(f"{path}: is no video that FFmpeg can open ({reason}); make or download it again") from error
    with container:
        yield container


def picture_track(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """The first picture track that isn't the cover of an audio file. Raises BrokenVideo."""
    for track in container.streams.video:
        if not track.disposition & av.stream.Disposition.attached_pic:
            return track
    raise BrokenVideo(f"{path}: has no picture track; give a video, not an audio file")


def _decoded(
    container: av.container.InputContainer, track: av.VideoStream | av.AudioStream, path: Path
) -> Iterator[av.VideoFrame | av.AudioFrame]:
    """The frames of a track; a packet whose content is damaged is passed over."""
    packets = container.demux(track)
    while True:
        try:
            frames = next(packets).decode()
        except StopIteration:
            return
        except av.InvalidDataError:
            continue
        except av.FFmpegError as error:
            raise BrokenVideo(f"{path}: cannot be decoded ({error.strerror}); convert or download it again") from error
        yield from frames


class Timestamps(NamedTuple):
    """When the frames of a video are shown, from its container alone; seconds on the file's own clock.

    frame_times: [n] ascending. ticks: [n] the same as the decoder counts it, or None where the container keeps only
    the frames' order. last_duration: of the last frame, 0 where it isn't said. audio_starts: of the first audio track,
    None where there is none.
    """

    frame_times: np.ndarray
    ticks: np.ndarray | None
    last_duration: float
    audio_starts: float | None


def timestamps(path: Path) -> Timestamps:
    """Read a file's timestamps from end to end without decoding it. Raises BrokenVideo, also where it breaks off."""
    with opened(path) as container:
        track = picture_track(container, path)
        packets, end = [], 0.0
        try:
            for packet in container.demux([track, *container.streams.audio]):
                if packet.size == 0 or packet.is_discard:
                    continue  # the end of a track, or a frame that an edit list hides
                if packet.stream is track:
                    packets.append((packet.pts, packet.duration or 0))
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        except av.FFmpegError as error:
            raise BrokenVideo(f"{path}: cannot be read ({error.strerror}); copy or download it again") from error
        if not packets:
            raise BrokenVideo(f"{path}: its picture track holds no frame; make or download it again")
        # Matroska states when a file ends, the others how long it is.
        starts = 0 if "matroska" in container.format.name else container.start_time or 0
        promised = (starts + (container.duration or 0)) / av.time_base
        if promised - end > _CUT_SHORT and end > 0:
            raise BrokenVideo(f"{path}: breaks off after {end:.1f} s of {promised:.1f} s; copy or download it again")
        audio = container.streams.audio[0] if container.streams.audio else None
        audio_starts = float((audio.start_time or 0) * audio.time_base) if audio else None
        time_base, frame_rate = track.time_base, track.average_rate or track.guessed_rate
        counted = "avi" in container.format.name or any(pts is None for pts, _ in packets)
    if not counted:
        ticks = np.unique([pts for pts, _ in packets])
        last = dict(packets)[int(ticks[-1])] * float(time_base)
        return Timestamps(ticks * float(time_base), ticks, last, audio_starts)
    # AVI and raw streams keep the order of the frames but not their times.
    if not frame_rate:
        raise BrokenVideo(f"{path}: says neither when its frames are shown nor how many a second; convert it to mp4")
    times = np.arange(len(packets)) / float(frame_rate)
    return Timestamps(times, None, 1 / float(frame_rate), audio_starts)


class Picture(NamedTuple):
    """Frame `number` of a video, prepared; `damaged`: it couldn't be decoded, another stands in."""

    number: int
    pixels: np.ndarray
    damaged: bool


def pictures(
    path: Path, ticks: np.ndarray | None, needed: np.ndarray, threads: int, prepare: Prepare
) -> Iterator[Picture]:
    """The frames with the ascending numbers `needed`, each once and in order. Raises BrokenVideo.

    ticks: [n] the decoder's timestamp of every frame, or None to count frames. threads: 0 for FFmpeg's choice.
    """
    with opened(path) as container:
        track = picture_track(container, path)
        track.thread_type, track.thread_count = "AUTO", threads
        at, pixels = 0, None
        for count, frame in enumerate(_decoded(container, track, path)):
            counted = ticks is None or frame.pts is None
            number = count if counted else int(np.searchsorted(ticks, frame.pts))
            if number < needed[at]:
                continue
            before, pixels = pixels, prepare(_as_displayed(frame))
            while at < len(needed) and needed[at] < number:
                yield Picture(int(needed[at]), pixels if before is None else before, True)
                at += 1
            if at < len(needed) and needed[at] == number:
                yield Picture(number, pixels, frame.is_corrupt)
                at += 1
            if at == len(needed):
                return
    if pixels is None:
        raise BrokenVideo(f"{path}: none of its frames can be decoded; copy or download it again")
    for number in needed[at:]:
        yield Picture(int(number), pixels, True)


def _as_displayed(frame: av.VideoFrame) -> np.ndarray:
    """A decoded frame as displayed, RGB uint8 [height, width, 3]."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))


def squeezed(pixels: np.ndarray) -> np.ndarray:
    """A frame squeezed to uint8 [224, 224, 3].

    Bilinear without a low-pass filter, as OpenCV's `resize`, which the data set's authors used: each pixel is
    made of its four nearest ones however large the frame is. Within one grey level of OpenCV's and of exact arithmetic.
    """
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(batch, (SIZE, SIZE), mode="bilinear", align_corners=False)
    return small[0].permute(1, 2, 0).contiguous().numpy()


def waveform(path: Path, starts: float, seconds: int, threads: int) -> np.ndarray:
    """The audio from `starts` (seconds on the file's clock) on, mono and silent where there is none: int16 [samples].

    int16 because the data set's features come from 16-bit WAV files. Raises BrokenVideo.
    """
    audio = np.zeros(seconds * SAMPLE_RATE, np.int16)
    with opened(path) as container:
        if not container.streams.audio:
            return audio
        track = container.streams.audio[0]
        track.thread_count = threads
        resampler, kind, position = None, None, 0  # position of the next sample, from `starts`
        for frame in _decoded(container, track, path):
            stated = position
            if frame.pts is not None:
                stated = round((float(frame.pts * frame.time_base) - starts) * SAMPLE_RATE)
            form = (frame.format.name, frame.layout.name, frame.sample_rate)
            if resampler is None or form != kind or abs(stated - position) > _JUMP * SAMPLE_RATE:
                if resampler is not None:  # what it still holds belongs before the gap
                    _put(audio, resampler.resample(None), position)
                resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
                kind, position = form, stated
            position = _put(audio, resampler.resample(frame), position)
            if position >= len(audio):
                return audio
        if resampler is not None:
            _put(audio, resampler.resample(None), position)
    return audio


def _put(audio: np.ndarray, frames: list[av.AudioFrame], position: int) -> int:
    """Write mono frames into `audio` from sample `position` on, what fits; return the position after them."""
    for frame in frames:
        samples = frame.to_ndarray()[0]
        first, last = max(position, 0), min(position + len(samples), len(audio))
        if first < last:
            audio[first:last] = samples[first - position : last - position]
        position += len(samples)
    return position

"""Small videos for tests: every frame shows its own number, and tones start and stop at known times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 10  # of the frame number, as black and white bars from left to right
SOUND_RATE = 48000


def numbered_picture(number: int, width: int, height: int) -> np.ndarray:
    """RGB [height, width, 3]: the bits of `number` as vertical bars, lowest first."""
    bars = (number >> (np.arange(width) * BITS // width)) & 1
    return np.broadcast_to((bars * 255).astype(np.uint8)[None, :, None], (height, width, 3)).copy()


def number_of(picture: np.ndarray) -> int:
    """The number that a (resized, encoded and decoded) picture shows."""
    middles = ((np.arange(BITS) + 0.5) * picture.shape[1] / BITS).astype(int)
    bits = picture[picture.shape[0] // 2, middles, 0] > 127
    return int((bits << np.arange(BITS)).sum())


def moving_disc(number: int, width: int, height: int) -> np.ndarray:
    """RGB [height, width, 3]: an orange disc on dark grey that moves with the frame number."""
    y, x = np.mgrid[:height, :width]
    centre_x, centre_y = width * (0.5 + 0.3 * np.sin(number)), height * (0.5 + 0.3 * np.cos(number))
    picture = np.full((height, width, 3), 30, np.uint8)
    picture[(x - centre_x) ** 2 + (y - centre_y) ** 2 < (height / 5) ** 2] = (220, 120, 40)
    return picture


def tone(seconds: float, start: float, stop: float, channels: int = 1, hertz: float = 440) -> np.ndarray:
    """float32 [channels, samples] at 48 kHz: a tone of amplitude 0.5 from `start` to `stop`, else silence."""
    t = np.arange(int(seconds * SOUND_RATE)) / SOUND_RATE
    wave = np.where((t >= start) & (t < stop), 0.5 * np.sin(2 * np.pi * hertz * t), 0)
    return np.repeat(wave[None].astype(np.float32), channels, 0)


def write_video(
    path: Path,
    times: Sequence[float] | Iterable[float],
    sound: np.ndarray | None = None,
    *,
    size: tuple[int, int] = (80, 48),
    codec: str = "libx264",
    sound_codec: str = "aac",
    sound_delay: float = 0,
    rotation: int = 0,
    picture=numbered_picture,
    rate: Fraction | int = 30,
) -> Path:
    """Encode one frame for each of `times` (seconds) and, if given, `sound` [channels, samples].

    `rate` is the frame rate that the container states and the grid on which it keeps the times.
    """
    ticks = 1 / Fraction(rate)
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=rate)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        if codec == "libx264":
            video.options = {"preset": "ultrafast", "crf": "18", "bf": "2", "g": "50"}
        if codec == "ffv1":
            video.gop_size = 1  # every frame by itself
        if rotation:
            video.set_display_rotation(rotation)
        audio = None
        if sound is not None:
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(sound)]
            audio = container.add_stream(sound_codec, rate=SOUND_RATE, layout=layout)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            frame.time_base, frame.pts = ticks, round(time / ticks)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None:
            for first in range(0, sound.shape[1], 1024):
                part = np.ascontiguousarray(sound[:, first : first + 1024])
                frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
                frame.sample_rate, frame.time_base = SOUND_RATE, Fraction(1, SOUND_RATE)
                frame.pts = first + round(sound_delay * SOUND_RATE)
                container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path


def steady(seconds: float, rate: Fraction | float) -> list[float]:
    """The times of the frames of a video of constant rate."""
    return [i / float(rate) for i in range(round(seconds * float(rate)))]

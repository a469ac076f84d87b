"""Reading videos: the right frame for each instant, sound at its place, and a stated answer to every odd file."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

av = pytest.importorskip("av", reason="videos need the packages of requirements-video.txt")

from made_videos import number_of, numbered_picture, steady, tone, write_video  # noqa: E402

from dataset.extract.decoding import SAMPLE_RATE, BrokenVideo  # noqa: E402
from dataset.extract.video import read_clip, read_clips, read_timestamps, sampled_frames  # noqa: E402


def shown(clip) -> np.ndarray:
    """The frame numbers [T, 16] that a clip's pictures show."""
    return np.array([number_of(frame) for frame in clip.frames])[clip.index]


def authors_rule(frames: int, seconds: int) -> list[list[int]]:
    interval = int(frames / seconds)
    return [[int(s * interval + (k * 1.0 / 16) * interval) for k in range(16)] for s in range(seconds)]


def loud(waveform: np.ndarray) -> np.ndarray:
    """Start and end, in seconds, of what is heard in a waveform."""
    heard = np.flatnonzero(np.abs(waveform) > 0.05)
    return np.array([heard[0], heard[-1] + 1]) / SAMPLE_RATE


@pytest.mark.parametrize("frames", [10, 15, 99, 150, 250, 299, 300, 602])
def test_the_authors_frame_numbers(frames):
    assert sampled_frames(frames, 10).tolist() == authors_rule(frames, 10)


@pytest.mark.parametrize(
    ("name", "rate", "codec"),
    [
        ("a.mp4", 30, "libx264"),
        ("a.mp4", 25, "libx264"),
        ("a.mkv", Fraction(30000, 1001), "libx264"),
        ("a.avi", 15, "libx264"),  # keeps no presentation times; B-frames are out of order in it
        ("a.webm", 12, "libvpx"),
        ("a.ts", 24, "mpeg2video"),
    ],
)
def test_a_constant_rate_gives_exactly_the_authors_frames(tmp_path, name, rate, codec):
    times = steady(5, rate)
    path = write_video(tmp_path / name, times, rate=rate, codec=codec)
    clip = read_clip(path, 5)
    assert shown(clip).tolist() == authors_rule(len(times), 5)
    assert clip.notes == ("has no audio track: silence is assumed",)


def test_variable_rate_takes_the_frame_on_screen(tmp_path):
    # Slow, then fast: 5 frames a second for 2 s, then 20 for 2 s; 12.5 on average.
    times = [i / 5 for i in range(10)] + [2 + i / 20 for i in range(40)]
    clip = read_clip(write_video(tmp_path / "a.mp4", times, rate=100), 4)
    assert any("variable frame rate" in note for note in clip.notes)
    steps = np.array(authors_rule(50, 4))
    on_screen = [[max(i for i, t in enumerate(times) if t <= (step + 0.5) / 12.5) for step in row] for row in steps]
    assert np.abs(shown(clip) - on_screen).max() <= 1  # the length's last digit moves a step by less than a frame
    instants = np.array(times)[shown(clip)]
    assert np.abs(instants - steps / 12.5).max() < 0.2 + 1 / 12.5


@pytest.mark.parametrize(("rate", "expected"), [(1, [0, 1, 2, 3]), (Fraction(1, 2), [0, 0, 1, 1])])
def test_one_frame_a_second_and_fewer(tmp_path, rate, expected):
    clip = read_clip(write_video(tmp_path / "a.mp4", steady(4, rate), rate=rate), 4)
    assert shown(clip).tolist() == [[frame] * 16 for frame in expected]
    assert len(clip.frames) == len(set(expected)), "a frame is decoded and computed once"
    assert ("(2 in 4.0 s)" in str(clip.notes)) == (rate < 1)


def test_too_long_is_cut_and_says_so(tmp_path):
    path = write_video(tmp_path / "a.mp4", steady(6, 10), tone(6, 3, 6), rate=10)
    clip = read_clip(path, 4)
    assert shown(clip).tolist() == authors_rule(40, 4)
    assert clip.waveform.shape == (4 * SAMPLE_RATE,)
    assert loud(clip.waveform) == pytest.approx([3, 4], abs=0.01)
    assert clip.notes == ("is 6.0 s long: only its first 4 s are used",)


def test_too_short_stands_still_in_silence(tmp_path):
    path = write_video(tmp_path / "a.mp4", steady(3, 10), tone(3, 1, 3), rate=10)
    clip = read_clip(path, 5)
    assert shown(clip).tolist() == np.minimum(authors_rule(50, 5), 29).tolist()
    assert loud(clip.waveform) == pytest.approx([1, 3], abs=0.03)
    assert clip.notes == ("is 3.0 s long: its last frame stands still in silence up to 5 s",)


def test_a_length_within_half_a_second_counts_as_the_clips(tmp_path):
    # 4.3 s as 4 segments: the authors' interval is int(43 / 4) = 10 whatever the length.
    assert shown(read_clip(write_video(tmp_path / "a.mp4", steady(4.3, 10), rate=10), 4)).tolist() == authors_rule(
        43, 4
    )
    assert shown(read_clip(write_video(tmp_path / "b.mp4", steady(3.7, 10), rate=10), 4)).tolist() == authors_rule(
        37, 4
    )


def test_portrait_is_squeezed(tmp_path):
    clip = read_clip(write_video(tmp_path / "a.mp4", steady(4, 2), size=(48, 96), rate=2), 4)
    assert clip.frames.shape[1:] == (224, 224, 3)
    assert shown(clip).tolist() == authors_rule(8, 4)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_phones_rotation_mark_is_applied(tmp_path, rotation):
    def corner(number, width, height):  # red above left
        picture = np.zeros((height, width, 3), np.uint8)
        picture[: height // 2, : width // 2, 0] = 255
        return picture

    path = write_video(tmp_path / "a.mp4", steady(4, 1), size=(64, 64), rotation=rotation, picture=corner, rate=1)
    frame = read_clip(path, 4).frames[0, :, :, 0].astype(float)
    quadrants = frame.reshape(2, 112, 2, 112).mean((1, 3))
    # A rotation is counterclockwise: above left -> below left -> below right -> above right.
    expected = {90: (1, 0), 180: (1, 1), 270: (0, 1)}[rotation]
    assert np.unravel_index(quadrants.argmax(), (2, 2)) == expected


def test_4k(tmp_path):
    clip = read_clip(write_video(tmp_path / "a.mp4", steady(4, 1), size=(3840, 2160), rate=1), 4)
    assert shown(clip).tolist() == [[frame] * 16 for frame in range(4)]


def test_resizing_is_bilinear_without_a_low_pass_filter(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 500), np.uint8)  # grey: no chroma to subsample
    path = write_video(
        tmp_path / "a.mkv",
        steady(4, 1),
        size=(500, 300),
        codec="ffv1",
        rate=1,
        picture=lambda *_: np.repeat(noise[..., None], 3, 2),
    )
    with av.open(str(path)) as container:
        original = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(float)

    def weights(size):  # [224, size]: two neighbours a pixel, half-pixel centres
        at = np.clip((np.arange(224) + 0.5) * size / 224 - 0.5, 0, size - 1)
        return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size)))

    exact = np.einsum("yi,xj,ijc->yxc", weights(300), weights(500), original, optimize=True)
    assert np.abs(read_clip(path, 4).frames[0] - exact).max() <= 1


@pytest.mark.parametrize("codec", ["aac", "flac"])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_sound_stays_in_its_place_and_keeps_its_level(tmp_path, codec, channels):
    path = write_video(tmp_path / "a.mkv", steady(4, 5), tone(4, 1.25, 2.5, channels), rate=5, sound_codec=codec)
    clip = read_clip(path, 4)
    assert loud(clip.waveform) == pytest.approx([1.25, 2.5], abs=0.01)
    middle = clip.waveform[int(1.5 * SAMPLE_RATE) : int(2.25 * SAMPLE_RATE)]
    assert np.abs(middle).max() == pytest.approx(0.5, rel=0.1)
    assert clip.notes == ()


def test_stereo_becomes_the_mean_of_its_channels(tmp_path):
    sound = np.concatenate([tone(4, 0, 4), tone(4, 0, 2)])
    clip = read_clip(write_video(tmp_path / "a.mkv", steady(4, 1), sound, rate=1, sound_codec="flac"), 4)
    halves = np.abs(clip.waveform.reshape(2, -1)[:, SAMPLE_RATE // 2 : -SAMPLE_RATE // 2]).max(1)
    assert halves == pytest.approx([0.5, 0.25], rel=0.02)


def test_every_main_channel_of_5_1_is_heard_but_the_lfe(tmp_path):
    sound = np.concatenate([tone(6, channel, channel + 1) for channel in range(6)])  # one channel a second
    clip = read_clip(write_video(tmp_path / "a.mkv", steady(6, 1), sound, rate=1, sound_codec="flac"), 6)
    level = np.abs(clip.waveform.reshape(6, -1)[:, 1000:-1000]).max(1)
    lfe = 3
    assert level[lfe] < 0.01
    assert np.delete(level, lfe).min() > 0.05


def test_no_audio_track_is_silence(tmp_path):
    clip = read_clip(write_video(tmp_path / "a.mp4", steady(4, 1), rate=1), 4)
    assert clip.waveform.shape == (4 * SAMPLE_RATE,)
    assert not clip.waveform.any()
    assert clip.notes == ("has no audio track: silence is assumed",)


def test_a_late_sound_track_stays_late(tmp_path):
    path = write_video(tmp_path / "a.mkv", steady(5, 5), tone(2, 0, 2), rate=5, sound_codec="flac", sound_delay=2)
    clip = read_clip(path, 5)
    assert loud(clip.waveform) == pytest.approx([2, 4], abs=0.01)
    assert clip.notes == ("has sound that starts 2.0 s after the picture: times count from the first picture",)


def test_time_0_is_the_first_picture(tmp_path):
    times = [2 + t for t in steady(5, 5)]
    path = write_video(tmp_path / "a.mkv", times, tone(7, 3, 4), rate=5, sound_codec="flac")
    clip = read_clip(path, 5)
    assert shown(clip).tolist() == authors_rule(25, 5)
    assert loud(clip.waveform) == pytest.approx([1, 2], abs=0.01)
    assert read_timestamps(path).first_frame == pytest.approx(2)
    assert clip.notes == ("has sound that starts 2.0 s before the picture: times count from the first picture",)


def test_windows_of_a_long_video_are_what_each_would_be_alone(tmp_path):
    path = write_video(tmp_path / "a.mp4", steady(13, 10), tone(13, 2, 9), rate=10)
    video = read_timestamps(path)
    assert video.whole_seconds == 13
    starts = [0, 2, 4, 9]
    together = list(read_clips(video, starts, 4))
    assert [clip.start for clip in together] == starts
    for start, clip in zip(starts, together, strict=True):
        (alone,) = read_clips(video, [start], 4)
        np.testing.assert_array_equal(clip.frames, alone.frames)
        np.testing.assert_array_equal(clip.waveform, alone.waveform)
        assert shown(clip).tolist() == (start * 10 + np.array(authors_rule(40, 4))).tolist()


def wipe_frames(path, first, last):
    """Overwrite the content of the frames first..last-1 of a video, each coded by itself, with zeros."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for position, size in places[first:last]:
        content[position + 10 : position + size] = bytes(size - 10)
    path.write_bytes(content)


def test_in_damaged_places_the_frame_before_stands_in(tmp_path):
    path = write_video(tmp_path / "a.mkv", steady(5, 10), rate=10, codec="ffv1")
    wipe_frames(path, 12, 14)
    clip = read_clip(path, 5)
    expected = np.array(authors_rule(50, 5))
    expected[(expected == 12) | (expected == 13)] = 11
    assert shown(clip).tolist() == expected.tolist()
    assert "has 2 damaged frames: the frame before stands in" in clip.notes


def test_too_much_damage_is_a_broken_video(tmp_path):
    path = write_video(tmp_path / "a.mkv", steady(5, 10), rate=10, codec="ffv1")
    wipe_frames(path, 10, 30)
    with pytest.raises(BrokenVideo, match=r"20 of 50 frames .* can't be decoded"):
        read_clip(path, 5)


def broken_files(tmp_path):
    whole = write_video(tmp_path / "whole.mkv", steady(5, 10), tone(5, 0, 5), rate=10).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "page.mp4").write_bytes(b"<!doctype html><html>not a video</html>")
    moov_last = write_video(tmp_path / "whole.mp4", steady(5, 10), rate=10).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(moov_last[: len(moov_last) // 2])
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        audio = container.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(1, 0, 1), format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux(audio.encode(frame))
        container.mux(audio.encode())
    return {
        "cut.mkv": "breaks off",
        "cut.mp4": "is no video that FFmpeg can open",
        "empty.mp4": "is no video that FFmpeg can open",
        "page.mp4": "is no video that FFmpeg can open",
        "sound.mp4": "has no picture track",
    }


def test_broken_files_are_named_with_the_reason(tmp_path):
    for name, reason in broken_files(tmp_path).items():
        with pytest.raises(BrokenVideo, match=reason) as caught:
            read_clip(tmp_path / name, 5)
        assert str(tmp_path / name) in str(caught.value)


def test_a_frame_number_survives_encoding():
    assert number_of(numbered_picture(693, 80, 48)) == 693


@pytest.mark.parametrize("start", [0.5, 7, 3600])
@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "ts", "flv"])
def test_a_file_whose_clock_does_not_start_at_0(tmp_path, ending, start):
    times = [start + t for t in steady(4, 10)]
    sound = tone(4, 1, 2)
    path = write_video(tmp_path / f"a.{ending}", times, sound, rate=10, sound_delay=start)
    clip = read_clip(path, 4)
    assert shown(clip).tolist() == authors_rule(40, 4)
    assert loud(clip.waveform) == pytest.approx([1, 2], abs=0.03)
    assert clip.notes == ()
    assert read_timestamps(path).first_frame == pytest.approx(start, abs=0.3)

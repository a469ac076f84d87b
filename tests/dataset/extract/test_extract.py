"""python -m dataset.extract: from video files to a data folder that the networks read."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import zipfile
from fractions import Fraction

import h5py
import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="videos need the packages of requirements-video.txt")

from made_features import generated_extractor
from made_videos import moving_disc, steady, tone, write_video

import weak_main
from dataset import files, labels, made_with, writing
from dataset.arrays import array_file, read_order
from dataset.ave import AVEDataset
from dataset.check import __main__ as check_command
from dataset.extract import __main__ as extract_command
from dataset.extract import data_folder
from dataset.extract.decoding import squeezed
from dataset.extract.features import Features, Recipe
from dataset.extract.video import read_clip
from model import build_model
from utils.base.checkpoint import Checkpoint
from utils.base.paths import BEST

LINES = "Dog&a&good&1&3\nBell&b&good&0&4\nDog&c&good&2&2\nBell&a&good&0&2\n"  # a has two lines


@pytest.fixture
def videos(tmp_path):
    """Three videos of 4 s, 1 frame a second, and one file that is none."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, start in (("a", 1), ("b", 0), ("c", 2)):
        write_video(folder / f"{name}.mp4", steady(4, 1), tone(4, start, start + 1), picture=moving_disc, rate=1)
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "notes.txt").write_text("not looked at")
    return folder


@pytest.fixture
def annotations(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text(LINES)
    return path


class QuickExtractor:
    """Features that tell clips apart without running the networks; `made` counts them."""

    made = 0
    prepare = staticmethod(squeezed)
    made_with = {"visual": {"backbone": "vgg19", "grid": [7, 7, 512]}, "audio": {}, "decoder": {}}  # noqa: RUF012

    def __init__(self, *args):
        pass

    def __call__(self, clip):
        QuickExtractor.made += 1
        by_frame = np.full((len(clip.frames), 7, 7, 512), clip.frames.mean(), np.float32)
        loudness = np.abs(clip.waveform.reshape(len(clip.index), -1)).mean(1)
        return Features(by_frame[clip.index].mean(1), np.repeat(loudness[:, None], 128, 1).astype(np.float32))


@pytest.fixture
def quick(monkeypatch):
    QuickExtractor.made = 0
    monkeypatch.setattr(data_folder, "FeatureExtractor", QuickExtractor)
    return QuickExtractor


def run(*arguments):
    return extract_command.main([*map(str, arguments), "--seconds", "4", "--weights", "generated", "--gpu", "cpu"])


def read(root, name):
    return array_file(root / name).read()


def test_from_videos_to_the_networks_answer(tmp_path, videos, annotations, monkeypatch, capsys):
    """The whole path with the real architectures: mp4 -> HDF5 -> AVEDataset -> network."""
    monkeypatch.setattr(data_folder, "FeatureExtractor", lambda *_: generated_extractor())
    root = tmp_path / "out"
    for name in "abc":  # one picture each keeps this quick
        write_video(videos / f"{name}.mp4", steady(4, 0.25), tone(4, 1, 2), picture=moving_disc, rate=Fraction(1, 4))
    assert run(videos, "--to", root, "--annotations", annotations) == 0
    said = capsys.readouterr().out
    assert "4 clips of 4 segments" in said
    assert f"python -m dataset.check --data_root {root}" in said

    assert check_command.main(["--root", str(root)]) == 0
    assert "Supervised training: can start" in capsys.readouterr().out

    split = AVEDataset(root, "train")
    visual, audio, label = split[0]
    assert (visual.shape, audio.shape, label.shape) == ((4, 7, 7, 512), (4, 128), (4, 3))
    expected = generated_extractor()(read_clip(videos / "a.mp4", 4))
    stored = read(root, files.VISUAL)
    np.testing.assert_allclose(stored[0], expected.visual, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(stored[0], stored[3], "two lines of one video have its features")
    network = build_model({"name": "supv_main_model", "categories": 2}).eval()
    with torch.inference_mode():
        output = network(visual[None], audio[None])
    assert output.event_logits.shape == (1, 4)
    assert torch.isfinite(output.category_logits).all()


def test_rows_are_the_annotations_lines(tmp_path, videos, annotations, quick, capsys):
    root = tmp_path / "out"
    assert run(videos, "--to", root, "--annotations", annotations) == 0
    assert (root / files.ANNOTATIONS).read_text() == LINES
    names = labels.clip_names(root, 2)
    assert names.categories == ["Dog", "Bell"]
    assert names.ids == ["a", "b", "c", "a"]
    loudest = read(root, files.AUDIO)[:, :, 0].argmax(1)
    assert loudest.tolist() == [1, 0, 2, 1]
    record = json.loads((root / data_folder.RECORD).read_text())
    assert [row["id"] for row in record["rows"]] == names.ids
    assert record["vggish"] == "generated"
    rows = [read_order(root, split).tolist() for split in files.SPLITS]
    assert sorted(row for split in rows for row in split) == [0, 1, 2, 3]
    assert all(rows)
    assert any({0, 3} <= set(split) for split in rows), "a video is on one side of the split only"
    assert "broken" in capsys.readouterr().out, "a video without a line is named"


def test_a_broken_video_is_reported_and_left_out(tmp_path, videos, quick, capsys):
    root = tmp_path / "out"
    assert run(videos, "--to", root) == 0
    said = capsys.readouterr().out
    assert "left out" in said
    assert "broken.mp4: is no video" in said
    assert "3 clips of 4 segments" in said
    assert "1 left out" in said
    record = json.loads((root / data_folder.RECORD).read_text())
    assert [row["id"] for row in record["rows"]] == ["a", "b", "c"]
    assert "broken.mp4" in record["left_out"][0]
    assert len(read(root, files.VISUAL)) == 3
    assert not (root / files.ANNOTATIONS).exists()


def test_lines_of_a_broken_video_are_dropped(tmp_path, videos, quick, annotations):
    annotations.write_text("Cat&broken&good&0&1\n" + LINES)
    root = tmp_path / "out"
    assert run(videos, "--to", root, "--annotations", annotations) == 0
    assert (root / files.ANNOTATIONS).read_text() == LINES
    assert len(read(root, files.AUDIO)) == 4


@pytest.fixture
def quiet(videos):
    """Two videos without an event, in a folder within the videos'."""
    folder = videos / "quiet"
    folder.mkdir()
    for name in "xy":
        write_video(folder / f"{name}.mp4", steady(4, 1), tone(4, 3, 4), picture=moving_disc, rate=1)
    return folder


@pytest.mark.parametrize("given_by", ["folder", "lines", "both"])
def test_background_only_clips_have_files_of_their_own(tmp_path, videos, quiet, annotations, quick, capsys, given_by):
    root, flags = tmp_path / "out", []
    if given_by != "lines":
        flags = ["--background", quiet]
    if given_by != "folder":
        annotations.write_text("Background&y&good&0&4\n" + LINES + "background&x&good&0&0\nBackground&y&good&0&4\n")
    assert run(videos, "--to", root, "--annotations", annotations, *flags) == 0
    said = capsys.readouterr().out
    assert "4 clips of 4 segments and 2 background-only clips" in said
    assert f"python -m dataset.check --data_root {root} --weak" in said
    assert (root / files.ANNOTATIONS).read_text() == LINES
    noisy = [read(root, name) for name in files.BACKGROUND_ONLY]
    assert [array.shape for array in noisy] == [(2, 4, 7, 7, 512), (2, 4, 128), (2, 3)]
    np.testing.assert_array_equal(noisy[2], [[0, 0, 1]] * 2)
    record = json.loads((root / data_folder.RECORD).read_text())
    assert [row["id"] for row in record["background_only"]] == (["x", "y"] if given_by == "folder" else ["y", "x"])
    assert check_command.main(["--root", str(root), "--weak"]) == 0
    assert "Weakly supervised training: can start" in capsys.readouterr().out

    assert run(videos, "--to", root, "--annotations", annotations, *flags) == 0
    assert QuickExtractor.made == 5, "each video once"
    capsys.readouterr()
    assert run(videos, "--to", root, "--annotations", root / files.ANNOTATIONS) == 2
    assert "was made with background-only clips" in capsys.readouterr().err


def test_weak_training_runs_on_what_was_made(tmp_path, videos, quiet, annotations, quick, capsys):
    root, run_folder = tmp_path / "out", tmp_path / "run"
    assert run(videos, "--to", root, "--annotations", annotations, "--background", quiet) == 0
    settings = ["model.categories=2", "model.d_model=8", "train.n_epoch=1"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    assert weak_main.main(["--data_root", str(root), "--snapshot_pref", str(run_folder), "--gpu", "cpu", *flags]) == 0
    best = Checkpoint.load(run_folder / BEST)
    assert best.categories == ["Dog", "Bell"]
    assert best.features == made_with.read(root) == quick.made_with

    made_with.write(root, {**quick.made_with, "decoder": {"ffmpeg": "7"}, "audio": {"pca": True}})
    best.features["decoder"] = {"ffmpeg": "8"}
    best.save(run_folder / BEST)
    assert weak_main.main(["--config", str(run_folder / "config.json"), "--evaluate", "--gpu", "cpu"]) == 0
    assert "learned from: decoder.ffmpeg was 8 and is 7" in capsys.readouterr().out


def test_it_goes_on_where_it_was(tmp_path, videos, quick, monkeypatch, capsys):
    root = tmp_path / "out"

    class Interrupted(QuickExtractor):
        def __call__(self, clip):
            if QuickExtractor.made == 2:
                raise KeyboardInterrupt
            return super().__call__(clip)

    monkeypatch.setattr(data_folder, "FeatureExtractor", Interrupted)
    assert run(videos, "--to", root) == 130
    assert sorted(path.name for path in (root / "clips").iterdir()) == ["a.npz", "b.npz"]
    assert not (root / files.VISUAL).exists()

    monkeypatch.setattr(data_folder, "FeatureExtractor", QuickExtractor)
    assert run(videos, "--to", root) == 0
    assert QuickExtractor.made == 3, "only the third clip was left to do"
    assert "2 of them done before" in capsys.readouterr().out

    first = read(root, files.AUDIO)
    assert run(videos, "--to", root) == 0
    assert QuickExtractor.made == 3
    np.testing.assert_array_equal(read(root, files.AUDIO), first)


def test_a_changed_video_or_setting_or_a_damaged_clip_is_done_again(tmp_path, videos, quick):
    root = tmp_path / "out"
    assert run(videos, "--to", root) == 0
    write_video(videos / "a.mp4", steady(4, 1), tone(4, 3, 4), picture=moving_disc, rate=1)
    (root / "clips" / "b.npz").write_bytes(b"PK damaged")
    assert run(videos, "--to", root) == 0
    assert QuickExtractor.made == 5
    assert read(root, files.AUDIO)[0, :, 0].argmax() == 3
    assert extract_command.main([str(videos), "--to", str(root), "--seconds", "5", "--weights", "generated"]) == 0
    assert QuickExtractor.made == 8
    assert read(root, files.VISUAL).shape[1] == 5


def test_a_clip_whose_features_are_damaged_is_named(tmp_path, videos, quick, capsys):
    root = tmp_path / "out"
    assert run(videos, "--to", root) == 0
    path = root / "clips" / "b.npz"
    with zipfile.ZipFile(path) as file:
        place = file.getinfo("visual.npy").header_offset + 300
    content = bytearray(path.read_bytes())
    content[place] ^= 0x55
    path.write_bytes(content)
    assert run(videos, "--to", root) == 2
    assert "b.npz: is damaged; remove it, and the same command makes it again" in capsys.readouterr().err


def test_decoding_ahead_keeps_the_order_and_is_bounded(videos, monkeypatch):
    started = []

    def note_start(path, seconds, threads, prepare):
        started.append(path.stem)
        return path.stem

    monkeypatch.setattr(data_folder, "read_clip", note_start)
    many = {str(i): videos / f"{i}.mp4" for i in range(20)}
    ahead = data_folder.decoded_ahead(many, 4, workers=2, prepare=squeezed)
    for number, (id, clip) in enumerate(ahead):
        assert id == clip == str(number)
        assert len(started) <= number + 3, "a clip in hand and two waiting at most"
    assert sorted(started) == sorted(many)


def test_a_split_made_by_hand_stays(tmp_path, videos, quick, annotations, capsys):
    root = tmp_path / "out"
    assert run(videos, "--to", root, "--annotations", annotations) == 0
    with h5py.File(root / files.order_file("train"), "w") as file:
        file[files.ORDER_KEY] = np.array([2])
    assert run(videos, "--to", root, "--annotations", annotations) == 0
    assert read_order(root, "train").tolist() == [2]
    assert "keeps its train, val and test rows" in capsys.readouterr().out


def test_a_split_of_other_rows_is_refused(tmp_path, videos, quick, annotations, capsys):
    root = tmp_path / "out"
    assert run(videos, "--to", root, "--annotations", annotations) == 0
    before = {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}
    annotations.write_text("\n".join(LINES.strip().splitlines()[::-1]) + "\n")
    assert run(videos, "--to", root, "--annotations", annotations) == 2
    assert "train_order.h5: was made for other rows than" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()} == before
    for name in files.ORDERS:
        (root / name).unlink()
    assert run(videos, "--to", root, "--annotations", annotations) == 0


def mistakes(tmp_path, videos, annotations):
    other = tmp_path / "other"
    other.mkdir()
    write_video(other / "a.mp4", steady(4, 1), rate=1)
    late = tmp_path / "late.txt"
    late.write_text("Dog&a&good&0&9\n")
    unknown = tmp_path / "unknown.txt"
    unknown.write_text("Dog&x&good&0&2\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    foreign = {name: tmp_path / f"with {name}" for name in (files.VISUAL, files.CLIP_LABELS, files.GENERATED)}
    for name, folder in foreign.items():
        folder.mkdir()
        (folder / name).write_bytes(b"7.7 GB that took a night to download")
    out = ["--to", tmp_path / "out"]
    both = tmp_path / "both.txt"
    both.write_text(LINES + "Background&b&good&0&4\n")
    no_event = tmp_path / "no_event.txt"
    no_event.write_text("Background&b&good&0&4\n")
    with_lines = [*out, "--annotations", annotations]
    return [
        ([tmp_path / "none.mp4", *out], "none.mp4: no such video"),
        ([empty, *out], "holds no video"),
        ([videos, other, *out], "have the same name 'a'"),
        ([videos / "broken.mp4", *out], "none of the 1 videos can be read"),
        ([videos, *out, "--annotations", tmp_path / "none.txt"], "none.txt: no such file"),
        ([videos, *out, "--annotations", unknown], "names none of the 4 videos"),
        ([videos, *out, "--annotations", late], "ends at 9 s, but a clip has 4"),
        ([videos, *out, "--annotations", both], "has an event of b (Bell), which is given as background only too"),
        ([videos, *out, "--annotations", no_event], "has no event in the given videos"),
        ([videos, *with_lines, "--background", other], "have the same name 'a'"),
        ([videos, *with_lines, "--background", videos / "c.mp4"], "has an event of c (Dog)"),
        ([videos, *with_lines, "--background", videos / "broken.mp4"], "none of the 1 background-only videos"),
        ([videos / "c.mp4", *out, "--background", videos / "a.mp4"], "--background needs --annotations"),
        *(
            ([videos, "--to", folder], f"{name}: is there already and not from this command")
            for name, folder in foreign.items()
        ),
        ([videos, *out, "--workers", "0"], "--workers 0"),
        ([videos, *out, "--batch_size", "0"], "--batch_size 0"),
    ]


def test_mistakes_are_one_line_that_says_how_to_mend_them(tmp_path, videos, annotations, quick, capsys):
    for arguments, message in mistakes(tmp_path, videos, annotations):
        assert run(*arguments) == 2, message
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    assert (tmp_path / f"with {files.VISUAL}" / files.VISUAL).read_bytes().startswith(b"7.7 GB")


def test_annotations_once_given_are_asked_for_again(tmp_path, videos, annotations, quick, capsys):
    root = tmp_path / "out"
    assert run(videos, "--to", root, "--annotations", annotations) == 0
    assert run(videos, "--to", root) == 2
    assert "was made with annotations" in capsys.readouterr().err


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    program = (
        "import sys; sys.modules['av'] = None; from dataset.extract import __main__ as extract; "
        "sys.exit(extract.main(['video.mp4', '--to', 'nowhere']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "package av:" in done.stderr
    assert "pip install -r requirements-video.txt" in done.stderr


def test_clips_that_were_made_otherwise_are_not_mixed(tmp_path, videos, quick, monkeypatch, capsys):
    root = tmp_path / "out"
    assert run(videos / "a.mp4", "--to", root) == 0
    assert run(videos / "a.mp4", "--to", root, "--precision", "bfloat16") == 0
    assert quick.made == 2, "another precision"
    monkeypatch.setattr(data_folder.ClipStore, "holds", lambda *_: True)  # a weights file of the same name
    (root / "clips" / "b.npz").write_bytes((root / "clips" / "a.npz").read_bytes())
    assert run(videos / "a.mp4", videos / "b.mp4", "--to", root) == 0
    store = data_folder.ClipStore(root / "clips", 4, Recipe())
    store.save("b", videos / "b.mp4", store.load("a"), [], {"visual": {"sha256": "another"}})
    assert run(videos / "a.mp4", videos / "b.mp4", "--to", root) == 2
    assert "holds features made with different weights or packages; remove it" in capsys.readouterr().err


def test_names_that_are_not_utf_8(tmp_path, videos, quick, capsys):
    root, name = tmp_path / "out", os.fsdecode(b"caf\xe9")
    (videos / "a.mp4").rename(videos / f"{name}.mp4")
    (videos / "broken.mp4").rename(videos / f"{name}.avi")
    (videos / "broken").mkdir()
    (videos / f"{name}.avi").rename(videos / "broken" / os.fsdecode(b"\xff.avi"))
    lines = tmp_path / "lines.txt"
    lines.write_text(LINES.replace("&a&", "&caf\\xe9&"))
    assert run(videos, "--to", root, "--annotations", lines) == 0
    record = json.loads((root / data_folder.RECORD).read_text(encoding="utf-8"))
    assert record["rows"][0] == {"id": "caf\\xe9", "video": f"{videos}/caf\\xe9.mp4", "notes": []}
    assert labels.read_annotations(root / files.ANNOTATIONS)[0].id == "caf\\xe9"
    capsys.readouterr()
    assert run(videos, "--to", root, "--annotations", lines) == 0
    assert "3 videos, 3 of them done before" in capsys.readouterr().out
    assert run(videos, "--to", tmp_path / "all") == 0
    record = json.loads((tmp_path / "all" / data_folder.RECORD).read_text(encoding="utf-8"))
    assert record["left_out"][0].startswith(f"{videos}/broken/\\xff.avi: is no video that FFmpeg can open")


def test_two_runs_do_not_write_to_one_folder(tmp_path, videos, quick, capsys):
    with writing.alone(tmp_path):
        assert run(videos, "--to", tmp_path) == 2
    assert f"{tmp_path}: another run is writing there" in capsys.readouterr().err
    assert not (tmp_path / data_folder.CLIPS).exists()


@pytest.mark.parametrize("limit", [0, 1000, 10_000, 200_000])
def test_a_limit_on_file_sizes_is_named_and_what_was_there_stays(tmp_path, videos, quick, capsys, limit):
    root = tmp_path / "out"
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
    try:
        code = run(videos, "--to", root)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert code == 2
    assert "the file may not become that large (ulimit -f)" in capsys.readouterr().err
    assert not (root / files.VISUAL).exists()
    assert run(videos, "--to", root) == 0

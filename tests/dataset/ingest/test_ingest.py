"""Data sets of a file a clip become the data folder that the same clips make in AVE's form."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import TINY_MODEL
from helpers_bad import quick
from helpers_ingest import in_a_process, killed_at
from helpers_runs import difference, outcome
from made_clips import (
    WRITERS,
    MadeClip,
    clips_of,
    event_of,
    flags,
    write_ave_pm,
    write_csv,
    write_general,
    write_vggsound_avel,
)

import supv_main
import weak_main
from dataset import files, labels
from dataset.arrays import array_file, read_order
from dataset.ave import AVEDataset, WeakAVEDataset
from dataset.check import __main__ as check
from dataset.ingest import __main__ as ingest
from dataset.ingest import make
from dataset.stats import __main__ as stats
from utils.base.paths import BEST, BEST_VAL, LAST
from utils.config.settings import SUPERVISED, WEAK

quick = pytest.fixture(quick, autouse=True, scope="module")

# Each with one of the two kinds of supervision: the clips that both read are held against AVE's form too.
PRESETS = {
    "ave-pm": (write_ave_pm, supv_main.main, SUPERVISED),
    "vggsound-avel": (write_vggsound_avel, weak_main.main, WEAK),
}


@pytest.fixture(scope="module")
def clips(tiny_data: Path) -> list[MadeClip]:
    return clips_of(tiny_data)


@pytest.fixture(scope="module")
def names(tiny_data: Path) -> list[str]:
    """The categories of `tiny_data`, numbered as there, and one that no clip has."""
    return [*labels.category_names(tiny_data), "Unheard"]


def read(root: Path, name: str) -> np.ndarray:
    return array_file(root / name).read()


def run(to: Path, *arguments: object) -> int:
    return ingest.main([*map(str, arguments), "--to", str(to)])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_gives_the_numbers_of_the_same_clips_in_aves_form(
    preset, clips, names, tiny_data, tmp_path, monkeypatch, capsys
):
    write, main, network = PRESETS[preset]
    ours = tmp_path / "data"
    arguments = write(tmp_path / "from", clips, names[:3])
    monkeypatch.setattr(make, "BLOCK", 8)
    assert in_a_process(arguments, ours, killed_at(50)) == -signal.SIGKILL
    assert run(ours, *arguments) == 0
    out = capsys.readouterr().out
    assert "going on after 16 of 40 clips" in out
    assert "40 clips of 40 in the table" in out
    assert {path.name for path in ours.iterdir()} == {
        *files.EVERY_FILE, "ingest.json",
    } - set(files.BACKGROUND_ONLY)  # fmt: skip
    for split in files.SPLITS:
        assert read_order(ours, split).tolist() == [i for i, clip in enumerate(clips) if clip.split == split]
        for dataset in (AVEDataset, functools.partial(WeakAVEDataset, label_regime="clips")):
            made, given = dataset(ours, split), dataset(tiny_data, split)
            assert len(made) == len(given)
            for position in range(len(given)):
                assert all(map(torch.equal, made[position], given[position]))

    assert check.main(["--root", str(ours)]) == 0
    assert stats.main(["--root", str(ours)]) == 0
    ends = []
    for root in (ours, tiny_data):
        folder = tmp_path / f"run-{root.name}"
        config = {
            "model": {"name": network, **TINY_MODEL},
            "data": {"root": str(root), **({"label_regime": "clips"} if network == WEAK else {})},
            "train": {"n_epoch": 1, "batch_size": 10, "snapshot_pref": str(folder)},
        }
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert main(["--config", str(tmp_path / "config.json"), "--gpu", "cpu"]) == 0
        end = outcome(folder)
        predictions = [json.loads(line) for line in end["predictions"].splitlines()]
        weights = [end[name]["network"] for name in (LAST, BEST, BEST_VAL)]
        rows_apart = [{**line, "index": None, "id": None} for line in predictions]
        ends.append([weights, end["metrics.jsonl"], rows_apart])
    assert difference(*ends) is None


@pytest.mark.parametrize("ending", WRITERS)
def test_every_kind_of_file_holds_the_same_clips(ending, clips, names, tmp_path):
    clips = [clip._replace(visual=clip.visual.astype(np.float16)) for clip in clips[:6]]
    assert run(tmp_path / "data", *write_general(tmp_path / "from", clips, names, ending)) == 0
    visual = read(tmp_path / "data", files.VISUAL)
    assert visual.dtype == np.float16
    np.testing.assert_array_equal(visual, [clip.visual for clip in clips])
    audio = read(tmp_path / "data", files.AUDIO)
    assert audio.dtype == np.float32
    np.testing.assert_array_equal(audio, [clip.audio for clip in clips])


def test_categories_keep_the_numbers_of_the_names_file(clips, names, tmp_path, capsys):
    odd = ["Unheard", "Rock & roll", "Dog,\nbarking", names[0]]
    clips = [clip._replace(category=1 + clip.category) for clip in clips]
    assert run(tmp_path / "data", *write_ave_pm(tmp_path / "from", clips, odd)) == 0
    kept = ["Unheard", "Rock and roll", "Dog, barking", names[0]]
    assert labels.category_names(tmp_path / "data") == kept
    assert labels.clip_names(tmp_path / "data", 4).categories == kept
    assert read(tmp_path / "data", files.CLIP_LABELS).argmax(1).tolist() == [clip.category for clip in clips]
    assert read(tmp_path / "data", files.LABELS).shape == (40, 10, 5)
    assert "categories: 4, 1 of them without a clip (such as Unheard)" in capsys.readouterr().out
    assert check.main(["--root", str(tmp_path / "data")]) == 0


def test_what_is_unusual_is_said_with_its_number_and_an_example(clips, names, tmp_path, capsys):
    arguments = write_ave_pm(tmp_path / "from", clips, names)
    a, b, c, d, e = (clip.id for clip in clips[:5])
    rows = [(clip.id, clip.start, clip.end, clip.category) for clip in clips if clip.split == "train"]
    rows[0] = (a, 2.5, 12.5, clips[0].category)  # half to even: from segment 2; to the end
    rows[1] = (b, 3.4, 3.49, clips[1].category)
    rows[2] = (c, 0.5, 1.5, clips[2].category)  # segments 0 and 1
    write_csv(tmp_path / "from" / "train.csv", ("sample_id", "onset", "offset", "label"), rows)
    (tmp_path / "from" / "features" / f"{d}.pkl").unlink()
    short = write_ave_pm(tmp_path / "short", [clips[4]._replace(visual=clips[4].visual[:9])], names)
    shutil.copy(Path(short[-1]) / f"{e}.pkl", tmp_path / "from" / "features")
    assert run(tmp_path / "data", *arguments) == 0
    out = capsys.readouterr().out
    assert "38 clips of 40 in the table" in out
    assert "train has 22 of its 24 clips: results aren't comparable with those on all of them" in out
    assert "test has" not in out
    assert f"left out: 1 clip (such as {d}): no file (.pkl in" in out
    assert f"left out: 1 clip (such as {e}): fewer than 10 segments of visual features" in out
    assert f"1 clip (such as {a}): event that ends after the last segment: cut there" in out
    assert f"1 clip (such as {b}): no event segment" in out
    assert f"3 clips (such as {a}): table and stored labels disagree: the table's were taken" in out
    event = read(tmp_path / "data", files.LABELS)[:3, :, -1] == 0
    assert [np.flatnonzero(row).tolist() for row in event] == [list(range(2, 10)), [], [0, 1]]
    lines = (tmp_path / "data" / files.ANNOTATIONS).read_text().splitlines()
    assert [line.split("&")[3:] for line in lines[:3]] == [["2", "10"], ["0", "0"], ["0", "2"]]
    record = json.loads((tmp_path / "data" / "ingest.json").read_text())
    assert sorted(record["left_out"].values()) == sorted([[d], [e]])
    assert check.main(["--root", str(tmp_path / "data")]) == 0


def test_audio_of_another_length_and_interrupted_events(clips, names, tmp_path, capsys):
    arguments = write_vggsound_avel(tmp_path / "from", clips, names)
    long = np.concatenate([clips[1].audio, clips[1].audio])
    changed = [clips[0]._replace(audio=clips[0].audio[:7]), clips[1]._replace(audio=long)]
    write_vggsound_avel(tmp_path / "other", changed, names)
    for clip in changed:
        shutil.copy(tmp_path / "other" / "audio" / f"{clip.id}.zip", tmp_path / "from" / "audio")
    shutil.rmtree(tmp_path / "from" / "labels")
    (tmp_path / "from" / "labels").mkdir()
    for clip in clips:
        np.save(tmp_path / "from" / "labels" / f"{clip.id}.npy", np.array([0, 1, 1, 0, 1, 0, 0, 1, 0, 0]))
    assert run(tmp_path / "data", *arguments) == 0
    out = capsys.readouterr().out
    assert f"1 clip (such as {clips[0].id}): audio of fewer segments: its last one was repeated" in out
    assert f"1 clip (such as {clips[1].id}): audio of more segments: cut" in out
    audio = read(tmp_path / "data", files.AUDIO)
    np.testing.assert_array_equal(audio[0], clips[0].audio[[0, 1, 2, 3, 4, 5, 6, 6, 6, 6]])
    np.testing.assert_array_equal(audio[1], clips[1].audio)
    assert (read(tmp_path / "data", files.LABELS)[:, :, -1] == [1, 0, 0, 1, 0, 1, 1, 0, 1, 1]).all()
    assert (tmp_path / "data" / files.ANNOTATIONS).read_text().splitlines()[0].endswith("&good&1&8")
    assert check.main(["--root", str(tmp_path / "data")]) == 0  # every event is interrupted, and nothing contradicts


def test_one_file_a_clip_by_flags_with_labels_of_its_own(clips, names, tmp_path):
    clips = [clip._replace(visual=clip.visual[:8], audio=clip.audio[:8]) for clip in clips]
    (tmp_path / "all").mkdir()
    for clip in clips:
        onehot = np.zeros((8, 4))
        onehot[clip.start : clip.end, clip.category] = 1
        onehot[:, -1] = ~onehot.any(axis=1)
        np.savez(tmp_path / "all" / f"{clip.id}.npz", visual=clip.visual, sound=clip.audio, labels=onehot)
    rows = [(clip.id, names[clip.category], clip.split) for clip in clips]
    write_csv(tmp_path / "table.csv", ("name", "what", "part"), rows)
    columns = {"id": "name", "category": "what", "split": "part", "audio_key": "sound"}
    given = flags(table=tmp_path / "table.csv", features=tmp_path / "all", dtype="float16", **columns)
    assert run(tmp_path / "data", *given) == 0
    assert read(tmp_path / "data", files.VISUAL).shape == (40, 8, 2, 2, 16)
    assert read(tmp_path / "data", files.VISUAL).dtype == np.float16
    expected = [[clip.start <= t < clip.end for t in range(8)] for clip in clips]
    assert (read(tmp_path / "data", files.LABELS)[:, :, -1] == 0).tolist() == expected
    assert labels.category_names(tmp_path / "data") == list(dict.fromkeys(names[clip.category] for clip in clips))


def test_labels_in_files_are_held_against_the_times_in_the_table(clips, names, tmp_path, capsys):
    arguments = write_general(tmp_path / "from", clips, names)
    (tmp_path / "from" / "labels").mkdir()
    for number, clip in enumerate(clips):
        event = 1 - event_of(clip) if number in (0, 7) else event_of(clip)
        np.savez(tmp_path / "from" / "labels" / f"{clip.id}.npz", event)
    (tmp_path / "from" / "labels" / f"{clips[9].id}.npz").unlink()  # the table tells it
    assert run(tmp_path / "data", *arguments, "--labels", tmp_path / "from" / "labels") == 0
    said = f"2 clips (such as {clips[0].id}): table and stored labels disagree: the table's were taken"
    assert said in capsys.readouterr().out
    assert (read(tmp_path / "data", files.LABELS)[:, :, -1] == [1 - event_of(clip) for clip in clips]).all()


def test_features_without_a_grid_are_stored_without_one(clips, names, tmp_path):
    flat = [clip._replace(visual=clip.visual[:, 0, 0]) for clip in clips]
    assert run(tmp_path / "data", *write_general(tmp_path / "from", flat, names)) == 0
    with h5py.File(tmp_path / "data" / files.VISUAL) as file:
        assert file[files.KEY].shape == (40, 10, 16)
        np.testing.assert_array_equal(file[files.KEY][()], [clip.visual for clip in flat])
    assert check.main(["--root", str(tmp_path / "data")]) == 0
    assert AVEDataset(tmp_path / "data", "val")[0][0].shape == (10, 1, 1, 16)


def test_a_second_run_makes_nothing_anew_and_leaves_other_data_alone(clips, names, tmp_path, capsys):
    arguments = write_general(tmp_path / "from", clips, names)
    assert run(tmp_path / "data", *arguments) == 0
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()}
    assert run(tmp_path / "data", *arguments) == 0
    assert "already holds these data" in capsys.readouterr().out
    a_file = next((tmp_path / "from" / "audio").iterdir())
    state = a_file.stat()
    os.utime(a_file, ns=(0, 0))
    assert run(tmp_path / "data", *arguments) == 2
    assert "was made of the clips' files as they were before; remove it" in capsys.readouterr().err
    os.utime(a_file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert run(tmp_path / "data", *arguments, "--dtype", "float16") == 2
    assert "holds visual_feature.h5 already, of other data" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()} == before

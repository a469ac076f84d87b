"""What `dataset.check` says of folders that are damaged in one way each, and that a training stops for the same."""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from dataset import arrays, files
from dataset.arrays import array_file, read_order
from dataset.ave import AVEDataset
from dataset.check import __main__ as check_command
from dataset.check.folder import check_folder, require_trainable
from dataset.stats import __main__ as stats_command
from dataset.synthetic import generate
from utils.base.errors import UserError

TRAIN, VAL, TEST = (files.order_file(split) for split in files.SPLITS)


@pytest.fixture
def folder(tiny_data: Path, tmp_path: Path) -> Path:
    """A sound data folder of its own: 40 clips of 10 segments, 3 categories, 6 background-only clips."""
    return Path(shutil.copytree(tiny_data, tmp_path / "data"))


def read(path: Path) -> np.ndarray:
    return array_file(path).read()


def write(path: Path, array: np.ndarray, key: str | None = None) -> None:
    path.unlink(missing_ok=True)
    with h5py.File(path, "w") as file:
        file[key or files.key_of(path.name)] = array


def change(name: str, new: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """A damage: the array of the file `name` becomes new(array)."""
    return lambda folder: write(folder / name, new(read(folder / name)))


def with_value(place: tuple, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def new(array: np.ndarray) -> np.ndarray:
        array[place] = value
        return array

    return new


def write_two(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = file["b"] = np.ones((40, 10, 8))


def truncate(folder: Path) -> None:
    path = folder / files.VISUAL
    os.truncate(path, path.stat().st_size // 2)


def save_web_page(folder: Path) -> None:
    (folder / files.VISUAL).write_text("<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></html>")


def dangle(folder: Path) -> None:
    (folder / files.AUDIO).unlink()
    (folder / files.AUDIO).symlink_to(folder / "elsewhere.h5")


def make_folder(folder: Path) -> None:
    (folder / files.AUDIO).unlink()
    (folder / files.AUDIO).mkdir()


def lose_a_field(folder: Path) -> None:
    lines = (folder / files.ANNOTATIONS).read_text().splitlines()
    lines[4] = "&".join(lines[4].split("&")[:4])
    (folder / files.ANNOTATIONS).write_text("\n".join(lines))


def lose_a_line(folder: Path) -> None:
    lines = (folder / files.ANNOTATIONS).read_text().splitlines()
    (folder / files.ANNOTATIONS).write_text("\n".join(lines[:-1]))


# A damage, the file that must be named, and what must be said of it.
DAMAGES = {
    "truncated": (truncate, files.VISUAL, "is truncated"),
    "web page": (save_web_page, files.VISUAL, "is an HTML page"),
    "empty file": (lambda folder: (folder / files.VISUAL).write_bytes(b""), files.VISUAL, "is empty"),
    "missing": (lambda folder: (folder / files.AUDIO).unlink(), files.AUDIO, "no such file"),
    "dangling link": (dangle, files.AUDIO, "which does not exist"),
    "a folder": (make_folder, files.AUDIO, "is a folder"),
    "two other keys": (
        lambda folder: write_two(folder / files.AUDIO),
        files.AUDIO,
        "no array under the key 'avadataset' (it holds 'a', 'b')",
    ),
    "wrong shape": (change(files.VISUAL, lambda array: array[:, 0]), files.VISUAL, "needs 5 dimensions"),
    "not numbers": (change(files.AUDIO, lambda array: array.astype(complex)), files.AUDIO, "complex128"),
    "other number of clips": (change(files.AUDIO, lambda array: array[:30]), files.AUDIO, "has 30 clips"),
    "other number of segments": (change(files.AUDIO, lambda array: array[:, :8]), files.AUDIO, "8 segments a clip"),
    "order out of range": (change(TEST, with_value((0,), 40)), TEST, "lists row 40, but visual_feature.h5 has only 40"),
    "negative order": (change(TEST, with_value((0,), -1)), TEST, "whole numbers >= 0"),
    "order of fractions": (change(TEST, lambda order: order + 0.5), TEST, "whole numbers >= 0"),
    "empty order": (change(VAL, lambda order: order[:0]), VAL, "lists no clip"),
    "row twice": (change(VAL, lambda order: np.append(order, order[0])), VAL, "more than once"),
    "overlapping splits": (
        lambda folder: write(folder / TEST, np.append(read(folder / TEST), read(folder / TRAIN)[:2])),
        TEST,
        "shares 2 clips with train_order.h5",
    ),
    "labels of other clips": (
        change(files.LABELS, lambda array: np.roll(array, 7, axis=0)),
        files.LABELS,
        "of another data set, or numbers clips or categories in another order",
    ),
    "labels with other categories": (
        change(files.LABELS, lambda array: np.concatenate([array[..., :1] * 0, array], axis=-1)),
        files.ANNOTATIONS,
        "has 4 label columns, but labels.h5 has 5",
    ),
    "fewer labels": (change(files.LABELS, lambda array: array[:-3]), files.LABELS, "has 37 clips"),
    "labels not one-hot": (change(files.LABELS, lambda array: array * 2), files.LABELS, "other than 0 and 1"),
    "labels not a number": (change(files.LABELS, with_value((5, 2, 0), np.nan)), files.LABELS, "row 5 holds values"),
    "labels all set": (change(files.LABELS, lambda array: array * 0 + 1), files.LABELS, "name several categories"),
    "labels all zero": (change(files.LABELS, lambda array: array * 0), files.LABELS, "are zero in every column"),
    "labels of no clip": (change(files.LABELS, lambda array: array[:0]), files.LABELS, "is empty (shape [0, 10, 4])"),
    "annotation without a field": (lose_a_field, files.ANNOTATIONS, "line 5: has 4 fields"),
    "annotation missing": (lose_a_line, files.ANNOTATIONS, "has 39 clips"),
    "annotations not text": (
        lambda folder: (folder / files.ANNOTATIONS).write_bytes(b"\xff\xfe\x00"),
        files.ANNOTATIONS,
        "is UTF-16 text",
    ),
}
WEAK_DAMAGES = {
    "missing background-only": (
        lambda folder: (folder / files.NOISY_VISUAL).unlink(),
        files.NOISY_VISUAL,
        "no such file",
    ),
    "events in background-only clips": (
        change(files.NOISY_LABELS, lambda array: np.roll(array, 1, axis=1)),
        files.NOISY_LABELS,
        "must be background (3, the last column)",
    ),
    "fewer background-only labels": (
        change(files.NOISY_LABELS, lambda array: array[:-1]),
        files.NOISY_LABELS,
        "has 5 background-only clips",
    ),
    "background-only clips of another grid": (
        change(files.NOISY_VISUAL, lambda array: array[:, :, :1]),
        files.NOISY_VISUAL,
        "has 1 grid rows, but visual_feature.h5 has 2",
    ),
    "clip labels of other clips": (
        change(files.CLIP_LABELS, lambda array: np.roll(array, 1, axis=1)),
        files.CLIP_LABELS,
        "differs from Annotations.txt in 40 of 40 clips (rows 0, 1, 2, 3, 4, ...)",
    ),
    "clip labels with other categories": (
        change(files.CLIP_LABELS, lambda array: array[:, 1:]),
        files.CLIP_LABELS,
        "has 3 label columns, but labels.h5 has 4",
    ),
}


def check_main(capsys: pytest.CaptureFixture, folder: Path, *flags: str) -> tuple[int, str, str]:
    code = check_command.main(["--root", str(folder), *flags])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_sound_folder_can_be_trained_on(folder, capsys):
    require_trainable(folder, "clips_with_background")
    code, out, err = check_main(capsys, folder, "--weak")
    assert (code, err) == (0, "")
    table = [re.split("  +", line) for line in out.splitlines()]
    assert table[0] == ["file", "present", "key", "shape", "type", "finite", "belongs"]
    assert [files.VISUAL, "yes", "avadataset", "40 x 10 x 2 x 2 x 16", "float32", "yes", "yes"] in table
    assert "Problems" not in out
    assert "Supervised training: can start\nWeakly supervised training: can start" in out


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damage_is_named_and_keeps_both_trainings_from_starting(folder, capsys, damage):
    harm, name, said = DAMAGES[damage]
    harm(folder)
    code, out, err = check_main(capsys, folder)
    assert code == 2
    line = next(line for line in out.splitlines() if line.startswith(f"- {folder / name}") and said in line)
    assert err.startswith(f"error: {folder}")
    assert err.count("\n") == 1
    assert "Supervised training: cannot start" in out
    assert "Weakly supervised training: cannot start" in out
    for regime in (None, "clips_with_background"):
        with pytest.raises(UserError) as caught:
            require_trainable(folder, regime)
        assert str(folder) in str(caught.value)
    assert ";" in line  # what is wrong; how to mend it


@pytest.mark.parametrize("damage", WEAK_DAMAGES)
def test_a_weak_file_matters_to_weakly_supervised_training_alone(folder, capsys, damage):
    harm, name, said = WEAK_DAMAGES[damage]
    harm(folder)
    code, out, _ = check_main(capsys, folder)
    assert code == 0
    assert "Supervised training: can start\nWeakly supervised training: cannot start" in out
    assert any(line.startswith(f"- {folder / name}") and said in line for line in out.splitlines())
    require_trainable(folder, None)
    code, _, err = check_main(capsys, folder, "--weak")
    assert code == 2
    assert said in err
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        require_trainable(folder, "clips_with_background")


def test_a_label_regime_needs_its_own_files_only(folder, capsys):
    for name in files.BACKGROUND_ONLY:
        (folder / name).unlink()
    code, out, err = check_main(capsys, folder, "--weak")
    assert code == 2
    assert "or train without such clips" in err
    assert "- by clip labels without background-only clips (--set data.label_regime=clips): can start" in out
    assert check_main(capsys, folder, "--weak", "clips")[0] == 0
    require_trainable(folder, "clips")
    for regime in ("clips_with_background", "segment_shares"):
        with pytest.raises(UserError, match=r"visual_feature_noisy\.h5.* or train without .*label_regime=clips"):
            require_trainable(folder, regime)
    (folder / files.CLIP_LABELS).unlink()
    (folder / files.ANNOTATIONS).unlink()
    with pytest.raises(UserError, match="mil_labels"):
        require_trainable(folder, "clips")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_found_by_the_scan(folder, capsys, value):
    write(folder / files.VISUAL, with_value((33, 9, 1, 1, 15), value)(read(folder / files.VISUAL).astype(np.float16)))
    code, out, err = check_main(capsys, folder)
    assert code == 2
    assert "1 of 40 clips hold NaN or infinity (first in row 33)" in err
    assert next(line for line in out.splitlines() if line.startswith(files.VISUAL)).split()[-2:] == ["NO", "NO"]


def test_a_file_that_was_never_filled_is_found_by_the_scan(folder, capsys):
    change(files.VISUAL, with_value(np.s_[20:], 0))(folder)
    code, _, err = check_main(capsys, folder)
    assert code == 2
    assert "rows 20 to 39 are nothing but zeros" in err


def test_content_damaged_inside_is_found_by_the_scan(folder, capsys):
    features = read(folder / files.VISUAL)
    (folder / files.VISUAL).unlink()
    with h5py.File(folder / files.VISUAL, "w") as file:
        file.create_dataset(files.KEY, data=features, chunks=(1, *features.shape[1:]), fletcher32=True)
        place = file[files.KEY].id.get_chunk_info(20).byte_offset
    with open(folder / files.VISUAL, "rb+") as file:
        file.seek(place)
        file.write(b"\xff" * 16)
    code, _, err = check_main(capsys, folder)
    assert code == 2
    assert "its content is damaged" in err


def test_memory_stays_bounded_by_blocks(folder, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 7 * 10 * 2 * 2 * 16 * 4)  # 7 clips of float32
    blocks = list(array_file(folder / files.VISUAL).blocks())
    assert [start for start, _ in blocks] == [0, 7, 14, 21, 28, 35]
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), read(folder / files.VISUAL))


def test_supervised_files_alone_are_enough_for_supervised_training(folder, capsys):
    for name in (*files.WEAK_FILES, files.ANNOTATIONS):
        (folder / name).unlink()
    code, out, _ = check_main(capsys, folder)
    assert code == 0
    assert "have no names" in out


def test_labels_may_follow_from_the_annotations(folder, capsys):
    (folder / files.LABELS).unlink()
    (folder / files.CLIP_LABELS).unlink()
    code, out, _ = check_main(capsys, folder, "--weak")
    assert code == 0
    assert out.count("not there, so its labels follow from Annotations.txt") == 2


def test_an_event_past_the_last_segment_is_named(folder, capsys):
    (folder / files.LABELS).unlink()
    text = (folder / files.ANNOTATIONS).read_text().splitlines()
    text[3] = "&".join([*text[3].split("&")[:3], "0", "11"])
    (folder / files.ANNOTATIONS).write_text("\n".join(text))
    code, _, err = check_main(capsys, folder)
    assert code == 2
    assert "ends at 11 s, but a clip has 10 segments" in err


def test_labels_without_annotations_are_held_against_the_clip_labels(folder, capsys):
    (folder / files.ANNOTATIONS).unlink()
    assert check_main(capsys, folder, "--weak")[0] == 0
    change(files.CLIP_LABELS, lambda array: np.roll(array, 1, axis=1))(folder)
    code, _, err = check_main(capsys, folder, "--weak")
    assert code == 2
    assert "differs from labels.h5" in err


def test_a_few_clips_with_two_events_are_a_note(folder, capsys):
    labels = read(folder / files.LABELS)
    labels[3, 0] = np.roll(labels[3, 0], 1)
    write(folder / files.LABELS, labels)
    code, out, _ = check_main(capsys, folder)
    assert code == 0
    assert "differs from Annotations.txt in 1 of 40 clips (rows 3); training uses labels.h5" in out


def test_interruptions_which_annotations_cannot_tell_are_a_note_in_any_number_of_clips(folder, capsys):
    labels = read(folder / files.LABELS)
    event = labels[..., -1] == 0
    first, length = event.argmax(axis=1), event.sum(axis=1)
    long = np.flatnonzero(length >= 3)
    assert len(long) > 10
    labels[long, first[long] + 1] = np.eye(4)[3]
    write(folder / files.LABELS, labels)
    code, out, _ = check_main(capsys, folder)
    assert code == 0
    assert f"differs from Annotations.txt in {len(long)} of 40 clips" in out
    labels[long, first[long]] = np.eye(4)[3]  # a later beginning is something that they could tell
    write(folder / files.LABELS, labels)
    assert check_main(capsys, folder)[0] == 2


def test_a_list_of_categories_belongs_to_the_other_files(folder, capsys):
    assert files.CATEGORIES not in check_main(capsys, folder)[1]
    names = [line.split("&")[0] for line in (folder / files.ANNOTATIONS).read_text().splitlines()]
    listed = folder / files.CATEGORIES
    listed.write_text("\n".join(dict.fromkeys(names)))
    assert check_main(capsys, folder, "--weak")[0] == 0
    listed.write_text("\n".join(sorted(set(names), key=names.index, reverse=True)))
    code, _, err = check_main(capsys, folder)
    assert code == 2
    assert "numbers clips or categories in another order" in err
    listed.write_text("\n".join([*dict.fromkeys(names), "another"]))
    code, out, _ = check_main(capsys, folder)
    assert code == 2
    assert "categories.txt: has 5 label columns, but labels.h5 has 4" in out
    listed.write_text("another")
    code, _, err = check_main(capsys, folder)
    assert code == 2
    assert "lacks the category" in err


def test_a_few_labels_that_are_zero_are_a_note_and_count_as_background(folder, capsys, caplog):
    caplog.set_level(logging.INFO)
    row = int(read_order(folder, "test")[2])
    change(files.LABELS, with_value((row, 4), 0))(folder)
    code, out, _ = check_main(capsys, folder)
    assert code == 0
    assert f"1 of 400 labels are zero in every column (first in row {row}); they count as background" in out
    assert AVEDataset(folder, "test").labels[2, 4].tolist() == [0, 0, 0, 1]
    said = f"{folder / files.LABELS}: 1 of 400 labels are zero in every column: they count as background"
    assert caplog.messages == [said]


def test_the_val_split_alone_may_be_absent(folder, capsys):
    (folder / VAL).unlink()
    code, out, _ = check_main(capsys, folder)
    assert code == 0
    assert f"{folder / VAL}: not there, so there is no validation protocol" in out
    require_trainable(folder, "clips_with_background")
    with pytest.raises(UserError, match=r"val_order\.h5: no such file"):
        require_trainable(folder, None, splits=("val",))
    (folder / TEST).unlink()
    with pytest.raises(UserError, match=r"test_order\.h5: no such file"):
        require_trainable(folder, None)
    require_trainable(folder, None, splits=("train",))


def test_a_data_set_of_other_sizes_passes(tmp_path, capsys):
    settings = generate.Settings(
        train=12, val=4, test=4, background_only=3, categories=5, segments=6, grid=(3, 1), visual_dim=4, audio_dim=2
    )
    generate.generate(tmp_path / "other", settings)
    code, out, _ = check_main(capsys, tmp_path / "other", "--weak")
    assert code == 0
    assert "20 x 6 x 3 x 1 x 4" in out


def test_clips_too_short_for_the_networks_are_named(folder, capsys):
    for name in (files.VISUAL, files.AUDIO, files.LABELS):
        change(name, lambda array: array[:, :3])(folder)
    (folder / files.ANNOTATIONS).unlink()
    code, _, err = check_main(capsys, folder)
    assert code == 2
    assert "has 3 segments a clip, but training needs at least 4" in err


def test_a_missing_folder_is_named(tmp_path, capsys):
    code, _, err = check_main(capsys, tmp_path / "nowhere")
    assert code == 2
    assert "nowhere: no such folder; get the AVE files with `python -m dataset.download`" in err


def refuse(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the operating system refuse to open the file `name` (these tests may run as root, whom it never refuses)."""
    real_open, real_read, real_file = open, io.open, h5py.File

    def refusing(real: Callable) -> Callable:
        def opened(path: object, *args: object, **kwargs: object) -> object:
            if Path(str(path)).name == name:
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *args, **kwargs)

        return opened

    monkeypatch.setattr("builtins.open", refusing(real_open))
    monkeypatch.setattr(io, "open", refusing(real_read))
    monkeypatch.setattr(h5py, "File", refusing(real_file))


def test_a_folder_that_may_not_be_read_is_named(folder, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)  # root is never refused
    for command in (check_command.main, stats_command.main):
        assert command(["--root", str(folder)]) == 2
        assert f"{folder}: you have no permission to read this folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", [files.VISUAL, files.LABELS, files.ANNOTATIONS])
def test_an_unreadable_file_is_named(folder, capsys, monkeypatch, name):
    with monkeypatch.context() as patch:
        refuse(name, patch)
        code, _, err = check_main(capsys, folder)
    assert code == 2
    assert f"{folder / name}: cannot be read (Permission denied); change its permissions" in err


def test_aves_own_files_belong_together(ave_files, tmp_path, capsys):
    for path in ave_files.iterdir():
        if path.name in check_folder(ave_files):
            (tmp_path / path.name).symlink_to(path)
    for name, shape in ((files.VISUAL, (4143, 10, 1, 1, 2)), (files.AUDIO, (4143, 10, 128))):
        write(tmp_path / name, np.ones(shape, np.float16))
    write(tmp_path / files.NOISY_VISUAL, np.ones((178, 10, 1, 1, 2), np.float16))
    code, out, err = check_main(capsys, tmp_path, "--weak")
    assert (code, err) == (0, "")
    assert "Problems" not in out

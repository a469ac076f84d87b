"""The statistics of a data folder, on labels small enough to count by hand, and on AVE's own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from dataset import files
from dataset.stats import __main__ as stats_command
from dataset.stats.counts import folder_statistics
from dataset.trivial import leaked_clips, trivial_accuracies
from dataset.writing import write_array
from utils.base.errors import UserError

# 6 clips of 4 seconds, 2 categories: rows 0 to 2 train, 3 val, 4 and 5 test; the video "a" is in train and test.
ANNOTATIONS = """Bark&a&good&0&4
Bark&b&good&1&3
Flute&c&good&0&1
Flute&d&good&2&4
Flute&a&good&0&3
Bark&e&good&0&0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / files.ANNOTATIONS).write_text(ANNOTATIONS)
    for split, rows in (("train", [0, 1, 2]), ("val", [3]), ("test", [5, 4])):
        write_array(tmp_path / files.order_file(split), np.array(rows))
    write_array(tmp_path / files.AUDIO, np.zeros((6, 4, 2)))
    return tmp_path


def test_what_is_counted_by_hand(folder):
    statistics = folder_statistics(folder)
    assert statistics.categories == ["Bark", "Flute"]
    assert statistics.segments == 4
    np.testing.assert_array_equal(statistics.clips_by_category("train"), [2, 1])
    np.testing.assert_array_equal(statistics.event_seconds_by_category("train"), [6, 1])
    np.testing.assert_array_equal(statistics.event_lengths("train"), [0, 1, 1, 0, 1])
    np.testing.assert_allclose(statistics.event_share_by_second("train"), [2 / 3, 2 / 3, 2 / 3, 1 / 3])
    np.testing.assert_array_equal(statistics.event_lengths("test"), [1, 0, 0, 1, 0])
    assert statistics.videos.different == 5
    assert statistics.videos.in_both == {("train", "val"): 0, ("train", "test"): 1, ("val", "test"): 0}
    assert statistics.videos.leaked == {"val": [], "test": [4]}
    # Test: a clip of background and one with 3 seconds of the rarer training category.
    assert statistics.trivial["test"] == (100 * 5 / 8, 0.0, 100 * 3 / 8, 100 * 7 / 8)
    # Training: 7 of 12 seconds are events, 6 of them of the category that most clips have.
    assert statistics.trivial["train"] == pytest.approx((100 * 5 / 12, 50.0, 100 * 7 / 12, 100 * (4 + 2 + 3) / 12))


def test_trivial_accuracies_without_training_labels():
    labels = np.eye(3)[[[0, 0, 2, 2]]]
    assert trivial_accuracies(labels) == pytest.approx((50, np.nan, 50, 50), nan_ok=True)


def test_leaked_clips_are_rows_in_the_order_of_the_split(folder):
    np.testing.assert_array_equal(leaked_clips(folder), [4])
    np.testing.assert_array_equal(leaked_clips(folder, "val"), [])
    np.testing.assert_array_equal(leaked_clips(folder, "train"), [0, 1, 2])


def test_leaks_are_unknown_without_annotations(folder):
    (folder / files.ANNOTATIONS).unlink()
    with pytest.raises(UserError, match=r"Annotations\.txt: no such file"):
        leaked_clips(folder)


def test_a_split_beyond_the_labels_is_named(folder):
    (folder / "test_order.h5").unlink()
    write_array(folder / "test_order.h5", np.array([6]))
    with pytest.raises(UserError, match="row 6"):
        leaked_clips(folder)
    with pytest.raises(UserError, match="row 6, but the labels describe 6 clips"):
        folder_statistics(folder)


def test_segment_labels_alone_are_enough(tiny_data, tmp_path):
    for name in (files.LABELS, "train_order.h5", "test_order.h5"):
        shutil.copyfile(tiny_data / name, tmp_path / name)
    alone, whole = folder_statistics(tmp_path), folder_statistics(tiny_data)
    assert alone.videos is None
    assert list(alone.segment_labels) == ["train", "test"]
    np.testing.assert_array_equal(alone.clips_by_category("train"), whole.clips_by_category("train"))
    assert alone.trivial["test"] == whole.trivial["test"]


@pytest.mark.parametrize("missing", [(), ("train_order.h5",), ("val_order.h5", "test_order.h5")])
def test_the_command_prints_and_draws_what_is_there(folder, capsys, missing):
    for name in missing:
        (folder / name).unlink()
    assert stats_command.main(["--root", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "Bark" in out
    with Image.open(folder / "statistics.png") as figure:
        assert min(figure.size) > 1000
        assert len(figure.convert("RGB").getcolors(10**7)) > 20  # something is drawn


def test_odd_names_are_drawn_as_they_are(folder, recwarn):
    annotations = folder / files.ANNOTATIONS
    annotations.write_text(annotations.read_text().replace("Bark", "$\\frac{$ 吠 \x1b[31m"))
    odd = shutil.copytree(folder, folder / os.fsdecode(b"a $x^2$ caf\xe9"))
    assert stats_command.main(["--root", str(odd)]) == 0
    assert (odd / "statistics.png").exists()
    assert not recwarn.list


def test_a_folder_that_cannot_be_written_is_named(folder, capsys):
    (folder / "file").touch()
    assert stats_command.main(["--root", str(folder), "--figure", str(folder / "file" / "figure.png")]) == 2
    assert "a file of that name is in the way" in capsys.readouterr().err
    figure = folder / "new" / "figure.png"
    assert stats_command.main(["--root", str(folder), "--figure", str(figure)]) == 0
    assert figure.exists()


def test_the_numbers_of_ave(ave_files, tmp_path, capsys):
    figure = tmp_path / "figure.png"
    assert stats_command.main(["--root", str(ave_files), "--figure", str(figure)]) == 0
    assert figure.exists()
    out = capsys.readouterr().out
    assert f"{ave_files}: 4143 clips of 4097 videos, 10 one-second segments each, 28 categories" in out
    assert "\ntest clips whose video is in train too: 8, rows 339, 680, 785, 931, 1374, 2397, 4074, 4113\n" in out
    assert "\nval clips whose video is in train too: 10, rows 936, 2258, 2945, 2909, 2875, 2942, 2867, 4126" in out
    lines = {line[:36].strip(): line[36:].split() for line in out.splitlines()}
    assert lines["all"] == ["3339", "402", "402", "27759", "3288", "3305"]
    assert lines["all background"][2] == "17.8"
    assert lines["most frequent training category"][2] == "3.5"
    assert lines["right category in every segment"][2] == "82.2"
    assert lines["best possible single label per clip"][2] == "88.7"
    assert lines["train and test"] == ["8"]
    assert lines["train and val"] == ["10"]


def test_the_leaked_clips_of_ave(ave_files):
    assert len(leaked_clips(ave_files)) == 8
    assert len(leaked_clips(ave_files, "val")) == 10


def test_an_array_under_another_name_is_said(folder, capsys):
    order = folder / files.order_file("train")
    with h5py.File(order, "r+") as file:
        file.move(files.ORDER_KEY, "rows")
    assert stats_command.main(["--root", str(folder)]) == 0
    assert f"{order}: takes its only array, 'rows', for 'order'" in capsys.readouterr().err

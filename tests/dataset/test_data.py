"""Labels from annotations, and the two data sets, on files made here by the rules of the real ones."""

from __future__ import annotations

import logging
import os
import shutil

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dataset import arrays, files, labels
from dataset.ave import AVEDataset, WeakAVEDataset
from utils.base.errors import UserError

ANNOTATIONS = """Truck&aaaaaaaaaaa&good&0&10
Church bell&bbbbbbbbbbb&good&6&8
Truck&ccccccccccc&bad&3&3
Flute&ddddddddddd&good&9&10
"""


@pytest.fixture
def folder(tmp_path):
    """Four clips by ANNOTATIONS, two background-only clips, features that tell their row and segment."""
    (tmp_path / "Annotations.txt").write_text(ANNOTATIONS)
    tag = np.arange(4)[:, None] * 100 + np.arange(10)

    def write(name, array, key="avadataset"):
        with h5py.File(tmp_path / name, "w") as file:
            file[key] = array

    write("visual_feature.h5", np.broadcast_to(tag[:, :, None, None, None], (4, 10, 2, 3, 5)).astype(np.float64))
    write("audio_feature.h5", np.broadcast_to(tag[:, :, None] + 0.5, (4, 10, 6)).astype(np.float64))
    write("visual_feature_noisy.h5", np.full((2, 10, 2, 3, 5), -1.0))
    write("audio_feature_noisy.h5", np.full((2, 10, 6), -2.0))
    write("labels_noisy.h5", np.eye(4, dtype=np.float32)[[3, 3]])
    for split, order in (("train", [2, 0]), ("val", [3]), ("test", [1])):
        write(f"{split}_order.h5", np.array(order), key="order")
    return tmp_path


def test_segment_labels(folder):
    made = labels.labels_from_annotations(folder / "Annotations.txt")
    assert made.shape == (4, 10, 4)
    assert made.dtype == np.float32
    assert (made.sum(2) == 1).all()
    truck, bell, flute, background = range(4)  # by first appearance, background last
    assert made.argmax(2).tolist() == [
        [truck] * 10,
        [background] * 6 + [bell] * 2 + [background] * 2,
        [background] * 10,
        [background] * 9 + [flute],
    ]


def test_clip_labels_and_names(folder):
    assert labels.clip_labels_from_annotations(folder / "Annotations.txt").argmax(1).tolist() == [0, 1, 0, 2]
    names = labels.clip_names(folder, 3)
    assert names.categories == ["Truck", "Church bell", "Flute"]
    assert names.ids[1] == "bbbbbbbbbbb"


def test_categories_are_numbered_as_in_the_file_that_lists_them(folder):
    (folder / "categories.txt").write_bytes(b"\xef\xbb\xbfFlute\r\nHorn\r\nTruck\r\nChurch bell\r\n")
    path = folder / "Annotations.txt"
    assert labels.clip_labels_from_annotations(path).argmax(1).tolist() == [2, 3, 2, 0]
    assert labels.labels_from_annotations(path).shape == (4, 10, 5)
    names = labels.clip_names(folder, 4)
    assert names.categories == labels.category_names(folder) == ["Flute", "Horn", "Truck", "Church bell"]
    assert names.ids[1] == "bbbbbbbbbbb"
    path.unlink()
    assert labels.clip_names(folder, 4) == (["Flute", "Horn", "Truck", "Church bell"], None)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("Truck\nFlute\n", r"categories\.txt: lacks the category 'Church bell' of .*Annotations\.txt"),
        ("Truck\nFlute\nChurch bell\nTruck\n", "line 4: the name 'Truck' is there twice"),
        ("Truck\n\nFlute\nChurch bell\n", "line 2: the line is empty"),
        ("", "line 1: the line is empty"),
    ],
)
def test_a_list_of_categories_that_does_not_fit_is_named(folder, listed, message):
    (folder / "categories.txt").write_text(listed)
    with pytest.raises(UserError, match=message):
        labels.category_names(folder)


def test_the_real_annotations_give_the_real_labels(ave_files):
    segment = labels.labels_from_annotations(ave_files / "Annotations.txt")
    clip = labels.clip_labels_from_annotations(ave_files / "Annotations.txt")
    with h5py.File(ave_files / "mil_labels.h5") as mil, h5py.File(ave_files / "labels_closs.h5") as is_event:
        assert np.array_equal(clip, mil["avadataset"][()])
        assert np.array_equal(1 - segment[:, :, -1], is_event["avadataset"][()])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Truck&eeeeeeeeeee&good&3", "line 5: has 4 fields"),
        ("Truck&eeeeeeeeeee&good&3&x", "line 5: start and end must be whole seconds"),
        ("Truck&eeeeeeeeeee&good&7&3", "line 5: the event runs from 7 to 3"),
        ("Truck&eeeeeeeeeee&good&7&12", "ends at 12 s"),
        ("", None),
    ],
)
def test_a_bad_annotation_line_is_named(folder, line, message):
    path = folder / "Annotations.txt"
    path.write_text(ANNOTATIONS + line + "\n")
    if message is None:
        assert len(labels.labels_from_annotations(path)) == 4  # empty lines at the end don't count
    else:
        with pytest.raises(UserError, match=message):
            labels.labels_from_annotations(path)


def test_supervised_items(folder):
    train = AVEDataset(folder, "train")
    assert len(train) == 2
    visual, audio, label = train[0]
    assert (visual.shape, audio.shape, label.shape) == ((10, 2, 3, 5), (10, 6), (10, 4))
    assert (visual.dtype, audio.dtype, label.dtype) == (torch.float32,) * 3
    assert visual[:, 1, 2, 4].tolist() == [200 + t for t in range(10)]  # the split's order, not the file's
    assert audio[3, 0] == 203.5
    assert AVEDataset(folder, "test")[0][2].argmax(1).tolist() == [3] * 6 + [1] * 2 + [3] * 2
    with pytest.raises(IndexError):
        train[2]


def test_weak_items(folder):
    train = WeakAVEDataset(folder, "train")
    assert len(train) == 2 + 2
    assert [train[i][2].argmax().item() for i in range(4)] == [0, 0, 3, 3]  # then every background-only clip
    assert [train[i][0].flatten()[0].item() for i in range(4)] == [200, 0, -1, -1]
    assert train[-1][1].unique().tolist() == [-2]
    assert train.file_order().tolist() == [1, 0, 2, 3]
    assert WeakAVEDataset(folder, "test")[0][2].shape == (10, 4)


def test_weak_items_of_other_label_regimes(folder):
    usual = WeakAVEDataset(folder, "train")
    clips = WeakAVEDataset(folder, "train", label_regime="clips")
    assert len(clips.sources) == 1
    assert [label.tolist() for *_, label in clips] == [label.tolist() for *_, label in usual][:2]
    shares = WeakAVEDataset(folder, "train", label_regime="segment_shares")
    assert len(shares) == len(usual)
    supervised = AVEDataset(folder, "train")
    for i in range(2):
        torch.testing.assert_close(shares[i][2], supervised[i][2].mean(0))
        assert torch.equal(shares[i][0], usual[i][0])
    assert [shares[i][2].tolist() for i in (2, 3)] == [[0, 0, 0, 1]] * 2
    for regime in ("clips", "segment_shares"):
        assert WeakAVEDataset(folder, "test", label_regime=regime)[0][2].shape == (10, 4)


@pytest.mark.parametrize("stored", ["float16", "float32", "float64"])
def test_feature_types(folder, stored):
    for name in ("visual_feature.h5", "audio_feature.h5"):
        with h5py.File(folder / name, "a") as file:
            values = file["avadataset"][()].astype(stored)
            del file["avadataset"]
            file["avadataset"] = values
    visual, audio, _ = AVEDataset(folder, "val", dtype=torch.float64)[0]
    assert visual.dtype == audio.dtype == torch.float64
    assert audio[4, 0].item() == float(np.float64(304.5).astype(stored))


def test_several_workers_read_the_same(tiny_data):
    for kind in (AVEDataset, WeakAVEDataset):
        train = kind(tiny_data, "train")
        train[0]  # opened here first: the workers must open files of their own
        loader = DataLoader(train, batch_size=5, num_workers=2)
        read = [torch.cat(column) for column in zip(*loader, strict=True)]
        for column, alone in zip(read, zip(*(train[i] for i in range(len(train))), strict=True), strict=True):
            assert torch.equal(column, torch.stack(alone))


def test_label_files_come_first(folder, caplog):
    caplog.set_level(logging.INFO)
    arrays.say_once.cache_clear()
    AVEDataset(folder, "train")
    assert f"{folder} has no labels.h5" in caplog.text
    other = np.zeros((4, 10, 4), np.float32)
    other[:, :, 1] = 1
    with h5py.File(folder / "labels.h5", "w") as file:
        file["avadataset"] = other
    assert AVEDataset(folder, "train")[0][2].argmax(1).tolist() == [1] * 10


def test_other_segments_and_categories(folder):
    """T comes from the features, the number of categories from the annotations."""
    for name, shape in (("visual_feature.h5", (4, 12, 1, 1, 5)), ("audio_feature.h5", (4, 12, 6))):
        with h5py.File(folder / name, "w") as file:
            file["avadataset"] = np.zeros(shape, np.float32)
    val = AVEDataset(folder, "val")
    assert val.segments == 12
    assert val.categories == 3
    assert val[0][2].shape == (12, 4)


def test_files_that_do_not_belong_together(folder):
    with h5py.File(folder / "val_order.h5", "w") as file:
        file["order"] = np.array([4])
    with pytest.raises(UserError, match=r"val_order.h5: lists row 4, but visual_feature.h5 has only 4 clips"):
        AVEDataset(folder, "val")
    with h5py.File(folder / "audio_feature.h5", "w") as file:
        file["avadataset"] = np.zeros((3, 10, 6))
    with pytest.raises(UserError, match="they belong to different data sets"):
        AVEDataset(folder, "train")


def test_missing_data_names_the_file_and_the_ways_out(tmp_path):
    with pytest.raises(UserError) as error:
        AVEDataset(tmp_path, "train")
    for part in ("visual_feature.h5: no such file", "dataset.download", "supv_train.sh --config configs/demo.json"):
        assert part in str(error.value)
    shutil.rmtree(tmp_path)
    with pytest.raises(UserError, match="unknown split 'dev'"):
        files.order_file("dev")


def test_names_of_the_categories(folder):
    assert labels.category_names(folder) == ["Truck", "Church bell", "Flute"]
    (folder / "Annotations.txt").unlink()
    assert labels.category_names(folder) is None


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux")
def test_a_dataset_that_is_gone_holds_no_file_open(folder):
    open_files = len(os.listdir("/proc/self/fd"))
    dataset = AVEDataset(folder, "train")
    dataset[0]
    assert len(os.listdir("/proc/self/fd")) == open_files + 2
    del dataset
    assert len(os.listdir("/proc/self/fd")) == open_files

"""Fewer clips of AVE than its official splits have are said; of any other data set nothing is."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import supv_main
from dataset import files, labels, official
from dataset.arrays import array_file, read_order
from dataset.check.folder import check_folder
from dataset.official import fewer_clips, is_ave
from dataset.writing import write_array
from utils.base.errors import EXIT_DONE
from utils.evaluation.results import read_metrics


def keep(root: Path, split: str, clips: int) -> None:
    """Leave only the first clips of a split."""
    write_array(root / files.order_file(split), read_order(root, split)[:clips])


def as_ave(text: str) -> str:
    """Annotations of the tiny data with ids as YouTube's: generated000012 -> rated000012."""
    return text.replace("generated", "rated")


@pytest.fixture
def small_ave(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is AVE, were its splits of 24, 8 and 8 clips and its categories those of the tiny data."""
    root = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    (root / files.GENERATED).unlink()
    annotations = root / files.ANNOTATIONS
    annotations.write_text(as_ave(annotations.read_text()))
    names = {line.split("&")[0] for line in annotations.read_text().splitlines()}
    monkeypatch.setattr(official, "_CATEGORIES", official._digest(names))
    monkeypatch.setattr(official, "CLIPS", {"train": 24, "val": 8, "test": 8})
    return root


def test_ave_itself_is_known_and_whole(ave_files):
    assert is_ave(ave_files)
    assert fewer_clips(ave_files, files.SPLITS) is None
    assert {split: len(read_order(ave_files, split)) for split in files.SPLITS} == official.CLIPS


def test_what_the_page_of_the_data_folder_counts(ave_files):
    annotations = labels.read_annotations(ave_files / files.ANNOTATIONS)
    rows = Counter(annotation.id for annotation in annotations)
    assert (len(annotations), len(rows)) == (4143, 4097)
    assert Counter(rows.values()) == {1: 4052, 2: 44, 3: 1}
    assert len({annotation[:2] for annotation in annotations}) == 4143  # each row of a video has another category
    assert [row for row, a in enumerate(annotations) if a.start == a.end] == [26]
    orders = [read_order(ave_files, split) for split in files.SPLITS]
    assert orders[0][:3].tolist() == [40, 30, 69]
    assert np.array_equal(np.sort(np.concatenate(orders)), np.arange(4143))
    clip_labels, noisy_labels = (
        array_file(ave_files / name).read() for name in (files.CLIP_LABELS, files.NOISY_LABELS)
    )
    assert (clip_labels.shape, clip_labels[:, 28].sum()) == ((4143, 29), 0)
    assert (noisy_labels.shape, noisy_labels[:, 28].sum()) == ((178, 29), 178)
    sounds = array_file(ave_files / files.NOISY_AUDIO).read()
    assert (sounds.dtype, sounds.size) == (np.float64, 227_840)
    assert np.array_equal(sounds.astype(np.float32), sounds)


def test_ave_with_fewer_clips(ave_files, tmp_path):
    for name in (files.ANNOTATIONS, *files.ORDERS):
        shutil.copyfile(ave_files / name, tmp_path / name)
    keep(tmp_path, "test", 380)
    (tmp_path / files.order_file("val")).unlink()
    said = fewer_clips(tmp_path, ["train", "test"])
    assert said.startswith(f"{tmp_path}: has only 380 of the 402 clips of AVE's test split; results on fewer clips")
    # Rows that are gone take their lines along.
    lines = (tmp_path / files.ANNOTATIONS).read_text().splitlines()
    (tmp_path / files.ANNOTATIONS).write_text("\n".join(lines[::2]))
    assert is_ave(tmp_path)
    (tmp_path / files.GENERATED).write_text("{}")
    assert not is_ave(tmp_path)


@pytest.mark.parametrize(
    "other",
    [
        lambda text: text.replace("rated", "my clip "),  # clips of one's own, annotated with AVE's categories
        lambda text: "Bell&" + text.partition("&")[2],  # a category more
        lambda text: "".join(f"{line}\n" for line in text.splitlines() if not line.startswith(text.split("&")[0])),
    ],
    ids=["other ids", "another category", "a category fewer"],
)
def test_another_data_set_is_not_ave(small_ave, other):
    annotations = small_ave / files.ANNOTATIONS
    assert is_ave(small_ave)
    annotations.write_text(other(annotations.read_text()))
    assert not is_ave(small_ave)


def test_without_annotations_nothing_tells(small_ave):
    (small_ave / files.ANNOTATIONS).unlink()
    assert not is_ave(small_ave)


def test_training_evaluation_and_check_say_it(small_ave, tiny_config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("utils.report.figures.save", lambda metrics, folder: None)
    keep(small_ave, "test", 6)
    config = tiny_config(data={"root": str(small_ave)}, train={"n_epoch": 1})
    line = f"{small_ave}: has only 6 of the 8 clips of AVE's test split; results on fewer clips can't be compared"
    assert supv_main.main(["--config", str(config), "--gpu", "cpu"]) == EXIT_DONE
    said = capsys.readouterr()
    assert (said.out + said.err).count(line) == 2  # by the training and by its evaluation
    evaluation = tmp_path / "run" / "eval-test"
    assert read_metrics(evaluation)["official_clips"] == 8
    assert '"clips":6,' in (page := (evaluation / "report.html").read_text())
    assert '"official_clips":8,' in page
    (note,) = check_folder(small_ave)[files.order_file("test")].notes
    assert note.startswith(line)


def test_nothing_is_said_of_generated_clips(tiny_data, tiny_config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("utils.report.figures.save", lambda metrics, folder: None)
    monkeypatch.setattr(official, "CLIPS", dict.fromkeys(files.SPLITS, np.inf))
    config = tiny_config(train={"n_epoch": 1})
    assert supv_main.main(["--config", str(config), "--gpu", "cpu"]) == EXIT_DONE
    assert "AVE's" not in "".join(capsys.readouterr())
    assert json.loads((tmp_path / "run" / "eval-test" / "metrics.json").read_text())["official_clips"] is None
    assert not any(report.notes for report in check_folder(tiny_data).values())

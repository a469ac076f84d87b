"""Visual features without a grid, with flattened grids, with channels before the grid: the same clips, or one line."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from dataset import arrays, convert, files
from dataset.arrays import array_file
from dataset.ave import AVEDataset, WeakAVEDataset
from dataset.check import __main__ as check_command
from dataset.clips import read_clips
from dataset.fingerprint import fingerprint
from dataset.loading import PLACEMENTS, make_batches
from dataset.stats import __main__ as stats_command
from model.validation import network_settings
from utils.base.errors import UserError
from utils.evaluation.splits import check_sizes

CPU = torch.device("cpu")


def restored(data: Path, to: Path, change: Callable[[np.ndarray], np.ndarray], **options: object) -> Path:
    """A copy of a data folder whose visual features are stored otherwise."""
    shutil.copytree(data, to)
    for name in files.VISUALS:
        array = change(array_file(to / name).read())
        (to / name).unlink()
        with h5py.File(to / name, "w") as file:
            file.create_dataset(files.KEY, data=array, **options)
    return to


def every_clip(root: Path) -> tuple[torch.Tensor, torch.Tensor]:
    dataset = WeakAVEDataset(root, "train")
    return read_clips(dataset, torch.arange(len(dataset)), CPU, workers=2)


def same(ours: tuple[torch.Tensor, ...], theirs: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


def flattened(array: np.ndarray) -> np.ndarray:
    return array.reshape(*array.shape[:2], -1, array.shape[-1])


def channels_first(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, -1, 2)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_features_without_a_grid_are_on_one_of_a_single_cell(gridless_data, placement):
    with h5py.File(gridless_data / files.VISUAL) as file:
        stored = file[files.KEY][()]
    assert stored.shape == (40, 7, 16)
    dataset = AVEDataset(gridless_data, "train")
    batches = make_batches({"train": dataset}, placement, {"train": 10}, CPU, seed=0, workers=0)["train"]
    read = {}
    for batch in batches.epoch(1):
        read |= zip(batch.clips.tolist(), batch.visual, strict=True)
    assert len(read) == 24
    for position, visual in read.items():
        assert torch.equal(visual, torch.from_numpy(stored[dataset.rows[position]])[:, None, None])


@pytest.mark.parametrize("options", [{}, {"chunks": (1, 7, 16)}, {"compression": "gzip"}])
def test_however_they_are_kept(gridless_data, tmp_path, options):
    data = restored(gridless_data, tmp_path / "data", lambda array: array[:, :, 0, 0], **options)
    assert same(every_clip(data), every_clip(gridless_data))
    visual, _, _ = WeakAVEDataset(data, "train")[-1]  # a background-only clip
    assert visual.shape == (7, 1, 1, 16)


def test_every_command_reads_them(gridless_data, tmp_path, capsys):
    assert check_command.main(["--root", str(gridless_data), "--weak"]) == 0
    assert "visual_feature.h5        yes      avadataset  40 x 7 x 1 x 1 x 16" in capsys.readouterr().out
    assert stats_command.main(["--root", str(gridless_data), "--figure", str(tmp_path / "figure.png")]) == 0
    assert convert.main(["--root", str(gridless_data), "--to", str(tmp_path / "new"), "--dtype", "float32"]) == 0
    assert same(every_clip(tmp_path / "new"), every_clip(gridless_data))
    shapes = [fingerprint(root, None)[files.VISUAL]["shape"] for root in (gridless_data, tmp_path / "new")]
    assert shapes == [[40, 7, 1, 1, 16]] * 2


def test_square_flattened_grids_are_taken_and_said(tiny_data, tmp_path, caplog):
    data = restored(tiny_data, tmp_path / "data", flattened)
    arrays.say_once.cache_clear()
    with caplog.at_level(logging.INFO, "dataset"):
        assert same(every_clip(data), every_clip(tiny_data))
    said = f"{data / files.VISUAL}: holds flattened grids of 4 cells, taken for 2 x 2"
    assert caplog.messages.count(said) == 1


def test_other_flattened_grids_are_refused_until_somebody_says_their_size(tiny_data, tmp_path, capsys):
    wide = restored(tiny_data, tmp_path / "wide", lambda array: array[:, :, :1])
    data = restored(wide, tmp_path / "data", flattened)
    with pytest.raises(UserError, match=r"has shape \[40, 10, 2, 16\].*`python -m dataset.convert --grid H W`") as told:
        AVEDataset(data, "train")
    assert "\n" not in str(told.value)
    new = str(tmp_path / "new")
    assert convert.main(["--root", str(data), "--to", new, "--grid", "1", "3"]) == 2
    assert "has shape [40, 10, 2, 16]" in capsys.readouterr().err
    assert convert.main(["--root", str(data), "--to", new, "--grid", "1", "2"]) == 0
    assert same(every_clip(tmp_path / "new"), every_clip(wide))
    assert convert.main(["--root", str(data), "--to", new, "--grid", "2", "1"]) == 2  # not what is there
    assert convert.main(["--root", str(wide), "--to", str(tmp_path / "again"), "--grid", "1", "2"]) == 2
    assert "no flattened grids; leave out --grid" in capsys.readouterr().err


@pytest.mark.parametrize("flat", [False, True])
def test_channels_before_the_grid_are_refused_until_somebody_says_so(tiny_data, tmp_path, capsys, flat):
    data = restored(tiny_data, tmp_path / "data", channels_first)
    if flat:  # 16 cells of 4 features? their number alone can't tell
        data = restored(data, tmp_path / "flat", lambda array: array.reshape(*array.shape[:3], -1))
        with pytest.raises(UserError, match=r"has shape \[40, 10, 16, 4\].*with --channels-first"):
            AVEDataset(data, "train")
    else:
        settings = network_settings({"name": "supv_main_model", "video_inputdim": 16, "audio_inputdim": 8})
        with pytest.raises(UserError, match=r"16 features for each cell before its grid.*--channels-first"):
            check_sizes(AVEDataset(data, "train"), settings)
        assert check_command.main(["--root", str(data)]) == 0
        assert "has a grid of 16 x 2 cells with 2 features; if these are 16" in capsys.readouterr().out
    arguments = ["--root", str(data), "--to", str(tmp_path / "new"), "--channels-first"]
    assert convert.main(arguments) == 0
    assert same(every_clip(tmp_path / "new"), every_clip(tiny_data))
    assert convert.main(arguments) == 0
    assert "already converted" in capsys.readouterr().out


@pytest.mark.parametrize("grid", [(2, 2), (1, 1)])
def test_channels_that_come_last_are_not_moved(tiny_data, gridless_data, tmp_path, capsys, grid):
    data = tiny_data if grid == (2, 2) else gridless_data
    assert convert.main(["--root", str(data), "--to", str(tmp_path / "new"), "--channels-first"]) == 2
    error = capsys.readouterr().err
    assert "whose channels come last already; leave out --channels-first" in error
    assert error.count("\n") == 1
    assert not list((tmp_path / "new").glob("*.h5"))


def test_too_few_or_too_many_dimensions_are_no_features(tiny_data, tmp_path):
    for number, change in enumerate((lambda array: array[:, 0, 0, 0], lambda array: array[..., None])):
        data = restored(tiny_data, tmp_path / str(number), change)
        with pytest.raises(UserError, match="needs 5 dimensions"):
            AVEDataset(data, "train")

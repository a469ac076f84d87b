"""What a weak network learns from: each label regime reads its own files only, and its results say which it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import helpers_bad
import pytest
import torch
from helpers_bad import one_line

import weak_main
from dataset import files
from dataset.ave import WeakAVEDataset
from dataset.fingerprint import fingerprint
from model import build_model
from model.official import to_official
from utils.base.errors import EXIT_DONE, EXIT_USER_ERROR, UserError
from utils.base.paths import LAST
from utils.config import files as config_files
from utils.evaluation.results import read_metrics

quick = pytest.fixture(helpers_bad.quick, autouse=True, scope="module")


@pytest.fixture
def data(tiny_data: Path, tmp_path: Path) -> Path:
    """A data folder without background-only files."""
    copy = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    for name in files.BACKGROUND_ONLY:
        (copy / name).unlink()
    return copy


@pytest.fixture
def start(data, tiny_config):
    """Start weak CMBS on that folder, by the regime of the config and with more flags."""

    def start(regime: str | None, *flags: str) -> int:
        section = {"root": str(data)} | ({"label_regime": regime} if regime else {})
        config = tiny_config("weak_main_model", data=section, train={"n_epoch": 1})
        return weak_main.main(["--config", str(config), "--gpu", "cpu", *flags])

    return start


def test_without_background_only_files_both_ways_out_are_named(start, data, capfd):
    for regime in (None, "segment_shares"):
        assert start(regime) == EXIT_USER_ERROR
        error = one_line(capfd)
        assert error.startswith(f"error: {data / files.NOISY_VISUAL}: no such file")
        assert "`python -m dataset.download --weak`" in error
        assert "--set data.label_regime=clips" in error
    with pytest.raises(UserError, match=r"download --weak.*data\.label_regime=clips"):
        WeakAVEDataset(data, "train")
    assert start(None, "--set", "data.label_regime=clips") == EXIT_DONE


def test_files_that_a_regime_does_not_read_may_come_go_and_break(start, data, tiny_data, tmp_path, capfd):
    assert start("clips") == EXIT_DONE
    for name in files.BACKGROUND_ONLY:
        (data / name).write_bytes(b"broken")
    assert start("clips", "--n_epoch", "2", "--resume", "last") == EXIT_DONE
    (data / files.CLIP_LABELS).write_bytes(b"broken")
    assert start("clips", "--n_epoch", "3", "--resume", "last") == EXIT_USER_ERROR
    assert f"{data / files.CLIP_LABELS}: is not an HDF5 file" in capfd.readouterr().err


def test_a_run_of_an_early_version_noted_files_that_it_did_not_read(start, data, tiny_data, tmp_path):
    assert start("clips") == EXIT_DONE
    last = tmp_path / "run" / LAST
    helpers_bad.recheck(last, lambda content: {**content, "data": fingerprint(tiny_data, "clips_with_background")})
    assert start("clips", "--n_epoch", "2", "--resume", "last") == EXIT_DONE


def test_another_regime_is_another_run(start, capfd):
    assert start("clips") == EXIT_DONE
    assert start("segment_shares", "--n_epoch", "2", "--resume", "last") == EXIT_USER_ERROR
    assert "data.label_regime (segment_shares here, clips there)" in capfd.readouterr().err


def test_an_evaluation_chooses_its_threshold_on_what_the_network_learned_from(start, tmp_path, capfd):
    assert start("clips") == EXIT_DONE
    capfd.readouterr()
    assert start(None, "--evaluate", "--localize", "relative") == EXIT_DONE
    assert "it learned from clip labels without background-only clips (clips)\n" in capfd.readouterr().out
    evaluated = read_metrics(tmp_path / "run" / "eval-test")
    assert evaluated["label_regime"] == "clips"
    assert isinstance(evaluated["threshold"], float)


def test_a_checkpoint_that_does_not_say_is_taken_as_the_config_says(start, tiny_config, tmp_path, capfd):
    settings = config_files.read_json(tiny_config("weak_main_model"))["model"]
    theirs = tmp_path / "theirs.pth.tar"
    torch.save(to_official(build_model(settings)), theirs)
    asked = ["--evaluate", "--resume", str(theirs), "--localize", "relative", "--output", str(tmp_path / "out")]
    assert start(None, *asked) == EXIT_USER_ERROR
    assert "--set data.label_regime=clips (--set eval.threshold=NUMBER does without" in capfd.readouterr().err
    assert start(None, *asked, "--set", "data.label_regime=clips") == EXIT_DONE
    assert "(clips, by the config: the checkpoint doesn't say)" in capfd.readouterr().out
    assert read_metrics(tmp_path / "out")["label_regime"] == "clips"
    assert start(None, *asked, "--set", "eval.threshold=-1.0") == EXIT_DONE
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["label_regime"] == "clips_with_background"

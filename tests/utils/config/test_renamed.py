"""Old names of keys and files: what they mean now, in a config, one that it extends, a checkpoint and a study."""

from __future__ import annotations

import json
import shutil

import pytest
from conftest import ROOT

from utils.base.errors import UserError
from utils.config import files as config_files
from utils.config.renamed import MOVED, REMOVED, RENAMED, with_old_name
from utils.config.settings import SUPERVISED, WEAK, declaration
from utils.study.runs import StudySettings


def load(path):
    return config_files.build(config_files.read_json(path), source=str(path))


@pytest.mark.parametrize(
    ("name", "old", "now"),
    [
        (SUPERVISED, {"data": {"features": "host"}}, {"data": {"placement": "host"}}),
        (SUPERVISED, {"train": {"gate_loss": 0.5}}, {"train": {"loss_weights": {"gate": 0.5}}}),
        (SUPERVISED, {"train": {"av_category_loss": 0}}, {"train": {"loss_weights": {"av_category": 0}}}),
        (WEAK, {"train": {"gate_loss": 1.0, "av_category_loss": 1.0}}, {}),  # written by every run, without effect
        (WEAK, {"train": {"skip_nonfinite": False}}, {}),
    ],
)
def test_an_old_name_means_the_new_one(tmp_path, name, old, now):
    (tmp_path / "base.json").write_text(json.dumps({"model": {"name": name}, **old}))
    (tmp_path / "mine.json").write_text(json.dumps({"extends": "base.json"}))
    wanted = config_files.build({"model": {"name": name}, **now}, "now")
    assert load(tmp_path / "base.json") == load(tmp_path / "mine.json") == wanted
    assert config_files.build_stored({"model": {"name": name}, **old}, "a checkpoint") == wanted


def test_old_and_new_names_override_each_other(tmp_path):
    (tmp_path / "old.json").write_text(json.dumps({"model": {"name": SUPERVISED}, "train": {"gate_loss": 0.5}}))
    new = {"extends": "old.json", "train": {"loss_weights": {"gate": 0.25}}}
    (tmp_path / "new.json").write_text(json.dumps(new))
    (tmp_path / "again.json").write_text(json.dumps({"extends": "new.json", "train": {"gate_loss": 1.0}}))
    assert load(tmp_path / "new.json").train.loss_weights["gate"] == 0.25
    assert load(tmp_path / "again.json").train.loss_weights["gate"] == 1


def test_both_names_at_once_are_refused():
    with pytest.raises(UserError, match=r"'data.features' is the old name of 'data.placement', and both are there"):
        config_files.build({"model": {"name": WEAK}, "data": {"features": "host", "placement": "host"}}, "x")


def test_a_key_that_is_gone_says_what_to_do_instead():
    values = {"model": {"name": WEAK}, "train": {"skip_nonfinite": True}}
    with pytest.raises(UserError, match=r"x: 'train.skip_nonfinite' is no more: .*is named; mend"):
        config_files.build(values, "x")
    config_files.build_stored(values, "the checkpoint of a run that did it")


def test_an_old_study_is_read(tmp_path):
    values = {"readings": {"b": ["a", "b.json"]}, "set": {"data": {"features": "host"}, "train": {"gate_loss": 0.5}}}
    (tmp_path / "study.json").write_text(json.dumps({"title": "t", "output": "o", "seeds": [1], **values}))
    read = config_files.read_json(tmp_path / "study.json")
    assert read["localizations"] == {"b": ["a", "b.json"]}
    assert read["set"] == {"data": {"placement": "host"}, "train": {"loss_weights": {"gate": 0.5}}}


def test_files_that_were_moved_are_found(tmp_path):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for old, new in MOVED.items():
        assert config_files.read_json(tmp_path / "configs" / old) == config_files.read_json(ROOT / "configs" / new)
    (tmp_path / "configs" / "study.json").write_text('{"title": "my own"}')
    assert config_files.read_json(tmp_path / "configs" / "study.json") == {"title": "my own"}


def test_the_folder_of_a_renamed_row_is_found(tmp_path):
    assert with_old_name(tmp_path / "localization-gate").name == "localization-gate"
    (tmp_path / "reading-gate").mkdir()
    assert with_old_name(tmp_path / "localization-gate").name == "reading-gate"
    (tmp_path / "localization-gate").mkdir()
    assert with_old_name(tmp_path / "localization-gate").name == "localization-gate"


def test_no_new_name_is_an_old_one():
    for new in RENAMED.values():
        assert new in StudySettings.model_fields or declaration(new).may_differ
        assert new not in RENAMED
        assert new not in REMOVED

"""What a finished run leaves in one file, and what is said of a file that isn't one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import supv_main
from dataset import files
from utils.base.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError
from utils.evaluation.protocols import EPOCHS, protocols, read_epochs
from utils.evaluation.stored import read as read_evaluation
from utils.training import provenance, result


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("result")


@pytest.fixture(scope="module")
def train(tiny_data, folder):
    """train(*flags) trains, or goes on, in one folder, and returns the exit code."""
    model = {"name": "supv_main_model", "video_inputdim": 16, "audio_inputdim": 8, "d_model": 16, "categories": 3}
    (folder / "config.json").write_text(json.dumps({"model": model, "data": {"root": str(tiny_data)}}))
    flags = ["--config", str(folder / "config.json"), "--snapshot_pref", str(folder / "run"), "--gpu", "cpu"]

    def start(*more: str) -> int:
        return supv_main.main([*flags, *more])

    assert start("--n_epoch", "2") == EXIT_DONE
    return start


@pytest.fixture(scope="module")
def run(train, folder) -> Path:
    return folder / "run"


def test_what_a_finished_run_says(run, tiny_data):
    left = result.read(run)
    assert (left.network, left.supervision, left.label_regime, left.generated) == (
        "supv_main_model",
        "full",
        None,
        True,
    )
    assert left.config == json.loads((run / "config.json").read_text())
    assert {"data": left.data, "starts": [left.start]} == provenance.read(run)
    assert {files.VISUAL, files.LABELS} < set(left.data)
    for protocol, chosen in protocols(run).items():
        said = getattr(left.protocols, protocol).model_dump()
        assert said.items() >= chosen.items()
    evaluation = read_evaluation(run / "eval-test")  # of the epoch that the authors' protocol chose
    of_clips = 100 * (evaluation.prediction == evaluation.target).mean(1)
    assert left.protocols.authors.test_accuracy_of_clips == pytest.approx(of_clips.tolist())
    apart = evaluation.metrics["naming_and_timing"]
    assert left.protocols.authors.test_naming_and_timing == apart


def test_no_new_run_takes_the_place_of_a_result(run, train, capsys):
    others = [path for path in run.iterdir() if path.is_file() and path.name != result.FILE]
    kept = {path: path.read_bytes() for path in others}
    for path in others:
        path.unlink()
    assert train("--n_epoch", "1") == EXIT_USER_ERROR
    assert f"{run / result.FILE}: would be overwritten" in capsys.readouterr().err
    for path, content in kept.items():
        path.write_bytes(content)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_run_that_goes_on_is_not_finished_any_more(run, train, monkeypatch):
    before = result.read(run)
    with monkeypatch.context() as patch:
        patch.setattr("utils.training.run.fit", interrupted)
        assert train("--n_epoch", "3", "--resume", "last") == EXIT_INTERRUPTED
    assert result.read(run) is None
    assert train("--n_epoch", "3", "--resume", "last") == EXIT_DONE
    after = result.read(run)
    assert after.config["train"]["n_epoch"] == 3
    assert after.start["command"] != before.start["command"]
    assert after.protocols.authors.test_accuracy >= before.protocols.authors.test_accuracy


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("network", None), ("supervision", "half"), ("label_regime", "shares"), ("protocols", {}), ("seconds", "1"),
        ("protocols", {"authors": {"epoch": 0, "test_accuracy": 5.0}, "validation": None}),
        ("protocols", {"authors": {"epoch": 1, "test_accuracy": 105.0}, "validation": None}),
        ("protocols", {"authors": {"epoch": 1, "test_accuracy": 50.0, "test_accuracy_of_clips": [50.0, 60.0]},
                       "validation": None}),
        ("config", []),
    ],
)  # fmt: skip
def test_a_damaged_result_is_named_with_what_is_wrong(key, value, tmp_path):
    whole = {
        "network": "supv_main_model", "supervision": "full", "label_regime": None, "generated": True, "seconds": 1.5,
        "protocols": {"authors": {"epoch": 1, "test_accuracy": 50.0}, "validation": None},
        "config": {}, "data": {}, "start": {},
    }  # fmt: skip
    path = tmp_path / result.FILE
    path.write_text(json.dumps(whole))
    assert result.read(tmp_path).seconds == 1.5
    path.write_text(json.dumps({**whole, key: value}))
    with pytest.raises(UserError, match=rf"{result.FILE}: is damaged \({key}"):
        result.read(tmp_path)
    path.write_text(json.dumps(whole)[:-20])
    with pytest.raises(UserError, match=result.FILE):
        result.read(tmp_path)


@pytest.mark.parametrize(
    ("read", "name"), [(result.read, result.FILE), (provenance.read, provenance.FILE), (read_epochs, EPOCHS)]
)
@pytest.mark.parametrize("target", ["nowhere", "itself"])
def test_a_link_to_nowhere_is_not_taken_for_no_file(read, name, target, tmp_path):
    assert not read(tmp_path)
    (tmp_path / name).symlink_to(name if target == "itself" else target)
    with pytest.raises(UserError, match=name):
        read(tmp_path)

"""The run folder says how to get the same run again, and two run folders say what differs between them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
from pathlib import Path

import helpers_bad
import pytest
import torch
from conftest import TINY_MODEL
from helpers_bad import refused

import supv_main
import weak_main
from dataset import files, fingerprint
from utils.recorder import __main__ as recorder_command
from utils.training import provenance, start

quick = pytest.fixture(helpers_bad.quick, autouse=True, scope="module")


@pytest.fixture(scope="module")
def train(tiny_data, tmp_path_factory):
    """train("name", *flags) trains one epoch and returns the run folder."""
    folder = tmp_path_factory.mktemp("runs")
    config = folder / "config.json"
    config.write_text(
        json.dumps({"model": {"name": "supv_main_model", **TINY_MODEL}, "train": {"n_epoch": 1, "batch_size": 10}})
    )

    def start(name: str, *flags: str) -> Path:
        fixed = ["--config", str(config), "--gpu", "cpu", "--data_root", str(tiny_data)]
        assert supv_main.main([*fixed, "--snapshot_pref", str(folder / name), *flags]) == 0
        return folder / name

    return start


@pytest.fixture(scope="module")
def runs(train) -> dict[str, Path]:
    return {name: train(name, *flags) for name, *flags in [("one",), ("same",), ("other", "--seed", "5")]}


def story(run: Path) -> dict:
    return json.loads((run / provenance.FILE).read_text())


def test_what_a_start_says(runs):
    (start,) = story(runs["one"])["starts"]
    assert f"--snapshot_pref {runs['one']}" in start["command"]
    assert start["folder"] == os.getcwd()
    assert start["device"].startswith("cpu")
    assert start["threads"] == torch.get_num_threads()
    assert start["packages"]["torch"] == importlib.metadata.version("torch")
    assert start["packages"]["h5py"] == importlib.metadata.version("h5py")
    assert start["time"].endswith("+00:00")


def test_the_commit_and_whether_the_tree_differs_from_it(tmp_path, monkeypatch):
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    monkeypatch.setattr(start, "__file__", str(tmp_path / "utils" / "training" / "start.py"))
    git_state = start.git_state.__wrapped__
    assert git_state() is None
    git("init")
    (tmp_path / "code.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "x")
    assert git_state() == {"commit": git("rev-parse", "HEAD"), "dirty": False, "changed": []}
    (tmp_path / "code.py").write_text("2")
    assert git_state() == {"commit": git("rev-parse", "HEAD"), "dirty": True, "changed": ["code.py"]}


def test_the_fingerprint_of_the_data(runs, tiny_data):
    data = story(runs["one"])["data"]
    assert data[files.VISUAL]["shape"] == [40, 10, 2, 2, 16]
    assert data[files.AUDIO]["bytes"] == (tiny_data / files.AUDIO).stat().st_size
    order = tiny_data / files.order_file("train")
    assert data[order.name]["sha256"] == hashlib.sha256(order.read_bytes()).hexdigest()
    assert files.NOISY_AUDIO not in data, "the supervised setting doesn't read it"
    assert files.NOISY_AUDIO in fingerprint.fingerprint(tiny_data, "clips_with_background")


def test_a_large_file_that_was_written_since_is_said(train, tiny_data, monkeypatch, capfd):
    monkeypatch.setattr(fingerprint, "WHOLE", (tiny_data / files.VISUAL).stat().st_size - 1)
    run = train("written since")
    (tiny_data / files.VISUAL).touch()
    capfd.readouterr()
    train("written since", "--resume", "last", "--n_epoch", "2")
    assert f"{files.VISUAL} was written or copied since the run began" in capfd.readouterr().out
    assert len(story(run)["starts"]) == 2


def test_going_on_adds_a_start(train):
    run = train("two starts")
    train("two starts", "--resume", "last", "--n_epoch", "2")
    first, second = story(run)["starts"]
    assert "--resume" not in first["command"]
    assert second["command"].endswith("--resume last --n_epoch 2")
    assert json.loads((run / "config.json").read_text())["train"]["n_epoch"] == 2


def test_a_run_without_its_story_goes_on(train):
    run = train("no story")
    (run / provenance.FILE).unlink()
    train("no story", "--resume", "last", "--n_epoch", "2")
    assert len(story(run)["starts"]) == 1


def compared(capsys: pytest.CaptureFixture, *runs: Path) -> list[str]:
    capsys.readouterr()
    assert recorder_command.main(["compare", *map(str, runs)]) == 0
    return capsys.readouterr().out.splitlines()


def test_equal_runs_differ_in_their_folder_alone(runs, capsys):
    lines = compared(capsys, runs["one"], runs["same"])
    assert f"  train snapshot_pref: {runs['one']} | {runs['same']}" in lines
    differing = [line.split(":")[0].strip() for line in lines if line.startswith("  ")]
    assert differing == ["train snapshot_pref", "command"]
    assert "data: the same" in lines
    assert "numbers: the same, to the last digit, in 1 epochs" in lines


def test_another_seed_is_named_with_what_came_of_it(runs, capsys):
    lines = compared(capsys, runs["one"], runs["other"])
    assert "  train seed: 43 | 5" in lines
    assert "numbers: differ from epoch 1 on" in lines
    assert any(line.startswith("  loss total: ") for line in lines)
    assert any(line.startswith("best test accuracy: ") and " % | " in line for line in lines)


def test_settings_of_different_kinds_compare(runs, tiny_data, tmp_path, capsys):
    config = tmp_path / "weak.json"
    config.write_text(json.dumps({"model": {"name": "weak_main_model", **TINY_MODEL}, "train": {"n_epoch": 1}}))
    flags = ["--config", str(config), "--gpu", "cpu", "--data_root", str(tiny_data)]
    assert weak_main.main([*flags, "--snapshot_pref", str(tmp_path / "weak")]) == 0
    lines = compared(capsys, runs["one"], tmp_path / "weak")
    assert "  model name: supv_main_model | weak_main_model" in lines
    assert any(files.NOISY_AUDIO in line for line in lines)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: (run / "config.json").unlink(), "holds no run"),
        (lambda run: (run / "config.json").write_text("{}"), "config.json: 'model' is missing"),
        (lambda run: (run / "run.json").write_text("[1]"), "run.json: is damaged"),
        (lambda run: (run / "run.json").write_text('{"data": {}, "starts": [1]}'), "run.json: is damaged"),
        (lambda run: (run / "run.json").write_bytes(b"\xff"), "run.json: is not UTF-8 text"),
        (lambda run: (run / "metrics.jsonl").write_text("{\n"), "metrics.jsonl, line 1: is damaged"),
        (lambda run: (run / "metrics.jsonl").write_text("1\n"), "metrics.jsonl, line 1: is damaged"),
    ],
)
def test_a_damaged_run_is_named(change, words, runs, tmp_path, capsys):
    shutil.copytree(runs["one"], tmp_path / "run")
    change(tmp_path / "run")
    assert words in refused(capsys, recorder_command.main, "compare", str(runs["one"]), str(tmp_path / "run"))


def test_compare_needs_two_runs(capsys):
    assert recorder_command.main(["compare", "one"]) == 2
    assert "RUN" in capsys.readouterr().err

"""The four commands that people type, end to end on a tiny generated data set."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY_MODEL

import supv_main
from dataset.arrays import read_order
from model import build_model
from model.official import to_official


def script(name: str, *arguments: str | Path) -> subprocess.CompletedProcess:
    """Run a script with this interpreter first on the PATH, as a user with an active environment would."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(ROOT / name), *map(str, arguments)],
        env={**os.environ, "PATH": path, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("setting", "name"), [("supv", "supv_main_model"), ("weak", "weak_main_model")])
def test_train_then_test(tiny_config, tmp_path, setting, name):
    config, run = tiny_config(name), tmp_path / "run"
    trained = script(f"{setting}_train.sh", "--config", config)
    assert trained.returncode == 0, trained.stderr
    for text in ("running on the CPU", "authors' protocol", "validation protocol", "right category in every segment"):
        assert text in trained.stdout
    assert "\r" not in trained.stderr  # no progress bars where there is no terminal
    for file in ("config.json", "log.txt", "last.pth.tar", "best.pth.tar", "eval-test/predictions.jsonl"):
        assert (run / file).exists(), file
    assert list(run.glob("events.out.tfevents.*"))

    epochs = read_lines(run / "metrics.jsonl")
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert {"loss", "train_accuracy", "val_accuracy", "test_accuracy", "learning_rate"} <= epochs[0].keys()
    best = max(epoch["test_accuracy"] for epoch in epochs)

    tested = script(f"{setting}_test.sh", "--config", config, "--output", tmp_path / "eval")
    assert tested.returncode == 0, tested.stderr
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert metrics["accuracy"] == pytest.approx(best, abs=1e-9)
    assert f"test accuracy {best:.2f} %" in tested.stdout
    assert (metrics["clips"], metrics["segments"]) == (8, 80)

    clips = read_lines(tmp_path / "eval" / "predictions.jsonl")
    assert len(clips) == 8
    right = sum(p == t for clip in clips for p, t in zip(clip["prediction"], clip["target"], strict=True))
    assert 100 * right / 80 == pytest.approx(metrics["accuracy"])
    for clip in clips:
        assert {"index", "id", "prediction", "target", "event_probability", "category"} <= clip.keys()
        assert all(0 <= p <= 1 for p in clip["event_probability"])


def test_without_a_run_the_authors_file_is_evaluated(tiny_config, tmp_path):
    config, run = tiny_config(), tmp_path / "run"
    nothing = script("supv_test.sh", "--config", config)
    assert nothing.returncode == 2
    assert "supv_train.sh" in nothing.stderr
    assert "dataset.download --checkpoints" in nothing.stderr

    run.mkdir()
    torch.save(to_official(build_model({"name": "supv_main_model", **TINY_MODEL})), run / "Supervised_model.pth.tar")
    found = script("supv_test.sh", "--config", config)
    assert found.returncode == 0, found.stderr
    assert "Supervised_model.pth.tar: test accuracy" in found.stdout
    assert (run / "eval-test" / "metrics.json").exists()


def test_missing_data_is_one_line(tmp_path, tiny_config):
    missing = script("supv_train.sh", "--config", tiny_config(data={"root": str(tmp_path / "nothing")}))
    assert missing.returncode == 2
    assert len(missing.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_leaked_clips_are_left_out(tiny_config, tiny_data, tmp_path, capsys):
    """A test clip whose video is also a training clip's counts in one accuracy and not in the other."""
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    train, test = (read_order(data, split) for split in ("train", "test"))
    lines = (data / "Annotations.txt").read_text().splitlines()
    for clip in (2, 5):
        lines[test[clip]] = re.sub("&[^&]+&", f"&{lines[train[0]].split('&')[1]}&", lines[test[clip]], count=1)
    (data / "Annotations.txt").write_text("\n".join(lines) + "\n")
    checkpoint = tmp_path / "Supervised_model.pth.tar"
    torch.save(to_official(build_model({"name": "supv_main_model", **TINY_MODEL})), checkpoint)
    config = tiny_config(data={"root": str(data)}, eval={"exclude_leaked": True})

    assert supv_main.main(["--config", str(config), "--evaluate", "--resume", str(checkpoint)]) == 0
    metrics = json.loads((tmp_path / "eval-test" / "metrics.json").read_text())
    clips = read_lines(tmp_path / "eval-test" / "predictions.jsonl")
    right = [sum(p == t for p, t in zip(clip["prediction"], clip["target"], strict=True)) for clip in clips]
    assert metrics["accuracy"] == pytest.approx(100 * sum(right) / 80)
    assert metrics["leaked_clips"] == 2
    kept = [count for clip, count in enumerate(right) if clip not in (2, 5)]
    assert metrics["accuracy_without_leaked"] == pytest.approx(100 * sum(kept) / 60)
    assert "2 clips whose video is also in the training split" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["-m dataset.check", "-m utils.benchmark", "-P supv_main.py", "-P weak_main.py"])
def test_a_python_without_the_packages_is_told_so(command):
    run = subprocess.run([sys.executable, "-S", *command.split()], cwd=ROOT, env={}, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "lacks the packages torch, h5py, numpy" in run.stderr

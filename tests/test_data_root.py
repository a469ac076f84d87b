"""`--data_root` names the data folder in every command that has one; without it, that is the project's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from helpers_bad import main_of

from dataset import files

NEW = ["--train", "3", "--val", "2", "--test", "2", "--background-only", "1", "--categories", "2", "--grid", "1", "1",
       "--visual-dim", "4", "--audio-dim", "4"]  # fmt: skip


@pytest.mark.parametrize("flag", ["--data_root", "--root"])
@pytest.mark.parametrize(("command", "more"), [("check", []), ("stats", []), ("convert", ["--to", "new"])])
def test_data_root_is_the_folder_that_is_read(tiny_data, tmp_path, monkeypatch, capsys, command, more, flag):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_data, "here")
    assert main_of(f"dataset.{command}")([flag, "here", *more]) == 0
    if command == "convert":
        assert Path("new", files.VISUAL).exists()
    if command == "stats":
        assert Path("here", "statistics.png").exists()


def test_data_root_is_the_folder_that_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main_of("dataset.synthetic")(["--data_root", "new", *NEW]) == 0
    assert Path("new", files.VISUAL).exists()


@pytest.mark.parametrize("command", ["check", "convert", "download", "stats"])
def test_the_default_is_the_projects_folder(tmp_path, command):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "500"}
    asked = [sys.executable, "-m", f"dataset.{command}", "--help"]
    told = subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert "--data_root" in told
    assert f"(default: {ROOT / 'data'})" in told

"""What a Python lacks to run this project."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest
from conftest import ROOT

from utils.base import packages
from utils.base.interrupts import is_command


@pytest.fixture
def installed(monkeypatch):
    """The packages that are said to be installed, with their versions."""
    versions = {"torch": "2.13.0+cu130", "psutil": "7.2.2"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    return versions


@pytest.mark.parametrize(
    ("text", "torch", "found"),
    [
        ("# what is needed\ntorch==2.13.0\npsutil==7.2.2\n", "2.11.0", None),
        ("torch==2.13.0\r\n-r other.txt\r\nscikit-learn==1.9.1\r\n", "2.13.0+cpu", "lacks the packages scikit-learn"),
        ("torch\n", "2.10.1", "lacks the packages torch >= 2.11"),
    ],
)
def test_what_is_lacking(text, torch, found, installed, tmp_path):
    (tmp_path / "requirements.txt").write_text(text)
    installed["torch"] = torch
    assert packages.problem([tmp_path / "requirements.txt"]) == found


def test_an_old_python(monkeypatch):
    monkeypatch.setattr("sys.version_info", (3, 10, 13))
    assert packages.problem([]) == "is Python 3.10, but 3.11 is the oldest that works"


def test_this_python_has_all_that_the_tests_need():
    assert packages.problem([ROOT / "requirements.txt", ROOT / "tests" / "requirements.txt"]) is None


@pytest.mark.parametrize(
    ("argv", "ours"),
    [
        (["python", "-S", "-m", "dataset.check", "--root", "data"], True),
        (["python", "/somewhere/supv_main.py", "--gpu", "cpu"], True),
        (["python", "-m", "pytest"], False),
        (["python", "-c", "import model", "-m"], False),
    ],
)
def test_only_commands_of_this_project_are_ended(argv, ours, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", argv)
    assert is_command() == ours

"""Files that are whole or not there, whoever writes beside them and however a writer ends."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import pytest
from conftest import ROOT

from dataset.writing import alone
from utils.base import atomic
from utils.base.atomic import atomic_path, inside, private_folder, require_no_obstacle, write_text
from utils.base.errors import UserError


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.endswith(".part")]


@pytest.fixture
def killed(tmp_path) -> Path:
    """What a process left that was killed while it wrote `tmp_path / "file"`."""
    code = "import os; from utils.base.atomic import atomic_path as a\n"
    code += f"with a({str(tmp_path / 'file')!r}) as part: part.write_text('half'); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -signal.SIGKILL
    (left,) = temporaries(tmp_path)
    return left


def test_a_killed_writers_leftover_goes_with_the_next_write(killed, tmp_path):
    assert (killed / "file").read_text() == "half"
    write_text(tmp_path / "another", "x")
    assert temporaries(tmp_path) == [killed]
    write_text(tmp_path / "file", "whole")
    assert temporaries(tmp_path) == []
    assert (tmp_path / "file").read_text() == "whole"


def test_a_killed_writers_leftover_goes_where_no_other_command_writes(killed, tmp_path):
    """It may have been killed after the renaming, and its file is never written again."""
    (tmp_path / ".a.a1b2c3d4.part").write_text("a file")
    with private_folder(tmp_path / "living") as living, alone(tmp_path):
        assert set(temporaries(tmp_path)) == {living, tmp_path / ".a.a1b2c3d4.part"}


def test_a_living_writers_temporary_stays(tmp_path):
    with atomic_path(tmp_path / "file") as first:
        first.write_text("first")
        write_text(tmp_path / "file", "second")
        assert first.read_text() == "first"
        assert (tmp_path / "file").read_text() == "second"
    assert (tmp_path / "file").read_text() == "first"
    assert temporaries(tmp_path) == []


def test_many_writers_at_once(tmp_path):
    """Each leaves a whole file, and none takes another's new temporary folder for a leftover."""
    failed = []

    def write(text: str) -> None:
        try:
            for _ in range(50):
                write_text(tmp_path / "file", text)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(letter * 1000,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(set((tmp_path / "file").read_text())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_another_process_took_for_a_leftover_is_made_again(tmp_path, monkeypatch):
    make, made = atomic.tempfile.mkdtemp, []

    def mkdtemp(**settings) -> str:
        made.append(make(**settings))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(atomic.tempfile, "mkdtemp", mkdtemp)
    write_text(tmp_path / "file", "x")
    assert len(made) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_only_looks_like_a_leftover_stays(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "precious").write_text("x")
    (tmp_path / ".file.a1b2c3d4.part").symlink_to(mine)
    (tmp_path / ".file.notes.part").mkdir()
    (tmp_path / ".file.b1b2c3d4.part").write_text("a file")
    write_text(tmp_path / "file", "x")
    assert (mine / "precious").exists()
    assert {path.name for path in tmp_path.iterdir()} == {
        "mine", "file", ".file.a1b2c3d4.part", ".file.notes.part", ".file.b1b2c3d4.part",
    }  # fmt: skip


def test_no_planted_link_is_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("file", "file.part", ".file.part"):
        (tmp_path / name).symlink_to(victim)
    write_text(tmp_path / "file", "new")
    assert victim.read_text() == "precious"
    assert (tmp_path / "file").read_text() == "new"
    assert not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_umask_says_who_may_read(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_hdf5_can_lock_the_file(tmp_path):
    with atomic_path(tmp_path / "x.h5") as part, h5py.File(part, "w") as file:
        file["a"] = 1
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["a"][()] == 1


def test_a_name_that_is_not_utf_8_can_be_written(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    write_text(tmp_path / "x.json", json.dumps({"path": name, "é": 1}, ensure_ascii=False))
    assert (tmp_path / "x.json").read_bytes() == '{"path": "caf\\udce9", "é": 1}'.encode()
    assert json.loads((tmp_path / "x.json").read_text()) == {"path": name, "é": 1}


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_stands_in_the_place_of_a_file(make, tmp_path):
    require_no_obstacle(tmp_path / "x")
    (tmp_path / "x").touch()
    require_no_obstacle(tmp_path / "x")
    make(tmp_path / "y")
    with pytest.raises(UserError, match="y: is in the way"):
        require_no_obstacle(tmp_path / "y")


def test_the_longest_names(tmp_path):
    write_text(tmp_path / ("é" * 127), "x")
    with pytest.raises(UserError, match="the name is too long"):
        write_text(tmp_path / ("é" * 128), "x")
    assert [path.name for path in tmp_path.iterdir()] == ["é" * 127]


def test_a_full_device_names_itself(tmp_path):
    write_text(tmp_path / "file", "old")

    def write() -> None:
        with atomic_path(tmp_path / "file") as part:
            part.symlink_to("/dev/full")
            part.write_bytes(b"new")

    with pytest.raises(UserError, match="file: could not be written; the disk is full"):
        write()
    assert (tmp_path / "file").read_text() == "old"
    assert temporaries(tmp_path) == []


def test_a_file_system_without_locks(tmp_path, monkeypatch, killed):
    def flock(*_) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(atomic.fcntl, "flock", flock)
    write_text(tmp_path / "file", "x")
    assert (tmp_path / "file").read_text() == "x"
    assert temporaries(tmp_path) == [killed], "nobody knows whether its process lives"


def test_a_private_folder_is_private(tmp_path):
    with private_folder(tmp_path / "x") as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "../x", "a\0b"])
def test_a_name_that_leads_elsewhere(name, tmp_path):
    with pytest.raises(UserError, match="can't be the name of a file"):
        inside(tmp_path, name)


@pytest.mark.parametrize("name", ["a", "...", "a b", ".hidden", "ä\n"])
def test_a_name_that_stays(name, tmp_path):
    assert inside(tmp_path, name) == tmp_path / name

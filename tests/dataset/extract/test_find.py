"""Which files of a folder are taken for videos, what they are called, and what is said of the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dataset.extract.find import as_text, find_videos
from utils.base.errors import UserError


def make(root: Path, *names: str | bytes) -> Path:
    for name in names:
        path = Path(root, os.fsdecode(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def test_folders_in_folders_and_endings_in_any_case(tmp_path, capsys):
    make(tmp_path, "b.MP4", "sub/deeper/a.Mov", "sub/c.3gp", "d.m2ts", "sub/e.wmv")
    found = find_videos([tmp_path])
    assert {id: str(path.relative_to(tmp_path)) for id, path in found.items()} == {
        "b": "b.MP4", "d": "d.m2ts", "c": "sub/c.3gp", "a": "sub/deeper/a.Mov", "e": "sub/e.wmv",
    }  # fmt: skip
    assert list(found) == ["b", "d", "c", "a", "e"]  # by path
    assert capsys.readouterr().out == ""


def test_what_is_passed_over_is_one_line(tmp_path, capsys):
    make(
        tmp_path, "a.mp4", "._a.mp4", "sub/._b.mp4", ".cache/x.mp4", "notes.txt", "b.txt", "README", "__MACOSX/._a.mp4"
    )
    (tmp_path / "gone.mp4").symlink_to("nowhere")
    (tmp_path / "sub" / "up").symlink_to("..")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert list(find_videos([tmp_path])) == ["a"]
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert said.startswith(f"{tmp_path}: passed over ")
    for part in (
        "3 hidden files, such as the ._* of macOS",
        "1 hidden folders",
        "2 files without a video's ending (.txt)",
        "1 files without a video's ending (none)",
        "2 links, pipes or devices in the place of a video",
        "1 links to folders that are read already",
    ):
        assert part in said


def test_a_linked_folder_is_entered_once(tmp_path):
    make(tmp_path, "real/a.mp4", "videos/b.mp4")
    (tmp_path / "videos" / "more").symlink_to("../real")
    assert list(find_videos([tmp_path / "videos"])) == ["b", "a"]


def test_a_file_that_is_named_may_have_any_ending(tmp_path):
    make(tmp_path, "clip.dat")
    assert list(find_videos([tmp_path / "clip.dat"])) == ["clip"]


def test_a_name_that_is_not_utf_8_can_be_written_down(tmp_path):
    make(tmp_path, b"caf\xe9.mp4", "café.mp4")
    assert set(find_videos([tmp_path])) == {"caf\\xe9", "café"}
    assert as_text(os.fsdecode(b"a/\xff.mp4")) == "a/\\xff.mp4"


def test_one_name_in_two_folders_is_refused(tmp_path):
    make(tmp_path, "cats/1.mp4", "dogs/1.mp4")
    with pytest.raises(UserError, match=r"cats/1\.mp4 and .*dogs/1\.mp4 have the same name '1'"):
        find_videos([tmp_path])
    with pytest.raises(UserError, match="holds no video"):
        find_videos([make(tmp_path / "empty", "x.txt")])

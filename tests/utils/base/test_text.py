"""Text as editors save it is read alike, or refused in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dataset.labels import categories_of, read_annotations
from utils.base.errors import UserError
from utils.base.text import read_json, read_json_lines, read_lines, read_text
from utils.config import files as config_files

LINES = ["Müller&a&good&0&5", "Glocke&b&good&2&4", "Müller&c&good&1&3"]
TEXT = "\n".join(LINES) + "\n"


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r\n").encode("utf-8-sig"),
        TEXT.replace("\n", "\r").encode(),
        TEXT[:-1].encode(),
        "".join("\ufeff" + line + "\n" for line in LINES).encode(),  # files that were joined
    ],
    ids=["plain", "mark", "CRLF", "mark and CRLF", "CR", "no last end", "joined"],
)
def test_a_mark_and_other_line_ends_change_nothing(content, tmp_path):
    path = tmp_path / "Annotations.txt"
    path.write_bytes(content)
    assert read_lines(path) == LINES
    assert categories_of(read_annotations(path)) == ["Müller", "Glocke"]


def test_a_line_ends_nowhere_else(tmp_path):
    (tmp_path / "x").write_bytes("a\x85b\u2028c\x0bd\n\ne".encode())
    assert read_lines(tmp_path / "x") == ["a\x85b\u2028c\x0bd", "", "e"]
    (tmp_path / "x").write_bytes(b"")
    assert read_lines(tmp_path / "x") == []


def test_json_with_a_mark(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes('{\r\n"train": {"seed": 3}}\r\n'.encode("utf-8-sig"))
    assert config_files.read_json(path) == read_json(path) == {"train": {"seed": 3}}
    path.write_bytes('{"a": 1}\r\n[2]'.encode("utf-8-sig"))
    assert read_json_lines(path) == [{"a": 1}, [2]]


def pipe(path: Path) -> None:
    os.mkfifo(path)


def large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(3 * 2**30)  # takes no space on the disk


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(TEXT.encode("utf-16")), "is UTF-16 text; save it as UTF-8"),
        (lambda path: path.write_bytes(b"\xfe\xff" + TEXT.encode("utf-16-be")), "is UTF-16 text; save it as UTF-8"),
        (lambda path: path.write_bytes(TEXT.encode("utf-32")), "is UTF-32 text; save it as UTF-8"),
        (lambda path: path.write_bytes(TEXT.encode("utf-16-le")), "is not UTF-8 text (it holds zero bytes"),
        (lambda path: path.write_bytes(b"a\nb\n" + TEXT.encode("latin-1")), "is not UTF-8 text (line 3)"),
        (lambda path: None, "no such thing; look elsewhere"),
        (lambda path: path.symlink_to("gone"), "is a link to gone, which does not exist"),
        (lambda path: path.symlink_to(path.name), "cannot be read (Too many levels of symbolic links)"),
        (lambda path: path.mkdir(), "is a folder, not a thing"),
        (pipe, "is a pipe or a device, not a thing"),
        (large, "is 3.0 GiB, and a text file has 1 GiB at most here; check its name"),
        (lambda path: path.symlink_to("/dev/zero"), "is a pipe or a device, not a thing"),
    ],
)
def test_what_is_no_text_is_named(make, words, tmp_path):
    path = tmp_path / "file"
    make(path)
    for read in (read_text, read_lines, read_json, read_json_lines):
        with pytest.raises(UserError) as refused:
            read(path, "thing", "look elsewhere")
        assert str(refused.value).startswith(f"{path}: {words}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1,\n2", ", line 2, column 2: not valid JSON"),
        ("1" * 5000, ": is not a valid thing: "),
        ("[" * 10**5, ": is nested too deeply to be a thing"),
    ],
)
def test_json_that_errs(text, words, tmp_path):
    (tmp_path / "x").write_text(text)
    with pytest.raises(UserError) as refused:
        read_json(tmp_path / "x", "thing")
    assert str(refused.value).startswith(f"{tmp_path / 'x'}{words}")
    (tmp_path / "x").write_text('{}\n{}\n{"a"}\n')
    with pytest.raises(UserError, match=r"x, line 3, column 5: not valid JSON"):
        read_json_lines(tmp_path / "x")


def test_a_name_that_no_file_has():
    with pytest.raises(UserError, match="is not a file name"):
        read_text("a\0b")

"""Text files as editors save them: UTF-8, with or without a byte-order mark, with any line ends.

Every text file that this project reads is read here. `require_file`, `reading` and `is_web_page` serve for all other
files too.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from utils.base.errors import UserError

Model = TypeVar("Model", bound=BaseModel)

MOST_BYTES = 2**30  # of a text file: the predictions of a million clips have half of that

# The longer marks come first: UTF-32's begins with UTF-16's.
_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def require_file(path: str | os.PathLike, kind: str = "file", advice: str = "check its name") -> None:
    """Raise UserError unless a file can be opened at `path`: missing, a link to nowhere, a folder, a pipe, a device.

    Args:
        kind: what the file should be, as errors call it.
        advice: how to mend that it isn't there.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if os.path.islink(path):
            raise UserError(
                f"{path}: is a link to {os.readlink(path)}, which does not exist; mend or remove the link"
            ) from None
        raise UserError(f"{path}: no such {kind}; {advice}") from None
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:  # a zero byte in it
        raise UserError(f"{os.fspath(path)!r}: is not a file name ({error})") from error
    if stat.S_ISDIR(mode):
        raise UserError(f"{path}: is a folder, not a {kind}; name a file, or remove the folder")
    if not stat.S_ISREG(mode):  # opening a pipe would wait for somebody to write into it
        raise UserError(f"{path}: is a pipe or a device, not a {kind}; name a file that lies on a disk")


def require_text_file(path: str | os.PathLike, kind: str = "file", advice: str = "check its name") -> None:
    """Raise UserError as `require_file`, and for a file too large to be one of text, before it fills the memory."""
    require_file(path, kind, advice)
    with reading(path):
        size = os.path.getsize(path)
    if size > MOST_BYTES:
        sizes = f"is {size / 2**30:.1f} GiB, and a text file has {MOST_BYTES / 2**30:g} GiB at most here"
        raise UserError(f"{path}: {sizes}; check its name")


def read_text(path: str | os.PathLike, kind: str = "file", advice: str = "check its name") -> str:
    """The text of a file, without byte-order marks, each line ended by a newline character alone.

    Raises UserError for what isn't a file, or is too large (see `require_text_file`), can't be read, or isn't UTF-8.
    """
    require_text_file(path, kind, advice)
    with reading(path):
        content = Path(path).read_bytes()
    for mark, encoding in _OTHER_MARKS.items():
        if content.startswith(mark):
            raise UserError(f"{path}: is {encoding} text; save it as UTF-8")
    if b"\0" in content:
        raise UserError(f"{path}: is not UTF-8 text (it holds zero bytes, as UTF-16 does); save it as UTF-8")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: is not UTF-8 text (line {line}); save it as UTF-8") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # Files that were joined have a mark in their middle too.
    return re.sub("^\ufeff+", "", text, flags=re.MULTILINE)


def read_lines(path: str | os.PathLike, kind: str = "file", advice: str = "check its name") -> list[str]:
    """The lines of a text file, without what ends them. Raises UserError as `read_text`."""
    lines = read_text(path, kind, advice).split("\n")
    return lines if lines[-1] else lines[:-1]


def read_json(
    path: str | os.PathLike,
    kind: str = "file",
    advice: str = "check its name",
    **hooks: Callable[..., Any],
) -> Any:
    """The content of a JSON file; `hooks` are those of `json.loads`. Raises UserError as `read_text`, or says where."""
    return parse_json(read_text(path, kind, advice), path, kind, **hooks)


def read_json_lines(path: str | os.PathLike, kind: str = "file", advice: str = "check its name") -> list[Any]:
    """The content of each line of a file that holds JSON in every line. Raises UserError as `read_json`."""
    lines = enumerate(read_lines(path, kind, advice), start=1)
    return [parse_json(line, path, kind, first_line=number) for number, line in lines]


def parse_json(
    text: str, source: str | os.PathLike, kind: str = "file", first_line: int = 1, **hooks: Callable[..., Any]
) -> Any:
    """The content of a JSON text that begins in a line of `source`. Raises UserError that says where it errs."""
    try:
        return json.loads(text, **hooks)
    except json.JSONDecodeError as error:
        where = f"line {first_line + error.lineno - 1}, column {error.colno}"
        raise UserError(f"{source}, {where}: not valid JSON: {error.msg}") from error
    except ValueError as error:  # a hook's, or a number too long to be read
        raise UserError(f"{source}: is not a valid {kind}: {error}") from error
    except RecursionError:
        raise UserError(f"{source}: is nested too deeply to be a {kind}") from None


def validated(kind: type[Model], values: Any, say: Callable[[str, str], str]) -> Model:
    """What a file holds as a pydantic model.

    Args:
        say: the message of the UserError, from the first key that is wrong ("the file" as a whole), and what is wrong.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(say(".".join(map(str, first["loc"]))[:100] or "the file", first["msg"])) from None


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """Turn what the operating system refuses to be read within the block into a UserError."""
    try:
        yield
    except OSError as error:
        raise _unreadable(error.filename or path, error) from error


def is_web_page(head: bytes) -> bool:
    """Whether a file that begins with `head` is an HTML page, saved under another file's name."""
    return head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))


def _unreadable(path: str | os.PathLike, error: OSError) -> UserError:
    """The one-line error for a read of `path` that the operating system refused."""
    return UserError(f"{path}: cannot be read ({error.strerror or error}); change its permissions or copy it again")

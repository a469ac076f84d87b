"""What `command` makes of errors that nobody named."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from utils.base.errors import EXIT_USER_ERROR, command


def test_a_permission_that_is_lacking_is_one_line(capsys):
    @command
    def main(name: str | bytes) -> None:
        raise PermissionError(13, "Permission denied", name)

    for name in ("data/labels.h5", b"data/labels.h5"):
        assert main(name) == EXIT_USER_ERROR
        said = capsys.readouterr().err
        assert said == "error: data/labels.h5: cannot be used (Permission denied); change its permissions\n"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, "Too many open files", "x.h5"), ("x.h5: ", "ulimit -n")),
        (OSError(errno.ENOSPC, "No space left on device"), ("a file: ", "the disk is full")),
        (FileNotFoundError(errno.ENOENT, "No such file", Path("x.h5")), ("x.h5: ", "it is gone")),
        (OSError(errno.EIO, "Input/output error", 3), ("a file: ", "Input/output error")),
    ],
)
def test_what_the_operating_system_refuses_anywhere_is_one_line(error, words, capsys):
    @command
    def main() -> None:
        raise error

    assert main() == EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert all(word in said for word in words)


@pytest.mark.parametrize("error", [PermissionError("not the operating system's"), OSError("HDF5's"), ValueError("x")])
def test_an_error_of_the_program_keeps_its_traceback(error):
    @command
    def main() -> None:
        raise error

    with pytest.raises(type(error)):
        main()


def test_a_thread_that_cannot_be_started_is_one_line(capsys):
    @command
    def main() -> None:
        raise RuntimeError("can't start new thread")

    assert main() == 2
    assert capsys.readouterr().err.startswith("error: no thread could be started; raise the limits (ulimit -u")

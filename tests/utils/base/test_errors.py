"""What `command` makes of errors that nobody named."""

from __future__ import annotations

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


def test_an_error_of_the_program_keeps_its_traceback():
    @command
    def main() -> None:
        raise PermissionError("no file is named")

    with pytest.raises(PermissionError):
        main()

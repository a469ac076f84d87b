"""Command lines whose mistakes are named in one line, with the nearest flag."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path
from typing import NoReturn

from utils.base.errors import UserError
from utils.base.paths import project_path


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError where argparse would print its usage; flags are spelt out."""

    def __init__(self, **settings) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def add_data_root(self, name: str) -> None:
        """Add --data_root, the data folder (default: the project's), also as --`name`; `name` is the attribute."""
        self.add_argument(
            "--data_root", f"--{name}", dest=name, type=Path, default=project_path("data"), metavar="DIR",
            help="the data folder (default: %(default)s)",
        )  # fmt: skip

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()
        if unknown != message.split() and unknown[0].startswith("-"):
            flags = [flag for action in self._actions for flag in action.option_strings]
            close = difflib.get_close_matches(unknown[0], flags, n=1)
            message = f"unknown flag {unknown[0]}" + (f"; did you mean {close[0]}?" if close else "")
        command = self.prog if self.prog.startswith("python") else f"python {self.prog}"
        raise UserError(f"{message} (all flags: {command} --help)")

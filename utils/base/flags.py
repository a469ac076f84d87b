"""Command lines whose mistakes are named in one line, with the nearest flag."""

from __future__ import annotations

import argparse
import difflib
from typing import NoReturn

from utils.base.errors import UserError


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError where argparse would print its usage; flags are spelt out."""

    def __init__(self, **settings) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()
        if unknown != message.split() and unknown[0].startswith("-"):
            flags = [flag for action in self._actions for flag in action.option_strings]
            close = difflib.get_close_matches(unknown[0], flags, n=1)
            message = f"unknown flag {unknown[0]}" + (f"; did you mean {close[0]}?" if close else "")
        command = self.prog if self.prog.startswith("python") else f"python {self.prog}"
        raise UserError(f"{message} (all flags: {command} --help)")

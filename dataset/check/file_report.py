"""What the check of a data folder finds out about one file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from utils.base.errors import UserError


@dataclass
class FileReport:
    """What is known of one file of a data folder.

    `key`, `shape` and `dtype` are None where the file can't be used; `finite` is None until its values were read
    (checking a folder reads the small files only). `sizes` are what it counts as other files do, such as "clips". A
    problem keeps a training from starting, a note doesn't; each is one line with the fix in it.
    """

    path: Path
    present: bool
    key: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    finite: bool | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def noting_errors(self) -> Iterator[None]:
        """Add a UserError within the block to the problems."""
        try:
            yield
        except UserError as error:
            self.problems.append(str(error))

    def problem(self, text: str) -> None:
        """Add a problem; the file's path is put before it."""
        self.problems.append(f"{self.path}: {text}")

    def note(self, text: str) -> None:
        """Add a note; the file's path is put before it."""
        self.notes.append(f"{self.path}: {text}")

"""What the check of a data folder finds out about one file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class FileReport:
    """What is known of one file of a data folder.

    `key`, `shape` and `dtype` are None where the file can't be used; `finite` is None until its values were read
    (checking a folder reads the small files only). A problem keeps a training from starting, a note doesn't; each is
    one line with the fix in it.
    """

    path: Path
    present: bool
    key: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    finite: bool | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def problem(self, text: str) -> None:
        """Add a problem; the file's path is put before it."""
        self.problems.append(f"{self.path}: {text}")

    def note(self, text: str) -> None:
        """Add a note; the file's path is put before it."""
        self.notes.append(f"{self.path}: {text}")

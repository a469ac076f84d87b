"""Before a command imports anything large: are Python and the packages there?

The packages are those of `requirements.txt`. `utils/env.sh` asks here too.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from utils.base.errors import EXIT_USER_ERROR
from utils.base.interrupts import is_command

_ROOT = Path(__file__).resolve().parents[2]
_PYTHON = (3, 11)
# Other versions than the pinned ones may be installed, but not older ones than these.
_OLDEST = {"torch": (2, 11), "scipy": (1, 15)}


def require_packages() -> None:
    """End a command of this project, in one line, where Python is too old or packages are missing.

    Importing the modules into other programs is left alone.
    """
    if sys.version_info >= _PYTHON and not is_command():
        return
    found = problem([_ROOT / "requirements.txt"])
    if found:
        print(
            f"error: {sys.executable} {found}; activate the project's environment (`source .venv/bin/activate`, which "
            f"the .sh scripts make) or run `pip install -r requirements.txt`",
            file=sys.stderr,
        )
        sys.exit(EXIT_USER_ERROR)


def problem(files: Iterable[str | os.PathLike]) -> str | None:
    """What this Python lacks of its version and the packages that requirements files name; None if nothing."""
    if sys.version_info < _PYTHON:
        return "is Python {}.{}, but {}.{} is the oldest that works".format(*sys.version_info[:2], *_PYTHON)
    lacking = []
    for file in files:
        for name in re.findall(r"^[A-Za-z0-9][A-Za-z0-9_.-]*", Path(file).read_text(encoding="utf-8"), re.MULTILINE):
            oldest = _OLDEST.get(name, (0, 0))
            try:
                version = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                lacking.append(name)
            else:
                if tuple(int(part) for part in version.split(".")[:2]) < oldest:
                    lacking.append(f"{name} >= {oldest[0]}.{oldest[1]}")
    return f"lacks the packages {', '.join(lacking)}" if lacking else None

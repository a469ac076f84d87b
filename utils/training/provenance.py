"""How a run was made: `run.json` of its folder, from which its result can be had again.

`run.json` holds "data" (see `dataset.fingerprint`) and "starts", one entry for each time that the run was
started or gone on with: when, the command line and its folder, device, package versions, git commit.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from utils.base.errors import UserError
from utils.base.text import read_json

FILE = "run.json"


def read(folder: Path) -> dict[str, Any]:
    """`run.json` of a run folder. Raises UserError when it is damaged; it is {} when there is none."""
    path = folder / FILE
    if not os.path.lexists(path):  # a link to nowhere is refused, not taken for no file
        return {}
    content = read_json(path)
    content = content if isinstance(content, dict) else {}
    starts = content.get("starts")
    if (
        not isinstance(content.get("data"), dict)
        or not isinstance(starts, list)
        or not all(isinstance(start, dict) for start in starts)
    ):
        raise UserError(f"{path}: is damaged; move it away, it is written anew when the run goes on")
    return content

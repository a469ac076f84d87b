"""The page that plays videos with their timelines: one HTML file, nothing fetched but the videos themselves."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dataset.extract.find import as_text
from utils.base.atomic import make_folder, write_text

_TEMPLATE = Path(__file__).with_name("page.html")
_PLACEHOLDER = "/* timelines */ []"


def write_page(path: Path, timelines: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    """Write the page for (video file, its timeline as JSON); it finds the videos relative to itself.

    Raises UserError when it can't be written.
    """
    folder = make_folder(path.absolute().parent)
    entries = [
        {**timeline, "source": _link(video, folder), "name": as_text(video.name)} for video, timeline in timelines
    ]
    # Within a script element only "</" and "<!--" end or change anything, so no "<" is left as it is.
    data = json.dumps(entries, ensure_ascii=False).replace("<", "\\u003c")
    write_text(path, _TEMPLATE.read_text(encoding="utf-8").replace(_PLACEHOLDER, data))


def _link(video: Path, folder: Path) -> str:
    """A relative link to `video`, or, from another drive, an absolute one."""
    try:
        return quote(os.fsencode(Path(os.path.relpath(video.absolute(), folder)).as_posix()))
    except ValueError:
        return video.absolute().as_uri()

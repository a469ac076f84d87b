"""Which files are videos, and what each is called."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from utils.base.errors import UserError
from utils.base.text import require_file

# Endings of videos that FFmpeg opens, in any case; a file that is named itself may have any other.
ENDINGS = (
    *(".3g2", ".3gp", ".amv", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".m1v", ".m2ts", ".m2v", ".m4v", ".mkv"),
    *(".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts"),
    *(".vob", ".webm", ".wmv"),
)
_HIDDEN = "hidden files, such as the ._* of macOS"


def find_videos(sources: Sequence[Path]) -> dict[str, Path]:
    """Videos by id (their name without its ending), in the order given; a folder stands for all videos in it, sorted.

    Says, in a line for each folder, what is passed over there. Raises UserError for a path that isn't there, a folder
    without videos, and two videos of one name.
    """
    found: dict[str, Path] = {}
    for source in sources:
        paths = [source]
        if source.is_dir():
            passed_over: Counter[str] = Counter()
            paths = sorted(_videos_in(source, passed_over))
            if passed_over:
                listed = "; ".join(f"{count} {what}" for what, count in sorted(passed_over.items()))
                print(f"{source}: passed over {listed}")
            if not paths:
                raise UserError(f"{source}: holds no video ({', '.join(ENDINGS)})")
        else:
            require_file(source, "video or folder")
        for path in paths:
            id = as_text(path.stem)
            other = found.setdefault(id, path)
            if other.resolve() != path.resolve():
                raise UserError(f"{other} and {path} have the same name {id!r}, which names a clip; rename one")
    return found


def as_text(path: str | os.PathLike) -> str:
    """A path as text that can be written to any file: bytes of its name that aren't UTF-8 become `\\xe9`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _videos_in(root: Path, passed_over: Counter[str]) -> Iterator[Path]:
    """The videos of a folder and all folders in it; what else is there is counted in `passed_over`, by kind."""
    entered = {root.resolve()}

    def refused(error: OSError) -> None:
        passed_over[f"folders that cannot be read ({error.strerror})"] += 1

    for folder, subfolders, names in os.walk(root, onerror=refused, followlinks=True):
        visible = []
        for name in subfolders:
            real = Path(folder, name).resolve()
            if name.startswith("."):
                passed_over["hidden folders"] += 1
            elif real in entered:  # by a link
                passed_over["links to folders that are read already"] += 1
            else:
                entered.add(real)
                visible.append(name)
        subfolders[:] = visible
        for name in names:
            path = Path(folder, name)
            if name.startswith("."):
                passed_over[_HIDDEN] += 1
            elif path.suffix.lower() not in ENDINGS:
                passed_over[f"files without a video's ending ({path.suffix.lower() or 'none'})"] += 1
            elif not path.is_file():
                passed_over["links, pipes or devices in the place of a video"] += 1
            else:
                yield path

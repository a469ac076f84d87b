"""Are all clips of AVE's official splits there? A result on fewer of them can't be compared with published ones.

Videos vanish from YouTube, so a data folder that is made from the videos today has fewer clips. A folder counts as AVE
by the names of its categories and YouTube's ids; other data sets and generated clips are left alone.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from dataset import files, labels
from dataset.arrays import read_order

CLIPS = {"train": 3339, "val": 402, "test": 402}  # of AVE's official splits
_CATEGORIES = "4e6703198e014b45003b71e9f3c45b2b24078a5a4831796c9102db822a01fc6a"  # see _digest
_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")


def is_ave(root: str | os.PathLike) -> bool:
    """Whether a data folder holds clips of AVE, all of them or only some.

    False without `Annotations.txt`, since nothing else tells. Raises UserError where this file can't be read.
    """
    path = Path(root) / files.ANNOTATIONS
    if not path.exists() or (path.parent / files.GENERATED).exists():
        return False
    annotations = labels.read_annotations(path)
    same_names = _digest(annotation.category for annotation in annotations) == _CATEGORIES
    return same_names and all(_YOUTUBE_ID.fullmatch(annotation.id) for annotation in annotations)


def fewer_clips(root: str | os.PathLike, splits: Iterable[str]) -> str | None:
    """A warning where a folder of AVE has fewer clips in some splits than the official ones; else None.

    Raises UserError where `Annotations.txt` or an order file can't be read.
    """
    if not is_ave(root):
        return None
    there = {split: len(read_order(root, split)) for split in splits}
    fewer = [
        f"{n} of the {CLIPS[split]} clips of AVE's {split} split" for split, n in there.items() if n < CLIPS[split]
    ]
    if not fewer:
        return None
    return f"{root}: has only {', '.join(fewer)}; results on fewer clips can't be compared with published ones"


def _digest(names: Iterable[str]) -> str:
    """SHA-256 of the different names, sorted, with a line break between two."""
    return hashlib.sha256("\n".join(sorted(set(names))).encode()).hexdigest()

"""Unpack the archive of AVE's raw videos."""

from __future__ import annotations

import shutil
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from utils.base.atomic import inside, make_folder, private_folder, require_free_space, writing
from utils.base.errors import UserError


def unpack_videos(path: Path, folder: Path) -> None:
    """Write every .mp4 file of the archive `path` into the new folder `folder`, whatever folder it is in there.

    The folder appears when it is whole; a killed run starts again. Raises UserError when the archive holds no video,
    or two of one name, or the disk has no room.
    """
    with zipfile.ZipFile(path) as archive:
        names = {member: PurePosixPath(member.filename).name for member in archive.infolist()}
        # macOS keeps a file ._NAME beside each.
        members = [m for m, name in names.items() if name.lower().endswith(".mp4") and not name.startswith(".")]
        if not members:
            raise UserError(f"{path}: holds no .mp4 file; remove it and fetch it again")
        counts = Counter(names[member] for member in members)
        if len(counts) < len(members):
            twice = counts.most_common(1)[0][0]
            raise UserError(f"{path}: holds several files named {twice}; unpack it by hand into {folder}")
        require_free_space(folder.parent, sum(member.file_size for member in members))
        with writing(folder), private_folder(folder) as private:
            part = make_folder(private / folder.name)
            for member in tqdm(members, desc=f"unpacking {path}", unit="video", disable=None):
                # The bare name: an archive can't write outside the folder.
                target = inside(part, names[member])
                with archive.open(member) as packed, open(target, "wb") as video:
                    shutil.copyfileobj(packed, video, 2**20)
            part.rename(folder)

"""Unpack the archive of AVE's raw videos."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from utils.base.atomic import inside, make_folder, private_folder, require_free_space, writing
from utils.base.errors import UserError


def unpack_videos(path: Path, folder: Path) -> None:
    """Write every .mp4 file of the archive `path` into the new folder `folder`, whatever folder it is in there.

    The folder appears when it is whole; a killed run starts again. Raises UserError when the archive holds
    no video or the disk has no room.
    """
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if PurePosixPath(member.filename).suffix.lower() == ".mp4"]
        if not members:
            raise UserError(f"{path}: holds no .mp4 file; remove it and fetch it again")
        require_free_space(folder.parent, sum(member.file_size for member in members))
        with writing(folder), private_folder(folder) as private:
            part = make_folder(private / folder.name)
            for member in tqdm(members, desc=f"unpacking {path}", unit="video", disable=None):
                # The bare name: an archive can't write outside the folder.
                target = inside(part, PurePosixPath(member.filename).name)
                with archive.open(member) as packed, open(target, "wb") as video:
                    shutil.copyfileobj(packed, video, 2**20)
            part.rename(folder)

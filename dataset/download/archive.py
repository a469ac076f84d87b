"""Unpack the archive of AVE's raw videos."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from utils.base.atomic import make_folder, require_free_space
from utils.base.errors import UserError, write_error


def unpack_videos(path: Path, folder: Path) -> None:
    """Write every .mp4 file of the archive `path` into the new folder `folder`, whatever folder it is in there.

    The folder appears when it is whole; a killed run starts again. Raises UserError when the archive holds
    no video or the disk has no room.
    """
    part = path.parent / f"{folder.name}.part"
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if PurePosixPath(member.filename).suffix.lower() == ".mp4"]
        if not members:
            raise UserError(f"{path}: holds no .mp4 file; remove it and fetch it again")
        shutil.rmtree(part, ignore_errors=True)
        make_folder(part)
        require_free_space(part, sum(member.file_size for member in members))
        try:
            for member in tqdm(members, desc=f"unpacking {path}", unit="video", disable=None):
                # The bare name: an archive can't write outside the folder.
                with (
                    archive.open(member) as packed,
                    open(part / PurePosixPath(member.filename).name, "wb") as video,
                ):
                    shutil.copyfileobj(packed, video, 2**20)
            part.rename(folder)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            raise write_error(folder, error) from error

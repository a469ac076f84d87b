"""Where the AVE files are published, and what each of them must be. `data/README.md` lists them for people."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from dataset import files
from utils.base.paths import project_path

_GITHUB = "https://raw.githubusercontent.com/YapengTian/AVE-ECCV18/master/data/"
_DRIVE = "https://drive.google.com/uc?id="


class Source(NamedTuple):
    """A published file.

    Attributes:
        name: of the file.
        url: its address, which a browser can open too.
        size: in bytes, to ask for free space before anything is fetched; about, and 0 when not known (the
            server says it when the transfer starts).
        blob: git blob id of the content (`git hash-object FILE`), where the publisher's is known.
        folder: of the project where it goes, when that isn't the data folder.
    """

    name: str
    url: str
    size: int
    blob: str | None = None
    folder: Path | None = None

    @property
    def is_archive(self) -> bool:
        """Whether this is the archive of raw videos, which is unpacked."""
        return self.name.endswith(".zip")

    def path_in(self, to: str | os.PathLike) -> Path:
        """Where the file, or the archive's content, ends up when the data folder is `to`."""
        if self.is_archive:
            return Path(to) / files.VIDEOS
        return (project_path(self.folder) if self.folder else Path(to)) / self.name


SUPERVISED = (
    Source(files.ANNOTATIONS, _GITHUB + files.ANNOTATIONS, 144_287, "2386789bec3a9f5a3e64608456b88577d020cf3a"),
    Source("train_order.h5", _GITHUB + "train_order.h5", 28_856, "8df32a923a3c86f44366ecff2399c5921149a244"),
    Source("val_order.h5", _GITHUB + "val_order.h5", 5_360, "c7f94d55eaf0c0fdbae258c82a85a5cdadba674e"),
    Source("test_order.h5", _GITHUB + "test_order.h5", 5_360, "d9d68256aab78be560dbc7a5249fd87358db3253"),
    Source(files.LABELS, _GITHUB + files.LABELS, 9_613_808, "f2f7c5d026999ecce5ce0dbe5cc9c6731c2ecd27"),
    Source(files.AUDIO, _DRIVE + "1F6p4BAOY-i0fDXUOhG7xHuw_fnO5exBS", 42_426_368),
    Source(files.VISUAL, _DRIVE + "1hQwbhutA3fQturduRnHMyfRqdrRHgmC9", 8_315_168_768),
)
WEAK = (
    Source(files.CLIP_LABELS, _GITHUB + files.CLIP_LABELS, 482_732, "1c01d595086431a3af582ded487b03963851c270"),
    Source(files.NOISY_LABELS, _GITHUB + files.NOISY_LABELS, 22_792, "6b04648efe0ca479e672b9a67808c631905aaef4"),
    Source(files.NOISY_AUDIO, _GITHUB + files.NOISY_AUDIO, 1_824_864, "d169ee39b5a0cad6ede87753e0c41da82d8d9d23"),
    Source(files.NOISY_VISUAL, _DRIVE + "1I3OtOHJ8G1-v5G2dHIGCfevHQPn-QyLh", 357_255_168),
)
# Where the test scripts look; float64, so 8 bytes a parameter.
CHECKPOINTS = (
    Source(
        "Supervised_model.pth.tar",
        _DRIVE + "1crF9vKpdi3Ec_Zkagz7rJB_yVHYnxpJE",
        108_000_000,
        folder=Path("Exps/Supv/exp1"),
    ),
    Source(
        "WeaklySupervised_model.pth.tar",
        _DRIVE + "100cp82dIrJLuqqEvV-9dbxyTQpWkY-3c",
        118_000_000,
        folder=Path("Exps/WeaklySupv/exp1"),
    ),
)
RAW_VIDEOS = (Source("AVE_Dataset.zip", _DRIVE + "1FjKwe79e0u96vdjIVwfRQ1V6SoDHe7kK", 0),)

"""Data sets of a file a clip, in the forms in which the field has them, made of the clips of a data folder.

    python tests/made_clips.py FOLDER CLIPS T H W D

makes one in AVE-PM's form of any size, to measure `dataset.ingest` on: each clip's file is a link to one and the same.
"""

from __future__ import annotations

import csv
import io
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from dataset import files, labels
from dataset.arrays import array_file, read_order


class MadeClip(NamedTuple):
    """A clip of a data folder: features, its category's index, its event's segments, its split."""

    id: str
    split: str
    category: int
    start: int
    end: int
    visual: np.ndarray
    audio: np.ndarray


def clips_of(root: Path) -> list[MadeClip]:
    """The clips of a data folder by split, in the splits' order; each has an id of its own."""
    annotations = labels.read_annotations(root / files.ANNOTATIONS)
    index = {name: i for i, name in enumerate(labels.category_names(root))}
    visual, audio = (array_file(root / name).read() for name in (files.VISUAL, files.AUDIO))
    return [
        MadeClip(f"clip{row}_000", split, index[line.category], line.start, line.end, visual[row], audio[row])
        for split in files.SPLITS
        for row in read_order(root, split)
        for line in [annotations[row]]
    ]


def pickled(value: Any, protocol: int = 4, old_numpy: bool = True) -> bytes:
    """A pickle as NumPy 1, with which these data sets were made, wrote it; or as the NumPy here does."""
    content = pickle.dumps(value, protocol)
    if not old_numpy:
        return content
    if protocol < 4:
        return content.replace(b"cnumpy._core.", b"cnumpy.core.")
    # A name of another length changes that of its frame: of each frame, the next that begins later ends it.
    new = re.sub(rb"\x8c(.)numpy\._core\.", lambda m: b"\x8c" + bytes([m[1][0] - 1]) + b"numpy.core.", content)
    shorter = len(content) - len(new)
    assert content[2:3] == pickle.FRAME
    first = int.from_bytes(content[3:11], "little")
    assert content[11 : 11 + first].count(b"numpy._core.") == shorter, "all names stand in the first frame"
    return new[:3] + (first - shorter).to_bytes(8, "little") + new[11:]


def zipped(content: bytes, name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, content)
    return buffer.getvalue()


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def event_of(clip: MadeClip) -> np.ndarray:
    """[T] 0 and 1."""
    event = np.zeros(len(clip.visual), np.int64)
    event[clip.start : clip.end] = 1
    return event


def write_ave_pm(folder: Path, clips: Sequence[MadeClip], names: Sequence[str]) -> list[str]:
    """`train.csv`, ..., `class_name_mapping.csv`, and a pickle a clip; returns the flags that name them."""
    (folder / "features").mkdir(parents=True)
    for split in files.SPLITS:
        rows = [(clip.id, clip.start, clip.end, clip.category) for clip in clips if clip.split == split]
        write_csv(folder / f"{split}.csv", ("sample_id", "onset", "offset", "label"), rows)
    mapping = list(enumerate(names))[::-1]  # numbered by id, whatever their order
    write_csv(folder / "class_name_mapping.csv", ("class_id", "class_name"), mapping)
    for number, clip in enumerate(clips):
        onehot = np.zeros((len(clip.visual), len(names)), np.float32)
        onehot[:, clip.category] = event_of(clip)
        visual = clip.visual if number % 2 else np.ascontiguousarray(clip.visual.transpose(0, 3, 1, 2))
        content = {"video_features": visual, "audio_features": clip.audio, "onehot_labels": onehot}
        (folder / "features" / f"{clip.id}.pkl").write_bytes(pickled(content))
    return flags("ave-pm", table=folder, names=folder / "class_name_mapping.csv", features=folder / "features")


def write_vggsound_avel(folder: Path, clips: Sequence[MadeClip], names: Sequence[str]) -> list[str]:
    """A table, a list of names, and three folders of zips with a pickle in each; returns the flags that name them."""
    for kind in ("visual", "audio", "labels"):
        (folder / kind).mkdir(parents=True)
    rows = [(names[clip.category], clip.id, 7, clip.split) for clip in clips]
    write_csv(folder / "table.csv", ("category", "video_id", "start", "split"), rows)
    (folder / "names.txt").write_text("\n".join(names) + "\n")
    for number, clip in enumerate(clips):
        visual = clip.visual if number % 2 else np.ascontiguousarray(clip.visual.transpose(0, 3, 1, 2))
        for kind, array in (("visual", visual), ("audio", clip.audio), ("labels", event_of(clip)[None])):
            (folder / kind / f"{clip.id}.zip").write_bytes(zipped(pickled(array), f"{clip.id}.pkl"))
    folders = {kind: folder / kind for kind in ("visual", "audio", "labels")}
    return flags("vggsound-avel", table=folder / "table.csv", names=folder / "names.txt", **folders)


def flags(preset: str | None = None, **paths: object) -> list[str]:
    """A command line: --preset PRESET --NAME PATH ..."""
    given = {"preset": preset, **paths} if preset else paths
    return [str(word) for name, value in given.items() for word in (f"--{name}", value)]


def _savez(path: Path, array: np.ndarray) -> None:
    np.savez_compressed(path, features=array)


WRITERS: dict[str, Callable[[Path, np.ndarray], object]] = {
    ".npy": np.save,
    ".npz": _savez,
    ".pkl": lambda path, array: path.write_bytes(pickled(array, protocol=2)),
    ".zip": lambda path, array: path.write_bytes(zipped(pickled(array, 5, old_numpy=False), "x.pkl")),
    ".pt": lambda path, array: torch.save(torch.from_numpy(np.ascontiguousarray(array)), path),
}


def write_general(folder: Path, clips: Sequence[MadeClip], names: Sequence[str], ending: str = ".npy") -> list[str]:
    """A table with times and a folder each of visual and audio files; returns the flags that name them."""
    for kind in ("visual", "audio"):
        (folder / kind).mkdir(parents=True)
    rows = [(clip.id, names[clip.category], clip.split, clip.start, clip.end) for clip in clips]
    write_csv(folder / "table.csv", ("id", "category", "split", "from", "to"), rows)
    for clip in clips:
        for kind in ("visual", "audio"):
            WRITERS[ending](folder / kind / f"{clip.id}{ending}", getattr(clip, kind))
    return flags(table=folder / "table.csv", visual=folder / "visual", audio=folder / "audio", start="from", end="to")


def write_large(folder: Path, clips: int, shape: tuple[int, ...]) -> None:
    """A data set in AVE-PM's form whose clips are all the same, of 86 categories."""
    random = np.random.default_rng(0)
    visual, audio = (random.random(size).astype(np.float16) for size in (shape, (shape[0], 128)))
    clip = MadeClip("first", "train", 0, 2, 7, visual, audio)
    write_ave_pm(folder, [clip], [f"category {i}" for i in range(86)])
    for number, split in enumerate(files.SPLITS):
        ids = range(number, clips, len(files.SPLITS))
        for i in ids:
            (folder / "features" / f"{i}.pkl").symlink_to("first.pkl")
        header = ("sample_id", "onset", "offset", "label")
        write_csv(folder / f"{split}.csv", header, [(i, 2.2, 6.8, i % 86) for i in ids])


if __name__ == "__main__":
    write_large(Path(sys.argv[1]), int(sys.argv[2]), tuple(map(int, sys.argv[3:])))

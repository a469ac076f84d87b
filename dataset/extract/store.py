"""The features of clips made so far, a file each, so that an interrupted extraction goes on where it was."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataset.extract.features import Features
from utils.base.atomic import atomic_path, inside


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How features are made: segments a clip and the weights of the two networks (see `FeatureExtractor`)."""

    seconds: int
    vgg19: str
    vggish: str


class ClipStore:
    """The features of clips made so far, a file each; written whole or not at all."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.recipe = folder, recipe

    def holds(self, id: str, video: Path) -> bool:
        """Whether this clip was made from this very video in this very way."""
        try:
            with np.load(self._path(id)) as stored:
                return str(stored["origin"]) == self._origin(video)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return False

    def save(self, id: str, video: Path, features: Features, notes: Sequence[str]) -> None:
        """Keep a clip's features. Raises UserError when the disk is full or the folder can't be written."""
        with atomic_path(self._path(id)) as part, open(part, "wb") as file:
            np.savez(file, **features._asdict(), notes=np.array(list(notes), str), origin=np.array(self._origin(video)))

    def load(self, id: str) -> Features:
        with np.load(self._path(id)) as stored:
            return Features(stored["visual"], stored["audio"])

    def notes(self, id: str) -> list[str]:
        """What was unusual about the clip's video."""
        with np.load(self._path(id)) as stored:
            return stored["notes"].tolist()

    def _path(self, id: str) -> Path:
        return inside(self.folder, f"{id}.npz")

    def _origin(self, video: Path) -> str:
        state = video.stat()
        return json.dumps([video.name, state.st_size, state.st_mtime_ns, *dataclasses.astuple(self.recipe)])

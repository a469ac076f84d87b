"""The features of clips made so far, a file each, so that an interrupted extraction goes on where it was."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset.extract import decoding
from dataset.extract.features import Features, Recipe
from utils.base.atomic import atomic_path, inside


class ClipStore:
    """The features of clips made so far, a file each; written whole or not at all.

    Args:
        folder: of the files. seconds: of a clip. recipe: how their features are made.
    """

    def __init__(self, folder: Path, seconds: int, recipe: Recipe) -> None:
        self.folder, self.seconds, self.recipe = folder, seconds, recipe
        self._made_so = [seconds, *dataclasses.astuple(recipe), decoding.made_with()]

    def holds(self, id: str, video: Path) -> bool:
        """Whether the stored clip was made from this video, unchanged since, with this recipe and these packages."""
        path = self._path(id)
        try:
            if not path.is_file():  # a pipe would be waited for
                return False
            with np.load(path) as stored:
                return str(stored["origin"]) == self._origin(video)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return False

    def save(
        self, id: str, video: Path, features: Features, notes: Sequence[str], made_with: Mapping[str, Any]
    ) -> None:
        """Keep a clip's features. Raises UserError when the disk is full or the folder can't be written."""
        texts = {"notes": list(notes), "origin": self._origin(video), "made_with": json.dumps(made_with)}
        with atomic_path(self._path(id)) as part, open(part, "wb") as file:
            np.savez(file, **features._asdict(), **{name: np.array(text, str) for name, text in texts.items()})

    def load(self, id: str) -> Features:
        with np.load(self._path(id)) as stored:
            return Features(stored["visual"], stored["audio"])

    def notes(self, id: str) -> list[str]:
        """What was unusual about the clip's video."""
        with np.load(self._path(id)) as stored:
            return stored["notes"].tolist()

    def made_with(self, id: str) -> dict[str, Any]:
        """What made the clip's features (see `dataset.made_with`)."""
        with np.load(self._path(id)) as stored:
            return json.loads(str(stored["made_with"]))

    def _path(self, id: str) -> Path:
        return inside(self.folder, f"{id}.npz")

    def _origin(self, video: Path) -> str:
        state = video.stat()
        return json.dumps([video.name, state.st_size, state.st_mtime_ns, *self._made_so])

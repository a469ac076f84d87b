"""The features of clips made so far, a file each, so that an interrupted extraction goes on where it was."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset.extract import decoding
from dataset.extract.features import Features, Recipe
from utils.base.atomic import atomic_path, inside
from utils.base.errors import UserError


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
        except Exception:  # a damaged file makes NumPy's and Python's readers fail in any way
            return False

    def save(
        self, id: str, video: Path, features: Features, notes: Sequence[str], made_with: Mapping[str, Any]
    ) -> None:
        """Keep a clip's features. Raises UserError when the disk is full or the folder can't be written."""
        texts = {"notes": list(notes), "origin": self._origin(video), "made_with": json.dumps(made_with)}
        with atomic_path(self._path(id)) as part, open(part, "wb") as file:
            np.savez(file, **features._asdict(), **{name: np.array(text, str) for name, text in texts.items()})

    def load(self, id: str) -> Features:
        with self._reading(id) as stored:
            return Features(stored["visual"], stored["audio"])

    def notes(self, id: str) -> list[str]:
        """What was unusual about the clip's video."""
        with self._reading(id) as stored:
            return stored["notes"].tolist()

    def made_with(self, id: str) -> dict[str, Any]:
        """What made the clip's features (see `dataset.made_with`)."""
        with self._reading(id) as stored:
            return json.loads(str(stored["made_with"]))

    @contextlib.contextmanager
    def _reading(self, id: str) -> Iterator[Mapping[str, np.ndarray]]:
        """A clip's file for the block. Raises UserError where it is damaged: `holds` reads a part of it."""
        try:
            with np.load(self._path(id)) as stored:
                yield stored
        except OSError:
            raise
        except Exception as error:  # as in `holds`
            raise UserError(f"{self._path(id)}: is damaged; remove it, and the same command makes it again") from error

    def _path(self, id: str) -> Path:
        return inside(self.folder, f"{id}.npz")

    def _origin(self, video: Path) -> str:
        state = video.stat()
        return json.dumps([video.name, state.st_size, state.st_mtime_ns, *self._made_so])

"""What made the features of a data folder: `features.json` beside them, which the checkpoints trained on them carry.

`dataset.extract` writes it. Folders without it, AVE's own among them, work as they are.

{
 "visual": {"backbone": "vgg19", "layer": ..., "sha256": of its weights, "transform": ..., "package": ...,
            "grid": [h, w, D], "frames_a_second": 16, "precision": "float32"},
 "audio": {"network": "vggish", "sha256": ..., "final_relu": true, "pca": false, "quantized_to_8_bits": false,
           "hop_seconds": 0.96},
 "decoder": {"pyav": ..., "ffmpeg": ...}
}
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataset import files
from utils.base import nested
from utils.base.atomic import write_text
from utils.base.errors import UserError
from utils.base.text import read_lines

_PARTS = ("visual", "audio", "decoder")
# What may differ between features that a network can still read: a difference in the last digits.
_LAST_DIGITS = ("visual.precision", "visual.package", "decoder.pyav", "decoder.ffmpeg")

MadeWith = dict[str, dict[str, Any]]


def read(root: str | os.PathLike) -> MadeWith | None:
    """What a data folder says made its features; None where it doesn't. Raises UserError for a damaged file."""
    path = Path(root) / files.MADE_WITH
    if not path.exists():
        return None
    try:
        content = json.loads("\n".join(read_lines(path)))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: is no JSON ({error}); remove it, or make the features again") from None
    if not isinstance(content, dict) or not all(isinstance(content.get(part, {}), dict) for part in _PARTS):
        raise UserError(f"{path}: must hold objects named {', '.join(_PARTS)}; remove it, or make the features again")
    grid = content.get("visual", {}).get("grid", [1])
    if not isinstance(grid, list) or not all(isinstance(size, int) and size > 0 for size in grid):
        raise UserError(f"{path}: visual.grid must be numbers such as [7, 7, 512], not {grid!r}; correct or remove it")
    return content


def write(root: Path, made_with: Mapping[str, Any]) -> None:
    """Say what made the features of the data folder `root`."""
    write_text(root / files.MADE_WITH, json.dumps(made_with, indent=1) + "\n")


def differences(trained: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """How the features that a network learned from and other features were made differently.

    Returns what makes them other features, and what changes their last digits only; what only one of
    them says is no difference.
    """
    others: list[str] = []
    last_digits: list[str] = []
    for what, there, here in nested.differences(trained, now):
        if there is not None and here is not None:
            kind = last_digits if what in _LAST_DIGITS else others
            kind.append(f"{what} was {_short(there)} and is {_short(here)}")
    return others, last_digits


def in_words(made_with: Mapping[str, Any]) -> str:
    """What made the features, as one line."""
    return "; ".join(
        f"{part}: " + ", ".join(f"{key} {_short(value)}" for key, value in made_with[part].items())
        for part in _PARTS
        if part in made_with
    )


def _short(value: Any) -> str:
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else str(value)


def kind_of_vggish(least: float, most: float, whole: bool) -> str:
    """Which kind of VGGish features these are, by their values.

    Args:
        least, most: over all of them. whole: whether all are whole numbers.
    """
    if whole and least >= 0 and 2 < most <= 255:
        return "8-bit numbers after PCA, as AudioSet's"
    if least >= 0:
        return "after the final ReLU, without PCA or rounding to 8 bits, as AVE's own"
    if least >= -2 and most <= 2:
        return "after PCA, cut off at -2 and 2"
    return "before the final ReLU, or after PCA without cutting off"

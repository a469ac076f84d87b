"""What an evaluation leaves in its folder: `metrics.json` and `predictions.jsonl`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dataset.labels import ClipNames
from utils.atomic import make_folder, write_text
from utils.engine import Evaluation

METRICS = "metrics.json"
PREDICTIONS = "predictions.jsonl"


def write(folder: Path, metrics: dict[str, Any], result: Evaluation, rows: np.ndarray, names: ClipNames) -> None:
    """Write an evaluation's files, each whole or not at all.

    Args:
        metrics: at least "accuracy" in percent, "clips" and "segments".
        rows: [n] row of each clip in the feature file.
        names: of the categories, and the clips' ids where there are any.

    A line of `predictions.jsonl` is a clip: `index` (its row in the feature file), `id` (or null), `prediction`
    and `target` (T category indices, C = background), `event_probability` (T numbers), `category` (its name).
    """
    make_folder(folder)
    write_text(folder / PREDICTIONS, "".join(json.dumps(line) + "\n" for line in _lines(result, rows, names)))
    write_text(folder / METRICS, json.dumps(metrics, indent=2) + "\n")


def _lines(result: Evaluation, rows: np.ndarray, names: ClipNames) -> list[dict[str, Any]]:
    categories = [*names.categories, "background"]
    columns = zip(
        rows.tolist(),
        result.segments.tolist(),
        result.target.tolist(),
        result.event_probability.tolist(),
        result.category.tolist(),
        strict=True,
    )
    return [
        {
            "index": row,
            "id": names.ids[row] if names.ids else None,
            "prediction": prediction,
            "target": target,
            "event_probability": [round(p, 6) for p in probability],
            "category": categories[category],
        }
        for row, prediction, target, probability, category in columns
    ]

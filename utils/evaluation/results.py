"""What an evaluation leaves in its folder, in and out: `metrics.json`, `predictions.jsonl` and `attention.npy`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dataset.labels import ClipNames
from utils.base.atomic import atomic_path, make_folder, write_text
from utils.base.errors import UserError
from utils.base.text import read_json
from utils.evaluation.evaluate import Evaluation

METRICS = "metrics.json"
PREDICTIONS = "predictions.jsonl"
ATTENTION = "attention.npy"
REPORT = "report.html"  # made from the others by `utils.report`


def write(folder: Path, metrics: dict[str, Any], result: Evaluation, rows: np.ndarray, names: ClipNames) -> None:
    """Write an evaluation's files, each whole or not at all.

    Args:
        metrics: at least "accuracy" in percent, "clips" and "segments".
        rows: [n] row of each clip in the feature file.
        names: of the categories, and the clips' ids where there are any.

    A line of `predictions.jsonl` is a clip: `index` (its row in the feature file), `id` (or null), `prediction`
    and `target` (T category indices, C = background), `event_probability` (T numbers), `category` (its name),
    and each score of the network by its name (T numbers; of CMBS `gate`, `audio_gate` and `visual_gate`).
    `attention.npy` holds the attention maps, where there are any: [n, T, H, W] float16 in the order of the lines.
    """
    make_folder(folder)
    write_text(folder / PREDICTIONS, "".join(json.dumps(line) + "\n" for line in _lines(result, rows, names)))
    (folder / ATTENTION).unlink(missing_ok=True)  # an earlier evaluation's
    if result.attention is not None:
        with atomic_path(folder / ATTENTION) as part, open(part, "wb") as file:
            np.save(file, result.attention.numpy())
    write_text(folder / METRICS, _readable_json(metrics))


def _lines(result: Evaluation, rows: np.ndarray, names: ClipNames) -> list[dict[str, Any]]:
    categories = [*names.categories, "background"]
    columns = {
        "index": rows.tolist(),
        "id": [names.ids[row] for row in rows] if names.ids else [None] * len(rows),
        "prediction": result.segments.tolist(),
        "target": result.target.tolist(),
        "event_probability": _rounded(result.event_probability),
        "category": [categories[category] for category in result.category.tolist()],
        **{name: _rounded(values) for name, values in result.scores.items()},
    }
    return [dict(zip(columns, line, strict=True)) for line in zip(*columns.values(), strict=True)]


def _rounded(values: Any) -> list[list[float]]:
    return values.double().numpy().round(6).tolist()


def _readable_json(values: dict[str, Any]) -> str:
    """JSON with a line for each key, and for each item of a longer list or object: a matrix keeps its rows."""

    def text(value: Any) -> str:
        if isinstance(value, dict | list) and len(json.dumps(value)) > 100:
            if isinstance(value, dict):
                return "{\n" + ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()) + "\n  }"
            return "[\n" + ",\n".join(f"    {json.dumps(item)}" for item in value) + "\n  ]"
        return json.dumps(value)

    return "{\n" + ",\n".join(f"  {json.dumps(key)}: {text(value)}" for key, value in values.items()) + "\n}\n"


def read_metrics(folder: Path) -> dict[str, Any]:
    """`metrics.json` of an evaluation's folder, whatever it holds. Raises UserError where there is no JSON object."""
    path = folder / METRICS
    metrics = read_json(path, advice=f"{folder} is not an evaluation's folder")
    if not isinstance(metrics, dict):
        raise UserError(f"{path}: is damaged (no JSON object); evaluate again with supv_test.sh or weak_test.sh")
    return metrics

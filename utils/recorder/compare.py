"""What differs between two runs: settings, how they were made, data, and results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from utils.base.errors import UserError
from utils.config import files as config_files
from utils.training.provenance import differences, read


def compare(first: Path, second: Path) -> list[str]:
    """What differs between two runs, a line each: settings, how they were made, data, and results.

    Raises UserError for a folder that holds no run.
    """
    ours, theirs = (_describe(folder) for folder in (first, second))
    lines = []
    for part in ("settings", "start", "data"):
        differing = differences(ours[part], theirs[part])
        lines.append(f"{part}: {'the same' if not differing else ''}".rstrip())
        lines += [f"  {what}: {_short(here)} | {_short(there)}" for what, here, there in differing]
    return lines + _compare_epochs(ours["epochs"], theirs["epochs"])


def _describe(folder: Path) -> dict[str, Any]:
    settings = folder / "config.json"
    if not settings.exists():
        raise UserError(f"{folder}: holds no run (there is no config.json in it)")
    story = read(folder)
    starts = story.get("starts") or [{}]
    start = {key: value for key, value in starts[-1].items() if key != "time"} | {"number of starts": len(starts)}
    config = config_files.build(config_files.read_json(settings), source=str(settings)).model_dump()
    return {"settings": config, "start": start, "data": story.get("data", {}), "epochs": _read_epochs(folder)}


def _read_epochs(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, without what a clock measured."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    try:
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: is damaged ({error})") from error


def _compare_epochs(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[str]:
    pairs = list(zip(ours, theirs, strict=False))
    lines = [f"epochs: {len(ours)} | {len(theirs)}" if len(ours) != len(theirs) else f"epochs: {len(ours)} each"]
    first = next((pair for pair in pairs if pair[0] != pair[1]), None)
    if first is None:
        lines.append(f"numbers: the same, to the last digit, in {len(pairs)} epochs")
    else:
        lines.append(f"numbers: differ from epoch {first[0].get('epoch')} on")
        lines += [f"  {what}: {_short(here)} | {_short(there)}" for what, here, there in differences(*first)]
    for split in ("val", "test"):
        best = [max((e[f"{split}_accuracy"] for e in run if f"{split}_accuracy" in e), default=None)
                for run in (ours, theirs)]  # fmt: skip
        lines.append(f"best {split} accuracy: " + " | ".join("none" if b is None else f"{b:.2f} %" for b in best))
    return lines


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."

"""What differs between two runs: settings, how they were made, data, and results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dataset import fingerprint
from utils.base.nested import differences
from utils.base.text import require_file
from utils.config import files as config_files
from utils.evaluation.protocols import best_epochs, saved_epochs
from utils.training.provenance import read


def compare(first: Path, second: Path) -> list[str]:
    """What differs between two runs, a line each: settings, how they were made, data, and results.

    Raises UserError for a folder that holds no run, or can't be read.
    """
    ours, theirs = (_describe(folder) for folder in (first, second))
    lines = []
    for part in ("settings", "start", "data"):
        differing = (
            fingerprint.differences(ours[part], theirs[part])
            if part == "data"
            else differences(ours[part], theirs[part], " ")
        )
        lines.append(f"{part}: {'the same' if not differing else ''}".rstrip())
        lines += [f"  {what}: {_short(here)} | {_short(there)}" for what, here, there in differing]
    return lines + _compare_epochs(ours["epochs"], theirs["epochs"])


def _describe(folder: Path) -> dict[str, Any]:
    settings = folder / "config.json"
    require_file(settings, advice=f"{folder} holds no run")
    made = read(folder)
    starts = made.get("starts") or [{}]
    start = {key: value for key, value in starts[-1].items() if key != "time"} | {"number of starts": len(starts)}
    config = config_files.read_stored(settings).model_dump()
    return {"settings": config, "start": start, "data": made.get("data", {}), "epochs": saved_epochs(folder)}


def _compare_epochs(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[str]:
    unclocked = ([{k: v for k, v in epoch.items() if k != "seconds"} for epoch in run] for run in (ours, theirs))
    pairs = list(zip(*unclocked, strict=False))
    lines = [f"epochs: {len(ours)} | {len(theirs)}" if len(ours) != len(theirs) else f"epochs: {len(ours)} each"]
    first = next((pair for pair in pairs if pair[0] != pair[1]), None)
    if first is None:
        lines.append(f"numbers: the same, to the last digit, in {len(pairs)} epochs")
    else:
        lines.append(f"numbers: differ from epoch {first[0].get('epoch')} on")
        lines += [f"  {what}: {_short(here)} | {_short(there)}" for what, here, there in differences(*first, " ")]
    best = [best_epochs(run) for run in (ours, theirs)]
    for split in ("val", "test"):
        said = (f"{run[split][f'{split}_accuracy']:.2f} %" if split in run else "none" for run in best)
        lines.append(f"best {split} accuracy: " + " | ".join(said))
    return lines


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."

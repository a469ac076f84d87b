"""Which epoch each protocol chooses: the authors' (best on the test split) and the validation protocol."""

from __future__ import annotations

import json
import operator
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"  # of a run folder: a line an epoch
_CHOSEN = ("epoch", "val_accuracy", "test_accuracy")


def protocols(folder: Path) -> dict[str, dict[str, Any]] | None:
    """What both protocols choose of a run so far, from its `metrics.jsonl`; None where there is nothing to choose from.

    Returns {"authors": ..., "validation": ...}, each the `epoch` chosen (on the test split, on the val split; the
    earlier of equals) and its `val_accuracy` and `test_accuracy` in percent.
    """
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    epochs = [json.loads(line) for line in lines if epoch_of(line) < float("inf")]
    evaluated = [{key: epoch[key] for key in _CHOSEN} for epoch in epochs if all(key in epoch for key in _CHOSEN)]
    if not evaluated:
        return None
    choosers = {"authors": "test_accuracy", "validation": "val_accuracy"}
    return {protocol: max(evaluated, key=operator.itemgetter(key)) for protocol, key in choosers.items()}


def epoch_of(line: str) -> float:
    """The epoch of a line of `metrics.jsonl`; infinite for a line that a kill cut short."""
    try:
        return json.loads(line)["epoch"]
    except (ValueError, KeyError, TypeError):
        return float("inf")

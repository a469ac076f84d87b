"""Evaluations for tests: made-up predictions with every kind of error, and the folder that they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset.labels import ClipNames
from utils.evaluation import metrics, results
from utils.evaluation.evaluate import Evaluation

BACKGROUND = 2  # of `rows`


def rows(*lines: str) -> np.ndarray:
    """Clips as text: a character a segment, 0 and 1 are categories, . is background."""
    return np.array([[BACKGROUND if character == "." else int(character) for character in line] for line in lines])


def made_evaluation(clips: int, categories: int, segments: int = 10, grid: tuple[int, int] = (7, 7)) -> Evaluation:
    """One event a clip, found with noise; some clips have none, and some get another's category."""
    rng = np.random.default_rng(0)
    start = rng.integers(0, segments, clips)
    end = start + rng.integers(0, segments + 1, clips)
    time = np.arange(segments)
    is_event = (time >= start[:, None]) & (time < end[:, None])
    category = rng.integers(0, categories, clips)
    said = np.where(rng.random(clips) < 0.8, category, rng.integers(0, categories, clips))
    probability = np.clip(0.15 + 0.7 * is_event + rng.normal(0, 0.2, is_event.shape), 0.001, 0.999)
    cells = grid[0] * grid[1]
    attention = torch.from_numpy(rng.normal(0, 1, (clips, segments, cells))).softmax(-1).unflatten(2, grid)
    return Evaluation(
        segments=torch.from_numpy(np.where(probability > 0.5, said[:, None], categories)),
        target=torch.from_numpy(np.where(is_event, category[:, None], categories)),
        category=torch.from_numpy(said),
        event_probability=torch.from_numpy(probability).float(),
        scores={
            "gate": torch.from_numpy(probability**2).float(),
            "audio_gate": torch.from_numpy(probability).float(),
            "visual_gate": torch.from_numpy(probability).float(),
        },
        attention=attention.half(),
    )


def as_metrics(result: Evaluation, categories: list[str], **changes: Any) -> dict[str, Any]:
    """What `metrics.json` says of an evaluation."""
    return {
        "accuracy": result.accuracy,
        "clips": result.target.shape[0],
        "segments": result.target.numel(),
        "split": "test",
        "model": "SupervisedCMBS",
        "right_category_everywhere": 100 * (result.target != len(categories)).double().mean().item(),
        "best_single_label": 90.0,
        "reading": "background where sigma(event_logits) <= 0.5",
        "checkpoint": "run/best.pth.tar",
        "epoch": 7,
        "data_root": "no-such-folder",
        "generated": True,
        "protocols": None,
        **metrics.detailed(result, categories),
        **changes,
    }


def write_evaluation(folder: Path, clips: int, categories: list[str], **changes: Any) -> dict[str, Any]:
    """Write the files of a made-up evaluation; returns its metrics. Clip i has the id "clip i"."""
    result = made_evaluation(clips, len(categories))
    values = as_metrics(result, categories, **changes)
    results.write(
        folder, values, result, np.arange(clips), ClipNames(categories, [f"clip {row}" for row in range(clips)])
    )
    return values

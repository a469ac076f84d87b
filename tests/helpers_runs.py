"""What a finished run leaves: to hold two runs against each other, or to pretend that one was."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dataset.fingerprint import fingerprint
from utils.base.checkpoint import Checkpoint
from utils.base.paths import BEST, BEST_VAL, LAST
from utils.evaluation.protocols import CLIP_ACCURACIES
from utils.study.runs import Run
from utils.training import result


def outcome(folder: Path) -> dict:
    """All that a run leaves, without what a clock measured or where it lay."""
    left = {}
    for name in (LAST, BEST, BEST_VAL):
        content = vars(Checkpoint.load(folder / name))
        content.pop("path")
        content["metrics"].pop("seconds", None)
        content["config"]["train"].pop("snapshot_pref")
        content["config"]["train"].pop("save_every_minutes")
        content["config"]["data"].pop("placement")
        if content["training"] is not None:
            content["training"]["position"].pop("seconds")
        left[name] = content
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    left["metrics.jsonl"] = [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
    left["predictions"] = (folder / "eval-test" / "predictions.jsonl").read_text()
    left["tensorboard"] = tensorboard(folder)
    return left


def tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(point.step, point.value) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if not tag.endswith("seconds")
    }


def difference(ours: object, theirs: object, where: str = "") -> str | None:
    """Where two outcomes first differ, None if they don't: a single bit of a weight is a difference."""
    if type(ours) is not type(theirs):
        return where or "type"
    if isinstance(ours, list):
        ours, theirs = dict(enumerate(ours)), dict(enumerate(theirs))
    if isinstance(ours, dict):
        if list(ours) != list(theirs):
            return f"{where} keys"
        found = (difference(ours[key], theirs[key], f"{where} {key}".strip()) for key in ours)
        return next((place for place in found if place), None)
    same = torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs
    return None if same else where or "value"


def pretend(run: Run, epochs: list[tuple[float, float]], **train: object) -> None:
    """Leave what a run leaves after epochs of these (val, test) accuracies."""
    run.folder.mkdir(parents=True)
    config = run.config.model_dump()
    config["train"] |= train
    (run.folder / "config.json").write_text(json.dumps(config))
    lines = [
        {"epoch": i, "val_accuracy": val, "test_accuracy": test, "seconds": 2.0 * i}
        for i, (val, test) in enumerate(epochs, 1)
    ]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def pretend_result(
    run: Run, authors: list[float], validation: list[float] | None, of_epoch: dict | None = None, **changes: object
) -> None:
    """Leave the `result.json` of a run alone, with these accuracies of its test clips by both protocols.

    `of_epoch`: what else it says of the chosen epochs.
    """
    of_epoch = of_epoch or {}
    values = {
        "network": run.config.model.name,
        "supervision": run.config.supervision,
        "label_regime": run.config.label_regime,
        "generated": True,
        "protocols": {
            "authors": _chosen(authors) | of_epoch,
            "validation": validation and _chosen(validation) | of_epoch,
        },
        "seconds": 2.0,
        "config": run.config.model_dump(),
        "data": fingerprint(run.config.data.folder, run.config.label_regime),
        "start": {},
    }
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / result.FILE).write_text(json.dumps({**values, **changes}))


def _chosen(clips: list[float]) -> dict:
    return {"epoch": 1, "test_accuracy": statistics.mean(clips), CLIP_ACCURACIES: list(clips)}

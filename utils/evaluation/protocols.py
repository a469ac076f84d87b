"""`metrics.jsonl`, a line for each epoch of a run, and which of these epochs each protocol chooses.

The authors' protocol takes the epoch with the best accuracy on the test split, the validation protocol the one with
the best accuracy on the val split; both report that epoch's accuracy on the test split. Of equal epochs the earlier one
counts. A run whose data have no val split has no validation protocol.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from utils.base.errors import UserError
from utils.base.text import reading, require_text_file

EPOCHS = "metrics.jsonl"  # of a run folder
CHANCE = (45.0, 55.0)  # an AUC between these, in percent, is that of a score which separates nothing
CLIP_ACCURACIES = "test_accuracy_of_clips"  # percent of each test clip; of an epoch that was the best so far
NAMING_AND_TIMING = "test_naming_and_timing"  # of the test split, see `utils.evaluation.metrics.naming_and_timing`
_KEPT = ("epoch", "val_accuracy", "test_accuracy")


class Protocol(NamedTuple):
    """How the epoch is chosen whose weights are a run's result."""

    split: str  # whose accuracy chooses
    name: str
    rule: str


PROTOCOLS = {
    "authors": Protocol("test", "authors' protocol", "best epoch on the test split"),
    "validation": Protocol("val", "validation protocol", "best epoch on the val split"),
}

Chosen = dict[str, int | float]  # `_KEPT` of an epoch, accuracies in percent; without "val_accuracy" if there is no val


def read_epochs(folder: Path) -> list[dict[str, Any]]:
    """The epochs that a run folder's `metrics.jsonl` tells of; [] where there is none.

    A last line without its end was cut short by a kill, and doesn't count. Raises UserError for any other damage.
    """
    path = folder / EPOCHS
    if not os.path.lexists(path):  # a link to nowhere is refused, not taken for no file
        return []
    require_text_file(path)
    with reading(path):  # not by `read_text`: a machine that lost its power may leave anything at the file's end
        *lines, rest = path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
    lines += [rest] if _epoch(rest) is not None else []
    epochs = [_epoch(line) for line in lines]
    if None in epochs:
        raise UserError(f"{path}, line {epochs.index(None) + 1}: is damaged; restore the file, or delete that line")
    return epochs


def saved_epochs(folder: Path) -> list[dict[str, Any]]:
    """The epochs of `read_epochs` whose weights `last.pth.tar` holds: a kill may leave a line of a later one.

    All of them where that file is gone or can't be read.
    """
    from utils.base.checkpoint import Checkpoint  # here: torch takes seconds, and flags are made of this module
    from utils.base.paths import LAST

    epochs, saved = read_epochs(folder), None
    with contextlib.suppress(UserError):
        saved = Checkpoint.load(folder / LAST).epoch
    return [epoch for epoch in epochs if saved is None or epoch["epoch"] <= saved]


def _epoch(line: str) -> dict[str, Any] | None:
    """A line's content; None unless it tells of an epoch."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or type(content.get("epoch")) is not int:
        return None
    return content if all(isinstance(content.get(key, 0), int | float) for key in _KEPT) else None


def choose(best: dict[str, Chosen], epoch: Mapping[str, Any]) -> bool:
    """Note an epoch in `best`, which holds the best one so far for each split that chooses one, if it is better.

    Returns whether it is, for any of them.
    """
    is_better = False
    for split, *_ in PROTOCOLS.values():
        accuracy = f"{split}_accuracy"
        if accuracy in epoch and (split not in best or epoch[accuracy] > best[split][accuracy]):
            best[split] = {key: epoch[key] for key in _KEPT if key in epoch}
            is_better = True
    return is_better


def best_epochs(epochs: Iterable[Mapping[str, Any]]) -> dict[str, Chosen]:
    """The best of some epochs for each split that chooses one; {} where none of them was evaluated."""
    best: dict[str, Chosen] = {}
    for epoch in epochs:
        choose(best, epoch)
    return best


def protocols(folder: Path) -> dict[str, Chosen | None] | None:
    """What both protocols choose of a run so far, from its folder; None where no epoch was evaluated.

    Returns {"authors": ..., "validation": ...}; the validation protocol is None where there is no val split.
    """
    best = best_epochs(saved_epochs(folder))
    return {key: best.get(protocol.split) for key, protocol in PROTOCOLS.items()} if best else None


def useless_scores(folder: Path, best: Mapping[str, Chosen]) -> str | None:
    """A warning of the network's scores whose AUC is that of chance at the best epoch; None without such scores.

    Epoch and split are the validation protocol's; without a val split, the authors' protocol's.
    """
    split = "val" if "val" in best else "test"
    epoch = best[split]["epoch"]
    found = next((line.get(f"{split}_auc") for line in read_epochs(folder) if line["epoch"] == epoch), None)
    scores = found.items() if isinstance(found, dict) else ()  # epochs of an earlier version have none
    useless = [
        f"{name} (AUC {auc:.1f})" for name, auc in scores if isinstance(auc, float) and CHANCE[0] <= auc <= CHANCE[1]
    ]
    if not useless:
        return None
    return (
        f"warning: no better than chance (AUC 50) at telling event from background segments, at epoch {epoch} on the "
        f"{split} split: {', '.join(useless)}"
    )


def in_words(best: Mapping[str, Chosen]) -> list[str]:
    """Both protocols of a finished run, named, side by side."""
    authors, validation = PROTOCOLS.values()
    chosen, by_val = best["test"], best.get("val")
    result = "not available, the data have no val split"
    if by_val is not None:
        result = f"test {by_val['test_accuracy']:.2f} % at epoch {by_val['epoch']} (val {by_val['val_accuracy']:.2f} %)"
    return [
        f"{authors.name} ({authors.rule}): test {chosen['test_accuracy']:.2f} % at epoch {chosen['epoch']}",
        f"{validation.name} (test accuracy at the {validation.rule}): {result}",
    ]

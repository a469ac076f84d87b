"""`result.json` of a run folder: the results of a finished run, its config, its data's fingerprint and how it was made.

It can be handed on by itself: the tables of `utils.study` are made of these files. Runs of early versions have none.
"""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dataset.files import LABEL_REGIMES
from utils.base.atomic import write_text
from utils.base.text import read_json, validated
from utils.config.settings import Config
from utils.evaluation.protocols import CLIP_ACCURACIES, EPOCHS, NAMING_AND_TIMING, PROTOCOLS, Chosen, read_epochs

FILE = "result.json"

Percent = Annotated[float, Field(ge=0, le=100)]


class ChosenEpoch(BaseModel):
    """The epoch that a protocol chose, with its accuracies in percent."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    epoch: Annotated[int, Field(ge=1)]
    test_accuracy: Percent
    val_accuracy: Percent | None = None  # None: the data have no val split
    test_accuracy_of_clips: list[Percent] | None = None  # in the split's order; None: not noted by an early version
    test_naming_and_timing: dict[str, Percent | None] | None = None  # by names of `utils.evaluation.clip_scores`; same

    @model_validator(mode="after")
    def _of_one_evaluation(self) -> ChosenEpoch:
        clips = self.test_accuracy_of_clips
        if clips is not None and (not clips or abs(statistics.mean(clips) - self.test_accuracy) > 1e-6):
            raise ValueError(f"the clips' accuracies don't have the mean {self.test_accuracy}")
        return self


class Protocols(BaseModel):
    """What each protocol chose of a run."""

    model_config = ConfigDict(frozen=True, strict=True)

    authors: ChosenEpoch  # best epoch on the test split
    validation: ChosenEpoch | None  # best epoch on the val split; None: the data have no val split


class RunResult(BaseModel):
    """The content of `result.json`."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    network: str  # a name of `model.NETWORKS`
    supervision: Literal["full", "weak"]
    label_regime: Literal[tuple(LABEL_REGIMES)] | None  # what a weak network learned from
    generated: bool  # whether its clips were generated: then no number here is one of AVE
    protocols: Protocols
    seconds: Annotated[float, Field(ge=0)] | None  # mean of an epoch, its evaluations included
    parameters: Annotated[int, Field(ge=0)] | None = None  # of the network; None: not noted by an early version
    config: dict[str, Any]  # as resolved
    data: dict[str, Any]  # fingerprint, see `dataset.fingerprint`
    start: dict[str, Any]  # the last start of the run, see `utils.training.start`


def write(
    folder: Path, config: Config, data: dict[str, Any], start: dict[str, Any], best: dict[str, Chosen], parameters: int
) -> None:
    """Write `result.json` of a run that has come to its last epoch.

    Args:
        best: the epoch that each choosing split chose, see `utils.evaluation.protocols`.
        parameters: how many the network has.
    """
    epochs = read_epochs(folder)
    lines = {epoch["epoch"]: epoch for epoch in epochs}
    chosen = {
        split: epoch | {key: lines.get(epoch["epoch"], {}).get(key) for key in (CLIP_ACCURACIES, NAMING_AND_TIMING)}
        for split, epoch in best.items()
    }
    values = dict(
        network=config.model.name,
        supervision=config.supervision,
        label_regime=config.label_regime,
        generated=config.data.are_generated,
        protocols={key: chosen.get(protocol.split) for key, protocol in PROTOCOLS.items()},
        seconds=seconds_per_epoch(epochs),
        parameters=parameters,
        config=config.model_dump(),
        data=data,
        start=start,
    )
    content = _validated(values, folder / EPOCHS, "restore the file and go on by --resume last")
    write_text(folder / FILE, json.dumps(content.model_dump()) + "\n")


def seconds_per_epoch(epochs: list[dict[str, Any]]) -> float | None:
    """Mean seconds of an epoch, its evaluations included; None where no epoch says how long it took."""
    seconds = [number for epoch in epochs if isinstance(number := epoch.get("seconds"), int | float)]
    return statistics.mean(seconds) if seconds else None


def read(folder: Path) -> RunResult | None:
    """`result.json` of a run folder; None where there is none. Raises UserError where it is damaged."""
    path = folder / FILE
    if not os.path.lexists(path):  # a link to nowhere is refused, not taken for no file
        return None
    return _validated(read_json(path), path, "put the file back as its run wrote it")


def _validated(values: Any, path: Path, advice: str) -> RunResult:
    return validated(RunResult, values, lambda key, problem: f"{path}: is damaged ({key}: {problem}); {advice}")

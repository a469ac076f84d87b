"""What a training step of each row costs, from the file that `python -m utils.benchmark --json` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from utils.base.text import read_json, validated
from utils.config.settings import Config
from utils.study.runs import Study

TRAIN_STEP, MEMORY = "train step", "memory"  # columns
_PRECISION, _BATCH_SIZE = "float32", 64


class _Measured(BaseModel):
    """A row of the benchmark's file: the fields that are used here."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    timed: str
    how: str
    model: dict[str, Any]  # the section of its config
    clips: int = Field(gt=0)  # a step
    seconds: float = Field(gt=0)  # a step
    host_bytes: int = Field(gt=0)  # peak
    device_bytes: int | None

    @property
    def per_clip(self) -> float:
        """Seconds."""
        return self.seconds / self.clips

    @property
    def bytes(self) -> int:
        """Peak memory of the GPU, or without one of the process."""
        return self.device_bytes or self.host_bytes


class Costs(BaseModel):
    """What the benchmark wrote: the fields that are used here."""

    model_config = ConfigDict(frozen=True, strict=True)

    device: str
    rows: list[_Measured]

    def columns(self, configs: Sequence[Config | None]) -> dict[str, list[str]]:
        """Time of a training step for each clip, and peak memory, relative to the first row.

        A cell is empty where the benchmark didn't measure the row's network with its settings, or not the first row's;
        memory is compared at the same batch size alone.
        """
        costs = [config and self._of(config) for config in configs]
        base = next((cost for cost, config in zip(costs, configs, strict=True) if config), None)
        cells = {TRAIN_STEP: [""] * len(costs), MEMORY: [""] * len(costs)}
        for row, cost in enumerate(costs if base else []):
            if cost:
                cells[TRAIN_STEP][row] = f"{cost.per_clip / base.per_clip:.2f}"
            if cost and cost.clips == base.clips:
                cells[MEMORY][row] = f"{cost.bytes / base.bytes:.2f}"
        return cells

    def _of(self, config: Config) -> _Measured | None:
        wanted = ("train", _PRECISION, config.model.model_dump(mode="json"))
        return next((row for row in self.rows if (row.timed, row.how, row.model) == wanted), None)


def read(study: Study) -> Costs | None:
    """The costs that a study names; None where it names none, or they aren't measured yet.

    Raises UserError for a file that the benchmark didn't write.
    """
    path = study.benchmark
    if path is None or not path.exists():
        return None
    what = f"{path}: is not what `python -m utils.benchmark --json` writes"
    return validated(Costs, read_json(path), lambda key, problem: f"{what} ({key}: {problem}); measure again")


def notes(study: Study, costs: Costs | None, measured: bool) -> list[str]:
    """Where the costs in a table were measured, or how to measure them; [] for a study that names no benchmark."""
    if study.benchmark is None:
        return []
    command = (
        f"`python -m utils.benchmark --study {study.path} --batch_size {_BATCH_SIZE} --rows '*/train/{_PRECISION}' "
        f"--json {study.benchmark}`"
    )
    if not measured:
        return [f"{study.settings.title}, train step and memory not measured: {command}"]
    return [
        f"{study.settings.title}: train step (for each clip) and memory in {_PRECISION}, relative to the first row, on "
        f"{costs.device}: {command}"
    ]

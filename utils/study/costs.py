"""What a training step of each row costs, from the file that `python -m utils.benchmark --json` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from utils.base.errors import UserError
from utils.base.paths import project_path
from utils.base.text import read_json
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


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    device: str
    rows: list[_Measured]


class _Cost(NamedTuple):
    """What a training step in float32 costs."""

    seconds: float  # a clip
    bytes: int  # peak memory of the GPU, or without one of the process
    clips: int


def columns(study: Study, configs: Sequence[Config | None]) -> dict[str, list[str]]:
    """Time of a training step for each clip, and peak memory, relative to the first row.

    A cell is empty where the benchmark didn't measure the row's network with its settings, or not the first row's;
    memory is compared at the same batch size alone. Raises UserError for a file that the benchmark didn't write.
    """
    costs = [config and _cost(study, config) for config in configs]
    base = next((cost for cost, config in zip(costs, configs, strict=True) if config), None)
    times = [f"{cost.seconds / base.seconds:.2f}" if base and cost else "" for cost in costs]
    memory = [f"{cost.bytes / base.bytes:.2f}" if base and cost and cost.clips == base.clips else "" for cost in costs]
    return {TRAIN_STEP: times, MEMORY: memory}


def notes(study: Study, measured: bool) -> list[str]:
    """Where the costs in a table were measured, or how to measure them; [] for a study that names no benchmark."""
    path = _path(study)
    if path is None:
        return []
    command = (
        f"`python -m utils.benchmark --study {study.path} --batch_size {_BATCH_SIZE} --rows '*/train/{_PRECISION}' "
        f"--json {path}`"
    )
    if not measured:
        return [f"{study.settings.title}, train step and memory not measured: {command}"]
    return [
        f"{study.settings.title}: train step (for each clip) and memory in {_PRECISION}, relative to the first row, on "
        f"{_read(path).device}: {command}"
    ]


def _path(study: Study) -> Path | None:
    return None if study.settings.benchmark is None else project_path(study.settings.benchmark)


def _cost(study: Study, config: Config) -> _Cost | None:
    path = _path(study)
    if path is None or not path.exists():
        return None
    wanted = ("train", _PRECISION, config.model.model_dump(mode="json"))
    for row in _read(path).rows:
        if (row.timed, row.how, row.model) == wanted:
            return _Cost(row.seconds / row.clips, row.device_bytes or row.host_bytes, row.clips)
    return None


def _read(path: Path) -> _File:
    try:
        return _File.model_validate(read_json(path))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(map(str, problem["loc"]))
        raise UserError(
            f"{path}: is not what `python -m utils.benchmark --json` writes ({key}: {problem['msg']}); measure again"
        ) from None

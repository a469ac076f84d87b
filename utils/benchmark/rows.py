"""The rows of the benchmark: a config, what of it is timed, and the variant of doing it; and a row's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from utils.base.errors import UserError
from utils.config import files as config_files
from utils.config.settings import Config
from utils.study.runs import Study


class Variant(NamedTuple):
    """How the work is done."""

    precision: str
    placement: str  # of the features, as the config's data section says it
    devices: tuple[str, ...] = ("cpu", "cuda")  # where it can be done
    authors: bool = False
    compile: bool = False


_AUTHORS = {"authors": Variant("float64", "loader", authors=True)}
_PRECISIONS = {name: Variant(name, "auto") for name in ("float32", "bfloat16", "float64")}
_COMPILED = {f"{name}-compiled": Variant(name, "auto", compile=True) for name in ("float32", "bfloat16")}
_PLACEMENTS = {
    "device": Variant("float32", "device", devices=("cuda",)),
    "host": Variant("float32", "host"),
    "stream": Variant("float32", "stream"),
    "loader": Variant("float32", "loader"),
}
# What is timed -> the variants of it, by name.
VARIANTS = {
    "train": _AUTHORS | _PRECISIONS | _COMPILED,
    "eval": _AUTHORS | _PRECISIONS,
    "data": _AUTHORS | _PLACEMENTS,
    "epoch": _AUTHORS | _PRECISIONS | _COMPILED | {"stream": _PLACEMENTS["stream"]},
}
_SUPERVISIONS = {"full": "supervised", "weak": "weak"}  # as the names of rows say it


class Case(NamedTuple):
    """What a row measures."""

    source: str  # the name of its config in the table
    config: Config
    timed: str  # a key of VARIANTS
    how: str  # a key of VARIANTS[timed]

    @property
    def name(self) -> str:
        return f"{self.source}/{self.timed}/{self.how}"

    @property
    def variant(self) -> Variant:
        return VARIANTS[self.timed][self.how]

    @property
    def identity(self) -> dict[str, Any]:
        """What was measured, as a table of networks finds it (see `utils.study.costs`)."""
        return {"timed": self.timed, "how": self.how, "model": self.config.model.model_dump()}

    def matches(self, pattern: str) -> bool:
        """Whether a pattern chooses this row, by its name or with the supervision in the place of the config's name."""
        names = (self.name, f"{_SUPERVISIONS[self.config.supervision]}/{self.timed}/{self.how}")
        return any(fnmatchcase(name, pattern) for name in names)


def read_configs(paths: Sequence[str]) -> dict[str, Config]:
    """The configs by their names in the table: their supervision, or their file's where several have the same.

    Raises UserError for a config with mistakes, and for one that is named twice.
    """
    configs = {path: config_files.build(config_files.read_json(path), path) for path in paths}
    if len(configs) < len(paths):
        raise UserError(f"--config {max(paths, key=paths.count)}: stands there twice; leave one out")
    names = [_SUPERVISIONS[config.supervision] for config in configs.values()]
    for choose in (lambda path: Path(path).stem, lambda path: path.removesuffix(".json")):
        if len(set(names)) < len(names):
            names = [choose(path) for path in paths]
    return dict(zip(names, configs.values(), strict=True))


def read_study(path: str) -> dict[str, Config]:
    """The configs of a study's rows that train, by their names there. Raises UserError for a study with mistakes."""
    return {run.name: run.config for run in Study(path).runs if run.source is None}


def with_batch_size(configs: dict[str, Config], batch_size: int) -> dict[str, Config]:
    """The same configs with one batch size."""
    train = {name: config.train.model_copy(update={"batch_size": batch_size}) for name, config in configs.items()}
    return {name: config.model_copy(update={"train": train[name]}) for name, config in configs.items()}


def choose(configs: dict[str, Config], device: str, patterns: Sequence[str]) -> list[Case]:
    """The rows that `patterns` choose, the authors' first in each group. Raises UserError for a pattern without any."""
    cases = [
        Case(source, config, timed, how)
        for timed, variants in VARIANTS.items()
        for source, config in configs.items()
        for how, variant in variants.items()
        if device in variant.devices
    ]
    for pattern in patterns:
        if not any(case.matches(pattern) for case in cases):
            raise UserError(f"--rows {pattern}: chooses none of the rows {', '.join(case.name for case in cases)}")
    return [case for case in cases if any(case.matches(pattern) for pattern in patterns)]


@dataclass
class Row:
    """A measured row of the table. Times are seconds a step."""

    name: str
    clips: int  # a step
    seconds: float = 0.0  # median
    fastest: float = 0.0
    slowest: float = 0.0
    steps: int = 0  # measured
    roofline: float | None = None  # seconds of utils.benchmark.roofline.Roofline; train, eval and extract rows
    bound: str = "in matrix products, timed alone"  # what the roofline is
    rate: float | None = None  # its other numbers
    fastest_rate: float | None = None
    copy_rate: float | None = None
    flops: int | None = None  # in matrix products
    throughput: float | None = None  # clips/s over all steps, of data and epoch rows
    loading_seconds: float | None = None  # before the first step
    features: str = ""  # the class of dataset.loading that held them
    total_seconds: float | None = None  # of a whole epoch
    host_bytes: int = 0  # peak of the process, its loader workers left out
    device_bytes: int | None = None
    note: str = ""
    times: list[float] = field(default_factory=list)

    @property
    def clips_per_second(self) -> float:
        """By the median step, or over all steps where these differ in what they wait for."""
        return self.throughput or self.clips / self.seconds

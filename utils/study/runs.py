"""A study: which runs its file asks for, and what the finished ones left."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from utils.base import checkpoint
from utils.base.errors import UserError
from utils.config import files as config_files
from utils.config.settings import Config
from utils.evaluation import results
from utils.evaluation.protocols import best_epochs, read_epochs

# Splits that choose an epoch, and the weights of the epoch that each chose: the authors' and the validation protocol.
PROTOCOLS = (("test", checkpoint.BEST), ("val", checkpoint.BEST_VAL))

# A finished run stands although these differ: they don't change its numbers.
_SAME_NUMBERS = ("data.features", "data.workers", "data.generate", "train.print_freq", "train.save_every_minutes")


class StudySettings(BaseModel):
    """The JSON file of a study; see utils/study/__main__.py."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    title: Annotated[str, Field(min_length=1)]
    output: Annotated[str, Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)]
    set: dict[str, Any] = {}
    runs: Annotated[dict[str, str], Field(min_length=1)]
    readings: dict[str, Annotated[list[str], Field(min_length=2, max_length=2)]] = {}
    published: dict[str, float] = {}


class Run(NamedTuple):
    """One cell of the matrix."""

    name: str  # of its row in the table
    seed: int
    folder: Path
    config: Config
    weights_of: Path | None = None  # the run folder whose weights are evaluated; None: this run trains

    @property
    def out(self) -> Path:
        """The file of what the run prints."""
        return self.folder.with_name(self.folder.name + ".out")

    @property
    def settings(self) -> Path:
        """The file of the run's whole config."""
        return self.folder.with_name(self.folder.name + ".json")


class Result(NamedTuple):
    """What a finished run leaves for the table. A reading takes the epochs that its run chose, by its own reading."""

    authors: float  # test accuracy in percent, best epoch on the test split
    validation: float | None  # test accuracy in percent at the best epoch on the val split; None: there is no val split
    seconds: float | None  # mean of an epoch, evaluation included; None: nothing was trained


class Study:
    """A study file and its runs. Raises UserError for whatever is wrong in it or its configs."""

    def __init__(self, path: str) -> None:
        values = config_files.read_json(path)
        try:
            self.settings = StudySettings.model_validate(values)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            key = ".".join(map(str, problem["loc"]))
            raise UserError(f"{path}: {key!r}: {problem['msg']} (see utils/study/__main__.py)") from None
        self.output = Path(self.settings.output)
        self.runs: list[Run] = []
        folders: dict[str, Path] = {}
        rows = [(name, None, config) for name, config in self.settings.runs.items()]
        rows += [(name, source, config) for name, (source, config) in self.settings.readings.items()]
        for name, source, config in rows:
            folder = self.output / re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
            if folder in folders.values():
                raise UserError(f"{path}: {name!r} and another row would share {folder}; rename one")
            if source is not None and source not in self.settings.runs:
                raise UserError(f"{path}: {name!r} reads the weights of {source!r}, which is none of its runs")
            folders[name] = folder
            file = Path(path).parent / config
            sections = config_files.merge(config_files.read_json(file), self.settings.set)
            for seed in dict.fromkeys(self.settings.seeds):
                own = folder / f"seed-{seed}"
                changes = {"train": {"seed": seed, "snapshot_pref": str(own)}}
                settings = config_files.build(config_files.merge(sections, changes), str(file))
                weights = None if source is None else folders[source] / own.name
                self.runs.append(Run(name, seed, own, settings, weights))
        for name in self.settings.published:
            if name not in self.settings.runs:
                raise UserError(f"{path}: 'published' names {name!r}, which is none of its runs")


def result_of(run: Run) -> Result | None:
    """The numbers of a finished run; None while it isn't. Raises UserError when its folder holds another run."""
    return _trained(run) if run.weights_of is None else _evaluated(run)


def _evaluated(run: Run) -> Result | None:
    """Of an evaluation with these settings, of the weights that are there now."""
    accuracies = []
    for _, name in PROTOCOLS:
        path = run.folder / name.removesuffix(".pth.tar") / results.METRICS
        weights = run.weights_of / name
        if not path.exists() or not weights.exists() or path.stat().st_mtime < weights.stat().st_mtime:
            return None
        accuracies.append(json.loads(path.read_text(encoding="utf-8"))["accuracy"])
    evaluated_with = config_files.build(config_files.read_json(run.settings), source=str(run.settings))
    return None if config_files.difference(run.config, evaluated_with) else Result(*accuracies, seconds=None)


def _trained(run: Run) -> Result | None:
    lines = read_epochs(run.folder)
    if not lines:
        return None
    theirs = config_files.build(
        config_files.read_json(run.folder / "config.json"), source=str(run.folder / "config.json")
    )
    differing = [line for line in config_files.difference(run.config, theirs) if not line.startswith(_SAME_NUMBERS)]
    if theirs.train.n_epoch < run.config.train.n_epoch:
        differing = [line for line in differing if not line.startswith("train.n_epoch")]
    if differing:
        raise UserError(
            f"{run.folder}: was run with other settings than the study has: {'; '.join(differing)}; remove the folder, "
            f"or give the study another output"
        )
    if lines[-1]["epoch"] < run.config.train.n_epoch:
        return None
    best = best_epochs(lines)
    return Result(
        authors=best["test"]["test_accuracy"],
        validation=best["val"]["test_accuracy"] if "val" in best else None,
        seconds=statistics.mean(line["seconds"] for line in lines),
    )

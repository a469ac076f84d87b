"""A study: which runs its file asks for."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from model.validation import first_problem
from utils.base.errors import UserError
from utils.base.paths import ROOT, config_path, project_path
from utils.base.text import read_text
from utils.config import files as config_files
from utils.config.renamed import moved, with_old_name
from utils.config.settings import Config, file_name

TABLES = ("table.md", "table.tex")  # in a study's output, beside the folders of its rows
_LONGEST_NAME = 200  # characters of a row's folder: what is put beside it has a longer name


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line of printable characters")
    return text


Name = Annotated[str, Field(min_length=1), AfterValidator(_one_line)]


class Published(BaseModel):
    """What is published of a row's network."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    accuracy: Annotated[float, Field(ge=0, le=100)]  # percent, on AVE's test split
    source: Name | None = None  # where it stands
    protocol: Name | None = None  # how the epoch was chosen
    runs: Annotated[int, Field(ge=1)] | None = None  # whose mean it is


def _published(value: Any) -> Any:
    """A number alone is an object with this accuracy and nothing else."""
    return {"accuracy": value} if isinstance(value, int | float) else value


class StudySettings(BaseModel):
    """The JSON file of a study; see configs/studies/README.md."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    title: Name
    output: Annotated[str, Field(min_length=1), AfterValidator(file_name)]
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)]
    set: dict[str, Any] = {}
    runs: Annotated[dict[Name, str], Field(min_length=1)]
    localizations: dict[Name, Annotated[list[str], Field(min_length=2, max_length=2)]] = {}
    published: dict[str, Annotated[Published, BeforeValidator(_published)]] = {}
    benchmark: Annotated[str, AfterValidator(file_name)] | None = None
    cluster: dict[str, int | float | str | bool | list[str]] = {}


class Run(NamedTuple):
    """One cell of the matrix."""

    name: str  # of its row in the table
    seed: int
    folder: Path
    config: Config
    source: Run | None = None  # the run whose weights are evaluated; None: this run trains

    @property
    def out(self) -> Path:
        """The file of what the run prints."""
        return self.folder.with_name(self.folder.name + ".out")

    @property
    def settings(self) -> Path:
        """The file of the run's whole config."""
        return self.folder.with_name(self.folder.name + ".json")

    @property
    def settings_text(self) -> str:
        """What `settings` holds of a run that was made as the study asks for it now."""
        return json.dumps(self.config.model_dump(), indent=2) + "\n"

    def has_settings(self) -> bool:
        """Whether the run was last made as the study asks for it now."""
        return self.settings.is_file() and read_text(self.settings) == self.settings_text

    @property
    def lock(self) -> Path:
        """The file that the job holds which makes the run."""
        return self.folder.with_name(self.folder.name + ".lock")

    @property
    def record(self) -> Path:
        """The file that says which job last had the run, and how it ended."""
        return self.folder.with_name(self.folder.name + ".job.json")


class Study:
    """A study file and its runs.

    Args:
        data_root: the data folder of all runs, relative to the current folder; None: as their configs say.

    Raises UserError for whatever is wrong in the file or its configs.
    """

    def __init__(self, path: str, data_root: str | None = None) -> None:
        self.path, values = path, config_files.read_json(path)
        try:
            self.settings = StudySettings.model_validate(values)
        except ValidationError as error:
            raise UserError(f"{path}: {first_problem(error, StudySettings)} (see configs/studies/README.md)") from None
        self.output = project_path(self.settings.output)
        self.benchmark = self.settings.benchmark and project_path(self.settings.benchmark)
        self.rows: dict[str, list[Run]] = {}  # a run for each seed, in the order of the seeds
        rows = [(name, None, config) for name, config in self.settings.runs.items()]
        rows += [(name, source, config) for name, (source, config) in self.settings.localizations.items()]
        for name, source, config in rows:
            if source is not None and source not in self.settings.runs:
                raise UserError(f"{path}: {name!r} evaluates the weights of {source!r}, which is none of its runs")
            folder = with_old_name(self.output / _folder_name(name, path))
            if folder in {run.folder.parent for run in self.runs}:
                raise UserError(f"{path}: {name!r} and another row would share {folder}; rename one")
            self.rows[name] = self._row(name, folder, source, _config_file(Path(path), config), data_root)
        for name in self.settings.published:
            if name not in self.settings.runs:
                raise UserError(f"{path}: 'published' names {name!r}, which is none of its runs")

    def _row(self, name: str, folder: Path, source: str | None, file: Path, data_root: str | None) -> list[Run]:
        """The runs of a row: of a config file, or of its `eval` where they evaluate the weights of the row `source`."""
        sections = config_files.read_json(file)
        if source is not None:  # one localization's config serves the runs of several networks
            trained = config_files.read_json(_config_file(Path(self.path), self.settings.runs[source]))
            sections |= {part: trained.get(part, {}) for part in Config.model_fields if part != "eval"}
        sections = config_files.merge(sections, self.settings.set)
        runs = []
        for number, seed in enumerate(dict.fromkeys(self.settings.seeds)):
            own = folder / f"seed-{seed}"
            changes = {"train": {"seed": seed, "snapshot_pref": config_path(own)}}
            if data_root is not None:
                changes["data"] = {"root": config_path(data_root)}
            config = config_files.build(config_files.merge(sections, changes), str(file))
            if source is not None and config.eval.split != "test":
                raise UserError(
                    f"{self.path}: {name!r} has eval.split {config.eval.split!r}, but the columns of a study are "
                    f"accuracies on the test split; leave eval.split out of {file} and of 'set'"
                )
            runs.append(Run(name, seed, own, config, None if source is None else self.rows[source][number]))
        return runs

    @property
    def runs(self) -> list[Run]:
        """All runs, row by row."""
        return [run for row in self.rows.values() for run in row]


def check_apart(studies: list[Study]) -> None:
    """Raise UserError where two studies would write into one folder."""
    folders: dict[str, Study] = {}
    for study in studies:
        for run in study.runs:
            other = folders.setdefault(os.path.realpath(run.folder), study)
            if other is not study:
                raise UserError(
                    f"{run.folder}: two of the studies would both write there; name each study once, or give them "
                    f"different outputs"
                )


def _config_file(study: Path, name: str) -> Path:
    """A config that a study names: beside the study's file, else in the project's folder."""
    beside = moved(study.parent / name)
    return beside if beside.exists() or not (ROOT / name).exists() else project_path(name)


def _folder_name(name: str, path: str) -> str:
    """The folder of a row, always directly in the study's output. Raises UserError for a name that gives none."""
    folder = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
    if not re.search("[a-z0-9]", folder) or len(folder) > _LONGEST_NAME or folder in TABLES:
        raise UserError(
            f"{path}: the row {name[:40]!r} gives no name of a folder, which is made of its letters a to z, digits and "
            f"dots, at most {_LONGEST_NAME}, and not {' nor '.join(TABLES)}; rename it"
        )
    return folder

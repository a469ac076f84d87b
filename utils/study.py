"""A matrix of runs, configs x seeds, and the table of their results.

    python -m utils.study configs/study.json                 # on the first GPU, or the CPU
    python -m utils.study configs/study.json --gpu 0,1,2,3   # one run a GPU at a time
    python -m utils.study configs/study.json --table         # only the table, of what is there

A study is a JSON file (`"extends"` works as in a config):

    {
      "title": "AVE",                          what the columns of its results are called
      "output": "Exps/Study/",                 where the runs and the tables go
      "seeds": [43, 44, 45],
      "set": {"train": {"n_epoch": 100}},      changes to every config, as in a config
      "runs": {"CMBS": "main.json"},           name in the table -> config, beside the study file
      "readings": {                            more ways to read the weights of a run, without training again:
        "by the gate": ["CMBS", "gate.json"]   name in the table -> run, and the config to evaluate it with
      },
      "published": {"CMBS": 79.3}              accuracies that others published, for a column of their own
    }

Every run is a process of its own, in `OUTPUT/NAME/seed-N`; what it prints goes to `seed-N.out` beside it. Started
again, a study leaves finished runs as they are and goes on with the others from their last checkpoint.
"""

from __future__ import annotations

import json
import logging
import queue
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model import build_model
from utils import checkpoint, recorder, results
from utils import config as configs
from utils.atomic import make_folder, write_text
from utils.config import SUPERVISED, Config
from utils.errors import EXIT_INTERRUPTED, Interrupted, UserError, command
from utils.experiment import generate_once
from utils.flags import Parser
from utils.tables import latex, markdown

ROOT = Path(__file__).resolve().parents[1]
# A finished run stands although these differ: they don't change its numbers.
_SAME_NUMBERS = ("data.features", "data.workers", "data.generate", "train.print_freq", "train.save_every_minutes")

# Splits that choose an epoch, and the weights of the epoch that each chose: the authors' and the validation protocol.
_PROTOCOLS = (("test", checkpoint.BEST), ("val", checkpoint.BEST_VAL))

_log = logging.getLogger(__name__)


class StudySettings(BaseModel):
    """The JSON file of a study; see the top of this file."""

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
    validation: float  # test accuracy in percent at the best epoch on the val split
    seconds: float | None  # mean of an epoch, evaluation included; None: nothing was trained


class Study:
    """A study file and its runs. Raises UserError for whatever is wrong in it or its configs."""

    def __init__(self, path: str) -> None:
        values = configs.read_json(path)
        try:
            self.settings = StudySettings.model_validate(values)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            key = ".".join(map(str, problem["loc"]))
            raise UserError(f"{path}: {key!r}: {problem['msg']} (what a study holds: utils/study.py)") from None
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
            sections = configs.merge(configs.read_json(file), self.settings.set)
            for seed in dict.fromkeys(self.settings.seeds):
                own = folder / f"seed-{seed}"
                changes = {"train": {"seed": seed, "snapshot_pref": str(own)}}
                settings = configs.build(configs.merge(sections, changes), str(file))
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
    for _, name in _PROTOCOLS:
        path = run.folder / name.removesuffix(".pth.tar") / results.METRICS
        weights = run.weights_of / name
        if not path.exists() or not weights.exists() or path.stat().st_mtime < weights.stat().st_mtime:
            return None
        accuracies.append(json.loads(path.read_text(encoding="utf-8"))["accuracy"])
    evaluated_with = configs.build(configs.read_json(run.settings), source=str(run.settings))
    return None if configs.difference(run.config, evaluated_with) else Result(*accuracies, seconds=None)


def _trained(run: Run) -> Result | None:
    lines = _epochs(run)
    if not lines:
        return None
    theirs = configs.build(configs.read_json(run.folder / "config.json"), source=str(run.folder / "config.json"))
    differing = [line for line in configs.difference(run.config, theirs) if not line.startswith(_SAME_NUMBERS)]
    if theirs.train.n_epoch < run.config.train.n_epoch:
        differing = [line for line in differing if not line.startswith("train.n_epoch")]
    if differing:
        raise UserError(
            f"{run.folder}: was run with other settings than the study has: {'; '.join(differing)}; remove the folder, "
            f"or give the study another output"
        )
    if lines[-1]["epoch"] < run.config.train.n_epoch:
        return None
    evaluated = [line for line in lines if "test_accuracy" in line]
    best = [max(evaluated, key=lambda line: line[f"{split}_accuracy"]) for split, _ in _PROTOCOLS]
    return Result(
        *(line["test_accuracy"] for line in best),
        seconds=statistics.mean(line["seconds"] for line in lines),
    )


def _epochs(run: Run) -> list[dict[str, Any]]:
    path = run.folder / recorder.METRICS
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break  # a kill cut it short: the run goes on from before it
    return lines


def run_all(studies: list[Study], devices: list[str | None]) -> None:
    """Run what isn't finished, one run a device at a time; first what trains, then what reads the weights.

    Raises UserError naming the first run that failed, Interrupted when asked to stop; runs in progress have
    saved their state then.
    """
    runs = [run for study in studies for run in study.runs]
    for data in {run.config.data.model_dump_json(): run.config.data for run in runs}.values():
        generate_once(data)
    for reads in (False, True):
        _run_some([run for run in runs if (run.weights_of is not None) == reads], devices)


def _run_some(runs: list[Run], devices: list[str | None]) -> None:
    waiting: queue.SimpleQueue[Run] = queue.SimpleQueue()
    for run in runs:
        if result_of(run) is None:
            waiting.put(run)
    pool = _Pool(waiting, len(runs))
    threads = [threading.Thread(target=pool.work, args=(device,)) for device in devices]
    before = {number: signal.signal(number, pool.stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if pool.failed is not None:
        raise UserError(pool.failed)
    if pool.stopping:
        raise Interrupted("stopped; the same command goes on where the runs were")


class _Pool:
    """Takes runs from a queue, a process for each; stops when one fails or somebody asks."""

    def __init__(self, waiting: queue.SimpleQueue[Run], total: int) -> None:
        self.waiting, self.total, self.done = waiting, total, total - waiting.qsize()
        self.processes: set[subprocess.Popen] = set()
        self.lock = threading.Lock()
        self.stopping, self.failed = False, None

    def work(self, device: str | None) -> None:
        """Run one after another on a device until there is none left."""
        while not self.stopping:
            try:
                run = self.waiting.get_nowait()
            except queue.Empty:
                return
            code = next((code for arguments in _commands(run, device) if (code := self._call(run, arguments))), 0)
            if code == 0:
                self._tell(run)
            elif not self.stopping:  # else it was asked to end, maybe before it could save
                self._fail(run, code)

    def stop(self, *_: object) -> None:
        """Ask every process to save and end."""
        self.stopping = True
        for process in list(self.processes):
            process.terminate()

    def _call(self, run: Run, arguments: list[str]) -> int:
        with open(run.out, "ab") as out, self.lock:
            if self.stopping:
                return EXIT_INTERRUPTED
            # In a session of its own, so that Ctrl-C reaches it once, through `stop`: a second one would not save.
            process = subprocess.Popen(arguments, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
            self.processes.add(process)
            if self.stopping:  # asked while it was starting
                process.terminate()
        code = process.wait()
        self.processes.discard(process)
        return code

    def _tell(self, run: Run) -> None:
        result = result_of(run)
        with self.lock:
            self.done += 1
            _log.info(
                f"{self.done}/{self.total} {run.name}, seed {run.seed}: authors' protocol {result.authors:.2f} %, "
                f"validation protocol {result.validation:.2f} %"
            )

    def _fail(self, run: Run, code: int) -> None:
        lines = run.out.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        with self.lock:
            self.failed = self.failed or (
                f"{run.name}, seed {run.seed} ended with exit code {code}: {lines[-1] if lines else 'no output'} "
                f"({run.out}); the same command goes on where the study stopped"
            )
        self.stop()


def _commands(run: Run, device: str | None) -> list[list[str]]:
    """The command lines that make a run; they share its settings, which are written to a file."""
    make_folder(run.folder.parent)
    write_text(run.settings, json.dumps(run.config.model_dump(), indent=2) + "\n")
    main = "supv_main.py" if run.config.model.name == SUPERVISED else "weak_main.py"
    base = [sys.executable, str(ROOT / main), "--config", str(run.settings)]
    base += [] if device is None else ["--gpu", device]
    if run.weights_of is not None:
        return [
            [
                *base,
                "--evaluate",
                "--resume",
                str(run.weights_of / name),
                "--output",
                str(run.folder / name.removesuffix(".pth.tar")),
            ]
            for _, name in _PROTOCOLS
        ]
    if (run.folder / checkpoint.LAST).exists():
        return [[*base, "--resume", "last"]]
    if run.folder.exists():
        shutil.rmtree(run.folder)  # killed before its first epoch was over: nothing to go on from
    return [base]


class Row(NamedTuple):
    """A row of the table for one study."""

    parameters: int
    results: list[Result]  # of the seeds that are finished
    seeds: int
    published: float | None


def rows_of(study: Study) -> dict[str, Row]:
    """The study's rows, by name."""
    rows = {}
    for name in dict.fromkeys(run.name for run in study.runs):
        runs = [run for run in study.runs if run.name == name]
        results = [result for run in runs if (result := result_of(run)) is not None]
        with torch.device("meta"):
            parameters = sum(p.numel() for p in build_model(runs[0].config.model).parameters())
        rows[name] = Row(parameters, results, len(runs), study.settings.published.get(name))
    return rows


def table(studies: list[Study]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the results, as text with "±" between mean and standard deviation (over seeds, n - 1)."""
    every = [rows_of(study) for study in studies]
    names = list(dict.fromkeys(name for rows in every for name in rows))
    published = any(row.published is not None for rows in every for row in rows.values())
    header, columns = ["network"], []
    for study, rows in zip(studies, every, strict=True):
        title = study.settings.title
        header += [f"{title}: {what}" for what in ("parameters", "authors' protocol", "validation protocol", "s/epoch")]
        columns.append([_cells(rows.get(name)) for name in names])
    body = [[name, *(cell for column in columns for cell in column[i])] for i, name in enumerate(names)]
    if published:
        header.append("published")
        for line in body:
            numbers = [rows[line[0]].published for rows in every if line[0] in rows and rows[line[0]].published]
            line.append(f"{numbers[0]:.1f}" if numbers else "")
    return header, body


def _cells(row: Row | None) -> list[str]:
    if row is None:
        return [""] * 4
    parameters = f"{row.parameters / 1e6:.2f} M"
    if not row.results:
        return [parameters, "not run yet", "not run yet", ""]
    missing = "" if len(row.results) == row.seeds else f" ({len(row.results)} of {row.seeds} seeds)"
    authors, validation, seconds = zip(*row.results, strict=True)
    time = "" if None in seconds else f"{statistics.mean(seconds):.1f}"
    return [parameters, _spread(authors) + missing, _spread(validation) + missing, time]


def _spread(values: tuple[float, ...]) -> str:
    mean = f"{statistics.mean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m utils.study", description="Run a matrix of configs x seeds.")
    parser.add_argument("study", nargs="+", metavar="STUDY.json", help="several stand side by side in the table")
    parser.add_argument(
        "--gpu", help="GPU numbers with commas, or cpu: a run on each at a time (default: as the mains)"
    )
    parser.add_argument("--table", action="store_true", help="run nothing; make the table of what is there")
    options = parser.parse_args(argv)
    recorder.log_to_terminal()
    studies = [Study(path) for path in options.study]
    try:
        if not options.table:
            run_all(studies, options.gpu.split(",") if options.gpu else [None])
    finally:
        header, body = table(studies)
        text = markdown(header, body)
        folder = make_folder(studies[0].output)
        write_text(folder / "table.md", text)
        write_text(folder / "table.tex", latex(header, body))
        _log.info(f"{text}\n{folder / 'table.md'}, {folder / 'table.tex'}")


if __name__ == "__main__":
    sys.exit(main())

"""The runs of studies, each a process of its own, one a device at a time."""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatchcase

from utils.base import checkpoint
from utils.base.atomic import make_folder, write_text, writing
from utils.base.errors import EXIT_INTERRUPTED, Interrupted, UserError
from utils.base.output import when_output_is_lost
from utils.base.paths import ROOT
from utils.config.settings import MAINS
from utils.evaluation.protocols import read_epochs
from utils.study.results import (
    WEIGHTS,
    check_same_data,
    check_settings,
    chosen_epochs,
    evaluated_accuracy,
    evaluation_folder,
    readable,
    result_of,
)
from utils.study.runs import Run, Study
from utils.training.begin import generate_once
from utils.training.launching import share_of_cores

# What a run leaves that was killed before its first epoch was saved; another one may begin on top of it.
_OF_A_BEGINNING = ("config.json", "run.json", "log.txt", "metrics.jsonl", ".lock", "events.out.tfevents.*", "*.part*")

_log = logging.getLogger(__name__)


def run_all(studies: list[Study], devices: list[str | None]) -> None:
    """Run what isn't finished, one run a device at a time; first what trains, then what evaluates its weights.

    Raises UserError naming the first run that failed or can't begin, Interrupted when asked to stop; runs in progress
    have saved their state then.
    """
    runs = [run for study in studies for run in study.runs]
    for data in {run.config.data.model_dump_json(): run.config.data for run in runs}.values():
        generate_once(data)
    for study in studies:
        check_same_data(study.runs)
    for run in runs:
        if result_of(run) is None:
            with readable(run.folder):
                _check_free(run)
    for evaluates in (False, True):
        _run_some([run for run in runs if (run.source is not None) == evaluates], devices)


def _check_free(run: Run) -> None:
    """Raise UserError where a run would be written over what isn't its own."""
    for path in (run.out, run.settings):
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is in the way of the file that the study writes there; move it")
    if run.source is not None or not run.folder.exists():
        return
    check_settings(run)
    if (run.folder / checkpoint.LAST).exists():
        return
    there = sorted(path.name for path in run.folder.iterdir())
    others = [name for name in there if not any(fnmatchcase(name, own) for own in _OF_A_BEGINNING)]
    if others or len(read_epochs(run.folder)) > 1:
        raise UserError(
            f"{run.folder}: has no {checkpoint.LAST} to go on from, but holds {(others or there)[0]}; put the "
            f"checkpoint back, or move the folder away so that the study runs it anew"
        )


def _run_some(runs: list[Run], devices: list[str | None]) -> None:
    waiting: queue.SimpleQueue[Run] = queue.SimpleQueue()
    for run in runs:
        if result_of(run) is None:
            waiting.put(run)
    pool = _Pool(waiting, len(runs), len(devices))
    before = {number: signal.signal(number, pool.stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with when_output_is_lost(pool.stop), ThreadPoolExecutor(len(devices)) as threads:
            for done in as_completed([threads.submit(pool.work, device) for device in devices]):
                done.result()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if pool.stopping:
        raise Interrupted("stopped; the same command goes on where the runs were")


class _Pool:
    """Takes runs from a queue, a process for each; stops when one fails or somebody asks."""

    def __init__(self, waiting: queue.SimpleQueue[Run], total: int, at_a_time: int) -> None:
        self.environment = os.environ | share_of_cores(at_a_time)
        self.waiting, self.total, self.done = waiting, total, total - waiting.qsize()
        self.processes: set[subprocess.Popen] = set()
        self.lock = threading.Lock()
        self.stopping = False

    def work(self, device: str | None) -> None:
        """Run one after another on a device until there is none left. Raises UserError for one that failed."""
        try:
            while not self.stopping:
                try:
                    run = self.waiting.get_nowait()
                except queue.Empty:
                    return
                code = next((code for arguments in _commands(run, device) if (code := self._call(run, arguments))), 0)
                if code == 0:
                    self._tell(run)
                elif not self.stopping:  # else it was asked to end, maybe before it could save
                    raise _failure(run, code)
        except BaseException:
            self.stop()
            raise

    def stop(self, *_: object) -> None:
        """Ask every process to save and end."""
        self.stopping = True
        for process in list(self.processes):
            process.terminate()

    def _call(self, run: Run, arguments: list[str]) -> int:
        with writing(run.out):
            out = open(run.out, "ab")  # noqa: SIM115 - closed below; only opening it is told as an error of this file
        with out, self.lock:
            if self.stopping:
                return EXIT_INTERRUPTED
            # In a session of its own, so that Ctrl-C reaches it once, through `stop`: a second one would not save.
            process = subprocess.Popen(
                arguments, env=self.environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
            self.processes.add(process)
            if self.stopping:  # asked while it was starting
                process.terminate()
        code = process.wait()
        self.processes.discard(process)
        return code

    def _tell(self, run: Run) -> None:
        result = result_of(run)
        if result is None:
            raise UserError(f"{run.folder}: doesn't hold the results that its run ended with; see {run.out}")
        with self.lock:
            self.done += 1
            by_val = "not available" if result.validation is None else f"{result.validation:.2f} %"
            _log.info(
                f"{self.done}/{self.total} {run.name}, seed {run.seed}: authors' protocol {result.authors:.2f} %, "
                f"validation protocol {by_val}"
            )


def _failure(run: Run, code: int) -> UserError:
    said = run.out.read_text(encoding="utf-8", errors="replace") if run.out.is_file() else ""
    lines = said.strip().splitlines()
    return UserError(
        f"{run.name}, seed {run.seed} ended with exit code {code}: {lines[-1] if lines else 'no output'} ({run.out}); "
        f"the same command goes on where the study stopped"
    )


def _commands(run: Run, device: str | None) -> list[list[str]]:
    """The command lines that make a run; they share its settings, which are written to a file."""
    make_folder(run.folder.parent)
    settings = json.dumps(run.config.model_dump(), indent=2) + "\n"
    # As it is, if it is the same: an evaluation that is younger than its settings stands.
    with readable(run.settings):
        is_same = run.settings.is_file() and run.settings.read_bytes() == settings.encode()
        goes_on = (run.folder / checkpoint.LAST).exists()
    if not is_same:
        write_text(run.settings, settings)
    base = [sys.executable, str(ROOT / MAINS[run.config.supervision]), "--config", str(run.settings)]
    base += [] if device is None else ["--gpu", device]
    if run.source is None:
        return [[*base, "--resume", "last"] if goes_on else base]
    return [
        [*base, "--evaluate", "--resume", str(run.source.folder / WEIGHTS[split]),
         "--output", str(evaluation_folder(run, split))]
        for split in chosen_epochs(run.source)
        if evaluated_accuracy(run, split) is None
    ]  # fmt: skip

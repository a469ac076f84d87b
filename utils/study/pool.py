"""The runs of studies, each a process of its own, one a device at a time."""

from __future__ import annotations

import json
import logging
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

from utils.base import checkpoint
from utils.base.atomic import make_folder, write_text
from utils.base.errors import EXIT_INTERRUPTED, Interrupted, UserError
from utils.base.output import when_output_is_lost
from utils.config.settings import MAINS
from utils.study.runs import PROTOCOLS, Run, Study, result_of
from utils.training.launching import share_of_cores
from utils.training.run import generate_once

ROOT = Path(__file__).resolve().parents[2]

_log = logging.getLogger(__name__)


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
    pool = _Pool(waiting, len(runs), len(devices))
    threads = [threading.Thread(target=pool.work, args=(device,)) for device in devices]
    before = {number: signal.signal(number, pool.stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with when_output_is_lost(pool.stop):
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

    def __init__(self, waiting: queue.SimpleQueue[Run], total: int, at_a_time: int) -> None:
        self.environment = os.environ | share_of_cores(at_a_time)
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
        with self.lock:
            self.done += 1
            by_val = "not available" if result.validation is None else f"{result.validation:.2f} %"
            _log.info(
                f"{self.done}/{self.total} {run.name}, seed {run.seed}: authors' protocol {result.authors:.2f} %, "
                f"validation protocol {by_val}"
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
    base = [sys.executable, str(ROOT / MAINS[run.config.supervision]), "--config", str(run.settings)]
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
            for _, name in PROTOCOLS
        ]
    if (run.folder / checkpoint.LAST).exists():
        return [[*base, "--resume", "last"]]
    if run.folder.exists():
        shutil.rmtree(run.folder)  # killed before its first epoch was over: nothing to go on from
    return [base]

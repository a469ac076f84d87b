"""The runs of studies on the engines of submitit: in this process, on this machine's devices, or on a SLURM cluster."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shlex
import signal
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import submitit

from utils.base.atomic import make_folder, require_no_obstacle
from utils.base.cores import share_of_cores
from utils.base.errors import EXIT_INTERRUPTED, Interrupted, UserError
from utils.base.interrupts import on_stop
from utils.base.locks import held, is_held, try_hold
from utils.base.output import when_output_is_lost
from utils.base.paths import LAST
from utils.base.text import reading
from utils.evaluation.protocols import read_epochs
from utils.study.job_record import Record, read_record, write_record
from utils.study.jobs import Job
from utils.study.results import check_settings, result_of
from utils.study.runs import Run, Study
from utils.study.same_data import check_same_data
from utils.study.states import State, last_line, slurm_queue, state_of
from utils.training.generated import generate_once

# What a run leaves that was killed before its first epoch was saved; another one may begin on top of it.
_OF_A_BEGINNING = ("config.json", "run.json", "log.txt", "metrics.jsonl", ".lock", "events.out.tfevents.*", "*.part*")
_FOLDER = "submitit_jobs"  # in a study's output; the folder of a row has no such name
_NO_LIMIT = 60 * 24 * 365  # minutes
_REQUEUES = 1000  # times that a run may reach its job's time limit
_POLL, _ASK_AGAIN = 0.1, 10.0  # seconds; a signal that comes while a job starts is lost

_log = logging.getLogger(__name__)


def run_all(studies: list[Study], engine: str, gpu: str | None, options: dict[str, Any]) -> None:
    """Make those runs of some studies that aren't made yet; with SLURM, submit them.

    Args:
        engine: "debug" (in this process, one run after another), "local" (a run at a time on each device) or "slurm".
        gpu: what --gpu says; with "local" commas separate devices, else it is what each run is told.
        options: of sbatch, by name, besides those of the first study's file.

    Raises UserError naming the first run that failed or can't begin, Interrupted when asked to stop; runs in progress
    have saved their state then.
    """
    runs = [run for study in studies for run in study.runs]
    for data in {run.config.data.model_dump_json(): run.config.data for run in runs}.values():
        generate_once(data)
    for study in studies:
        check_same_data(study.runs)
    left = [run for run in runs if result_of(run) is None]
    for run in left:
        with reading(run.folder):
            _check_free(run)
    if not left:
        return
    folder = make_folder(studies[0].output / _FOLDER)
    if engine == "slurm":
        _submit(left, studies, folder, gpu, {**studies[0].settings.cluster, **options})
        return
    _log.info(
        f"{len(runs) - len(left)} of {len(runs)} runs are done; the others print into files such as {left[0].out}, and "
        f"--status says how far they are"
    )
    progress = _Progress(left, len(runs))
    if engine == "local":
        _run_on_devices(_groups(left), folder, gpu.split(",") if gpu else [None], progress)
    else:
        for group in _groups(left):
            Job([group], [gpu], {}, progress.began)()
            progress.tell()
    progress.end()


def _check_free(run: Run) -> None:
    """Raise UserError where a run would be written over what isn't its own."""
    for path in (run.out, run.settings):
        require_no_obstacle(path)
    if run.source is not None or not run.folder.exists():
        return
    check_settings(run)
    if (run.folder / LAST).exists():
        return
    there = sorted(path.name for path in run.folder.iterdir())
    others = [name for name in there if not any(fnmatchcase(name, own) for own in _OF_A_BEGINNING)]
    if others or len(read_epochs(run.folder)) > 1:
        raise UserError(
            f"{run.folder}: has no {LAST} to go on from, but holds {(others or there)[0]}; put the "
            f"checkpoint back, or move the folder away so that the study runs it anew"
        )


def _groups(runs: list[Run]) -> list[list[Run]]:
    """Each run that trains with those that evaluate its weights, which come after it."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(str((run.source or run).folder), []).append(run)
    return list(groups.values())


class _Progress:
    """Says which runs have ended, and how."""

    def __init__(self, left: list[Run], total: int) -> None:
        self.left, self.total, self.began = list(left), total, time.time()
        self.failed: list[State] = []

    def tell(self) -> None:
        """Say what ended since the last call."""
        for run in list(self.left):
            record = read_record(run)
            if record is None or record.code == EXIT_INTERRUPTED or (record.ended or 0) < self.began:
                continue
            state = state_of(run, record, {})
            if state.word == "running":  # its job has yet to let go of the lock
                continue
            self.left.remove(run)
            if state.word != "done":
                self.failed.append(state)
            done = self.total - len(self.left) - len(self.failed)
            what = state.text if state.word == "done" else f"failed, {state.text}"
            _log.info(f"{done}/{self.total} {run.name}, seed {run.seed}: {what}")

    def end(self) -> None:
        """Raise UserError naming the first run that failed; say what another study has."""
        self.tell()
        states = [state_of(run, read_record(run), {}) for run in self.left]
        self.failed += [state for state in states if state.word in ("failed", "stopped")]
        if self.failed:
            run, _, text = self.failed[0]
            more = f"; {len(self.failed) - 1} more runs failed" if len(self.failed) > 1 else ""
            raise UserError(
                f"{run.name}, seed {run.seed} {text}{more}; the same command goes on where the study stopped"
            )
        for state in states:
            _log.info(f"left to another study: {state}")


def _run_on_devices(groups: list[list[Run]], folder: Path, devices: list[str | None], progress: _Progress) -> None:
    """Keep the devices of this machine busy: one job, in whose process for each of them one run follows another."""
    devices = devices[: len(groups)]
    # Of CUDA_VISIBLE_DEVICES submitit takes away all that a job doesn't ask it for; --gpu chooses among them here.
    environment = {**share_of_cores(len(devices)), "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")}
    executor = submitit.LocalExecutor(folder)
    executor.update_parameters(timeout_min=_NO_LIMIT, tasks_per_node=len(devices))
    job: submitit.LocalJob | None = None
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True
        if job is not None and not job.done():
            os.kill(int(job.job_id), signal.SIGTERM)  # which it passes on; `job.cancel` kills after a second

    with on_stop(stop), when_output_is_lost(stop):
        # The terminal's Ctrl-C shall not reach the processes that are started: `stop` tells them, once.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            job = executor.submit(Job(groups, devices, environment, progress.began))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        asked_again = time.monotonic()
        while not job.done():
            time.sleep(_POLL)
            progress.tell()
            if stopping and time.monotonic() - asked_again > _ASK_AGAIN:
                asked_again = time.monotonic()
                stop()
    if stopping:
        raise Interrupted("stopped; the same command goes on where the runs were")
    for process in map(job.task, range(len(devices))):
        if not process.paths.result_pickle.exists() or process.exception() is not None:
            log = process.paths.stderr
            raise UserError(f"a job of the study ended before its runs: {last_line(log)} ({log})")


def _submit(runs: list[Run], studies: list[Study], folder: Path, gpu: str | None, options: dict[str, Any]) -> None:
    """Submit a job for each run that isn't with SLURM or another study yet, as one job array."""
    with contextlib.ExitStack() as locks:
        for output in {study.output for study in studies}:
            busy = f"{output}: another command is submitting runs of it; wait for it, then look with --status"
            locks.enter_context(held(make_folder(output) / ".submitting", busy))
        records = [read_record(run) for run in runs]
        queue = slurm_queue(records)
        if queue is None:
            raise UserError("squeue doesn't say which runs SLURM has already; try again when it answers")
        taken = [
            run for run, record in zip(runs, records, strict=True)
            if is_held(run.lock) or (record is not None and record.engine == "slurm" and record.job in queue)
        ]  # fmt: skip
        groups = [group for group in _groups(runs) if not any(run in taken for run in group)]
        if not groups:
            _log.info(f"{len(taken)} runs are with SLURM or another study already; nothing was submitted")
            return
        executor = _slurm_executor(folder, options)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit says there what it raises
                jobs = executor.submit_array([Job([group], [gpu], {}, time.time()) for group in groups])
        except (RuntimeError, OSError) as error:
            raise UserError(f"SLURM doesn't take the runs: {error}") from error
        for job, group in zip(jobs, groups, strict=True):
            for run in group:
                _note(run, Record(engine="slurm", job=job.job_id, log=str(job.paths.stderr)))
    _log.info(
        f"submitted {len(jobs)} jobs to SLURM: {jobs[0].job_id} to {jobs[-1].job_id}; --status says how far they are, "
        f"--table makes the table of what is done"
    )


def _slurm_executor(folder: Path, options: dict[str, Any]) -> submitit.SlurmExecutor:
    """Raises UserError for options that submitit doesn't take, and where there is no SLURM."""
    options = {"time": 240, "job_name": folder.parent.name, **options}
    named = {name.replace("-", "_"): value for name, value in options.items()}
    if not isinstance(named["time"], int) or named["time"] < 1:
        raise UserError(f"cluster.time {named['time']!r}: is not a whole number of minutes")
    known = submitit.SlurmExecutor._valid_parameters()
    others = {name.replace("_", "-"): value for name, value in named.items() if name not in known}
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=_REQUEUES, python=python_of_jobs())
        executor.update_parameters(
            **{name: value for name, value in named.items() if name in known}, additional_parameters=others
        )
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"--cluster slurm: {error}") from error
    return executor


def python_of_jobs() -> str:
    """The command, as a shell takes it, that starts Python with submitit's signal ignored until submitit waits for it.

    Else a job that is preempted in its first second would be killed, and not requeued.
    """
    ignoring = f"trap '' {submitit.JobEnvironment.USR_SIG}; exec \"$@\""
    return shlex.join(["sh", "-c", ignoring, "sh", sys.executable])


def _note(run: Run, record: Record) -> None:
    """Say that a run waits for a job, unless the job has begun and says more itself."""
    lock = try_hold(make_folder(run.folder.parent) / run.lock.name)
    if lock is None:
        return
    try:
        last = read_record(run)
        if last is None or last.job != record.job:
            write_record(run, record)
    finally:
        lock.release()

"""A job of a study: makes runs one after another, each as a process of its own. Submitit starts it, here or elsewhere.

Beside its folder a run has `seed-N.lock`, which the job that makes the run holds, so that no other one makes it too,
and the record of that job (`utils.study.job_record`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import submitit
from submitit.core.utils import DelayedSubmission

from utils.base.atomic import make_folder, write_text, writing
from utils.base.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, Interrupted, UserError
from utils.base.interrupts import on_stop
from utils.base.locks import try_hold
from utils.base.memory import without_tcache
from utils.base.paths import CHOSEN_BY, LAST, ROOT
from utils.config.settings import MAINS
from utils.study.job_record import Record, read_record, write_record
from utils.study.results import evaluated_accuracy, evaluation_folder, trained
from utils.study.runs import Run

_PATIENCE = 0.1  # seconds: `is_held` holds a lock for far less, another job for far longer


@dataclass
class Job:
    """What submitit calls: makes those of some runs that aren't made yet.

    Args:
        groups: a run that trains, and those that evaluate its weights; or only the latter, if the weights are there.
        devices: what --gpu says to the runs, for each of the processes in which submitit calls the job.
        environment: variables that the runs get with another value than the job has; None: without that variable.
        submitted: when, in seconds since 1970. What ended since, in whichever job, isn't made again.
    """

    groups: list[list[Run]]
    devices: list[str | None]
    environment: dict[str, str | None]
    submitted: float
    _process: subprocess.Popen | None = None
    _stopping: bool = False

    def __call__(self) -> None:
        """Make the runs. Raises Interrupted when asked to stop; the run in progress has saved its state then."""
        with on_stop(self.stop):
            left = self.groups
            for patience in (0.0, _PATIENCE):  # a lock that somebody only looked at is free the second time
                left = [group for group in left if not self._make(group, patience)]

    def checkpoint(self) -> DelayedSubmission:
        """What submitit calls when the time is over and before it requeues the job: ends the run, which saves first."""
        self.stop()
        if self._process is not None:
            with contextlib.suppress(ChildProcessError):  # not by `wait`, in the middle of which the signal came
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Job(self.groups, self.devices, self.environment, self.submitted))

    def stop(self, *_: object) -> None:
        """Ask the run in progress to save and end, and begin no other."""
        self._stopping = True
        if self._process is not None:
            self._process.terminate()

    def _make(self, group: list[Run], patience: float) -> bool:
        """Make the runs of a group one after another until one fails; returns False where another job has one."""
        for run in group:
            lock, done = try_hold(make_folder(run.folder.parent) / run.lock.name, patience), False
            if lock is not None:
                try:
                    done = self._make_alone(run)
                finally:  # not by `with lock`: that would count as holding it twice
                    lock.release()
            if self._stopping:
                raise Interrupted("stopped; the same command goes on where the runs were")
            if not done:  # what evaluates its weights has to wait
                return lock is not None
        return True

    def _make_alone(self, run: Run) -> bool:
        """Make a run whose lock this job holds, unless another job has made it since; returns whether it is made."""
        last = read_record(run)
        if last is not None and (last.ended or 0) > self.submitted and last.code != EXIT_INTERRUPTED:
            return last.code == 0
        record = _this_job()
        write_record(run, record)
        try:
            record.code = next((code for line in commands(run, self._gpu()) if (code := self._call(run, line))), 0)
            if record.code and self._stopping:  # asked to end, maybe before it could save
                record.code = EXIT_INTERRUPTED
        except UserError as error:
            record.code, record.why = EXIT_USER_ERROR, str(error)
        except SystemExit:  # submitit's, after `checkpoint`
            record.code = EXIT_INTERRUPTED
            raise
        finally:
            record.ended = time.time()
            write_record(run, record)
        return record.code == 0

    def _gpu(self) -> str | None:
        process = submitit.JobEnvironment().global_rank if len(self.devices) > 1 else 0
        return self.devices[process]

    def _call(self, run: Run, arguments: list[str]) -> int:
        environment = {**without_tcache(os.environ), **self.environment}
        with writing(run.out):
            out = open(run.out, "ab")  # noqa: SIM115 - closed below; only opening it is told as an error of this file
        with out:
            if self._stopping:
                return EXIT_INTERRUPTED
            self._process = subprocess.Popen(
                arguments,
                env={name: value for name, value in environment.items() if value is not None},
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=_ignore_submitit,
            )
            if self._stopping:  # asked while it was starting
                self._process.terminate()
        return self._process.wait()


def commands(run: Run, gpu: str | None) -> list[list[str]]:
    """The command lines that make a run; they share its settings, which are written to a file."""
    if not run.has_settings():  # else the file stays as it is: an evaluation that is younger than it stands
        write_text(run.settings, run.settings_text)
    base = [sys.executable, str(ROOT / MAINS[run.config.supervision]), "--config", str(run.settings)]
    base += [] if gpu is None else ["--gpu", gpu]
    if run.source is None:
        return [[*base, "--resume", "last"] if (run.folder / LAST).exists() else base]
    return [
        [*base, "--evaluate", "--resume", str(run.source.folder / CHOSEN_BY[split]),
         "--output", str(evaluation_folder(run, split))]
        for split in trained(run.source.folder).best
        if evaluated_accuracy(run, split) is None
    ]  # fmt: skip


def _this_job() -> Record:
    record = Record(engine=os.environ.get("SUBMITIT_EXECUTOR", "debug"), began=time.time())
    if record.engine != "debug":
        environment = submitit.JobEnvironment()
        record.job, record.log = environment.job_id, str(environment.paths.stderr)
    return record


def _ignore_submitit() -> None:
    """SLURM sends the signal that submitit waits for to the runs too; `Job.checkpoint` tells them."""
    signal.signal(submitit.JobEnvironment._usr_sig(), signal.SIG_IGN)

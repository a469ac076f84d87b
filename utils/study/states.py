"""How far each run of a study is: done, running, waiting, stopped or failed, and why."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from utils.base.errors import EXIT_INTERRUPTED
from utils.base.locks import is_held
from utils.base.output import printable
from utils.base.paths import CHOSEN_BY
from utils.evaluation.protocols import PROTOCOLS, read_epochs
from utils.study.job_record import Record, read_record
from utils.study.results import result_of
from utils.study.runs import Run, Study
from utils.training.result import seconds_per_epoch

UNFINISHED = ("running", "stopped", "failed")  # states of runs that left something, and have no place in a table


class State(NamedTuple):
    """How far a run is."""

    run: Run
    word: str  # "done", "running", "waiting", "stopped" or "failed"
    text: str  # its numbers, how far it is, or why not

    def __str__(self) -> str:
        return f"{self.run.name}, seed {self.run.seed}: {self.word}{', ' if self.text else ''}{self.text}"


def states(studies: list[Study]) -> list[State]:
    """The states of all runs. Raises UserError where a folder holds another run than its study asks for."""
    runs = [run for study in studies for run in study.runs]
    records = [read_record(run) for run in runs]
    queue = slurm_queue(records)
    return [state_of(run, record, queue) for run, record in zip(runs, records, strict=True)]


def state_of(run: Run, record: Record | None, queue: dict[str, str] | None) -> State:
    """How far a run is.

    Args:
        record: of its last job.
        queue: what SLURM says of its jobs, see `slurm_queue`.
    """
    result = result_of(run)
    if result is not None:
        numbers = {key: getattr(result, key) for key in PROTOCOLS}
        said = {key: "not available" if value is None else f"{value:.2f} %" for key, value in numbers.items()}
        return State(run, "done", ", ".join(f"{PROTOCOLS[key].name} {said[key]}" for key in said))
    if is_held(run.lock):
        return State(run, "running", _progress(run))
    if record is None and not read_epochs(run.folder):
        return State(run, "waiting", _progress(run))
    if record is not None and record.engine == "slurm" and record.code in (None, EXIT_INTERRUPTED):
        what = "of which squeue says nothing" if queue is None else queue.get(record.job)
        if what is not None:
            return State(run, "waiting", f"SLURM job {record.job}, {what}; {_progress(run)}")
    if record is not None and record.code == 0 and _changed_since(run, record):
        return State(run, "waiting", f"{_progress(run)}; its settings or weights have changed since it was done")
    if record is not None and record.code == 0 and run.source is None and not run.folder.exists():
        return State(run, "waiting", f"{_progress(run)}; its folder was removed since it was done")
    if record is None or record.code == EXIT_INTERRUPTED or record.began is None:
        return State(run, "stopped", f"{_progress(run)}; the study goes on with it when it is started again")
    return State(run, "failed", _failure(run, record))


def _changed_since(run: Run, record: Record) -> bool:
    """Whether a run that ended well has other settings now, or other weights to evaluate: then it is made again."""
    if not run.has_settings():
        return True
    if run.source is None:
        return False
    weights = [run.source.folder / name for name in CHOSEN_BY.values()]
    newer = any(path.exists() and path.stat().st_mtime > record.ended for path in weights)
    return newer or result_of(run.source) is None


def slurm_queue(records: Iterable[Record | None]) -> dict[str, str] | None:
    """Of the user's jobs that SLURM hasn't ended: what it says of each; None where SLURM doesn't answer.

    It is asked only if a record names it.
    """
    if not any(record is not None and record.engine == "slurm" for record in records):
        return {}
    try:
        command = ["squeue", "--me", "--noheader", "--array", "--format=%i %T"]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split(maxsplit=1) for line in said.splitlines())


def _progress(run: Run) -> str:
    """The epoch that a run is in, and about how long it takes to the last one."""
    if run.source is not None:
        return f"evaluates {run.source.name}, seed {run.seed}"
    epochs, last = read_epochs(run.folder), run.config.train.n_epoch
    if not epochs:
        return f"epoch 1 of {last}"
    if len(epochs) >= last:
        return "all epochs are done, evaluates its weights"
    seconds = seconds_per_epoch(epochs)
    left = "unknown time" if seconds is None else timedelta(seconds=round((last - len(epochs)) * seconds))
    return f"epoch {len(epochs) + 1} of {last}, about {left} left"


def _failure(run: Run, record: Record) -> str:
    """Why a run failed, in the last line that says so, and the file that it is from."""
    if record.why is not None:
        return record.why
    if record.code == 0:
        return f"ended, but {run.folder} doesn't hold its results ({run.out})"
    if record.code is not None:
        return f"ended with exit code {record.code}: {last_line(run.out)} ({run.out})"
    log = Path(record.log or run.out)
    return f"its job ended without a word, maybe killed: {last_line(log)} ({log})"


def last_line(path: Path) -> str:
    """The last line of a file of messages."""
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.is_file() else []
    return printable(lines[-1].strip()) if lines else "no output"

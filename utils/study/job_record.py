"""`seed-N.job.json` beside a run of a study: which job had the run last, and how that job ended."""

from __future__ import annotations

from pydantic import BaseModel, ValidationError

from utils.base.atomic import write_text
from utils.base.errors import UserError
from utils.base.text import read_text
from utils.study.runs import Run


class Record(BaseModel):
    """What is known of the last job that had a run."""

    engine: str  # "debug", "local" or "slurm"
    job: str | None = None  # its name there
    log: str | None = None  # file of what submitit and SLURM say of it
    began: float | None = None  # seconds since 1970; None: it waits for its turn
    ended: float | None = None
    code: int | None = None  # the run's exit code; None: it hasn't ended, or was killed together with its job
    why: str | None = None  # the error that kept the run from starting


def read_record(run: Run) -> Record | None:
    """The last job that had a run; None if there was none. Raises UserError where its file is damaged."""
    if not run.record.exists():
        return None
    try:
        return Record.model_validate_json(read_text(run.record))
    except ValidationError:
        raise UserError(f"{run.record}: is damaged; remove it, it only says how the run's last job ended") from None


def write_record(run: Run, record: Record) -> None:
    """Write which job has a run. The caller holds the run's lock."""
    write_text(run.record, record.model_dump_json() + "\n")

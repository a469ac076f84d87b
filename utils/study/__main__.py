"""A matrix of runs, configs x seeds, and the table of their results.

    python -m utils.study configs/studies/main.json                 # on the first GPU, or the CPU
    python -m utils.study configs/studies/main.json --gpu 0,1,2,3   # one run a GPU at a time
    python -m utils.study configs/studies/main.json --cluster slurm # submit each run as a job of a SLURM cluster
    python -m utils.study configs/studies/main.json --status        # how far each run is
    python -m utils.study configs/studies/main.json --table         # only the table, of what is there

configs/studies/README.md says what a study's file holds, and docs/clusters.md more about SLURM.
"""

from __future__ import annotations

import contextlib
import sys

from utils.base.errors import Interrupted, UserError, command
from utils.base.flags import Parser
from utils.base.output import log_to_terminal

ENGINES = ("local", "slurm", "debug")


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m utils.study", description="Run a matrix of configs x seeds.")
    parser.add_argument("study", nargs="+", metavar="STUDY.json", help="several stand side by side in the table")
    parser.add_argument(
        "--gpu",
        help="GPU numbers with commas, or cpu,cpu for two runs at a time on a CPU (default: one, as the mains); with "
        "slurm and debug: what each run is told",
    )
    parser.add_argument("--data_root", metavar="DIR", help="data folder of all runs (default: as their configs say)")
    parser.add_argument(
        "--cluster",
        choices=ENGINES,
        default=ENGINES[0],
        help="where the runs go: on this machine's devices (default), as a job array to SLURM, or one after another in "
        "this process",
    )
    parser.add_argument(
        "--sbatch",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="options of sbatch, besides the study's own: partition=gpu time=240 (minutes) mem=16G gpus-per-node=1 ...",
    )
    parser.add_argument("--status", action="store_true", help="run nothing; say how far each run is")
    parser.add_argument("--table", action="store_true", help="run nothing; make the table of what is there")
    options = parser.parse_args(argv)
    sbatch = dict(map(_option, options.sbatch))
    # Only now: a wrong command line is told at once.
    from utils.study.engines import run_all
    from utils.study.runs import Study, check_apart
    from utils.study.states import states
    from utils.study.table import write_tables

    log_to_terminal()
    studies = [Study(path, options.data_root) for path in options.study]
    check_apart(studies)
    if options.status:
        for state in states(studies):
            print(state)
        return
    if not options.table:
        try:
            run_all(studies, options.cluster, options.gpu, sbatch)
        except (UserError, Interrupted):
            with contextlib.suppress(UserError):  # the first one is told
                write_tables(studies)
            raise
    write_tables(studies)


def _option(text: str) -> tuple[str, str | int]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UserError(f"--sbatch {text}: is not KEY=VALUE, such as partition=gpu")
    return name, int(value) if value.isdecimal() else value


if __name__ == "__main__":
    sys.exit(main())

"""Make an evaluation's page and figures anew: `python -m utils.report Exps/Supv/exp1/eval-test`."""

from __future__ import annotations

import sys
from pathlib import Path

from utils.base.errors import command
from utils.base.flags import Parser
from utils.evaluation.results import REPORT
from utils.report.page import write


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m utils.report", description="Make an evaluation's page anew.")
    parser.add_argument("folder", type=Path, help="where an evaluation wrote, such as Exps/Supv/exp1/eval-test")
    parser.add_argument(
        "--data_root", metavar="DIR", help="data folder whose videos/ has the frames (default: the evaluation's)"
    )
    options = parser.parse_args(argv)
    write(options.folder, options.data_root)
    print(f"report: {options.folder / REPORT}")


if __name__ == "__main__":
    sys.exit(main())

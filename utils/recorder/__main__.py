"""Look at run folders: `python -m utils.recorder compare RUN RUN` tells what differs between two."""

from __future__ import annotations

import sys
from pathlib import Path

from utils.base.errors import command
from utils.base.flags import Parser
from utils.recorder.compare import compare as compare_runs


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m utils.recorder", description="Look at run folders.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    compare = commands.add_parser("compare", help="tell what differs between two runs")
    compare.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="a run folder")
    for line in compare_runs(*parser.parse_args(argv).runs):
        print(line)


if __name__ == "__main__":
    sys.exit(main())

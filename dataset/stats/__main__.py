"""What is in a data folder: `python -m dataset.stats [--data_root data] [--figure FILE.png]`.

Clips and event seconds per category and split, event lengths, background share, what trivial predictors
score (the floor and the ceilings that a result is read against), and videos that appear in several
splits. Needs the label files and the splits; of the features, at most one file's shape.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dataset.stats.counts import folder_statistics
from dataset.stats.table import report_lines
from utils.base.errors import command
from utils.base.flags import Parser
from utils.base.output import log_to_terminal


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m dataset.stats", description="What is in this data folder?")
    parser.add_data_root("root")
    parser.add_argument(
        "--figure", type=Path, help="where the figure goes (default: statistics.png in the data folder)"
    )
    args = parser.parse_args(argv)
    log_to_terminal(sys.stderr)

    statistics = folder_statistics(args.root)
    print(*report_lines(statistics), sep="\n")
    from dataset.stats.figure import save_figure  # a training asks for the numbers alone, without matplotlib

    path = args.figure or args.root / "statistics.png"
    save_figure(statistics, path)
    print(f"\nFigure: {path}")


if __name__ == "__main__":
    sys.exit(main())

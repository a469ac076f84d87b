"""Fetch and verify the AVE files: `python -m dataset.download [--data_root DIR] [--weak] [--checkpoints]`."""

from __future__ import annotations

import sys

from dataset.download import sources
from dataset.download.fetch import download
from utils.base.errors import command
from utils.base.flags import Parser


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m dataset.download", description="Fetch and verify the AVE files.")
    parser.add_data_root("to")
    parser.add_argument("--weak", action="store_true", help="also what weakly supervised training needs (0.4 GB)")
    parser.add_argument("--checkpoints", action="store_true", help="also the authors' two checkpoints, into Exps")
    parser.add_argument("--videos", action="store_true", help="also the raw videos, into the data folder's videos")
    args = parser.parse_args(argv)

    groups = ((args.weak, sources.WEAK), (args.checkpoints, sources.CHECKPOINTS), (args.videos, sources.RAW_VIDEOS))
    wanted = [*sources.SUPERVISED, *(source for asked, group in groups if asked for source in group)]
    download(wanted, args.to)


if __name__ == "__main__":
    sys.exit(main())

"""Print the page of every key of a config: `python -m utils.config > configs/README.md`."""

from __future__ import annotations

import sys

from utils.base.errors import command
from utils.base.flags import Parser
from utils.config.page import page


@command
def main(argv: list[str] | None = None) -> None:
    Parser(prog="python -m utils.config", description="Print the page of every key of a config.").parse_args(argv)
    print(page(), end="")


if __name__ == "__main__":
    sys.exit(main())

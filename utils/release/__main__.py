"""Hand a result on: `python -m utils.release RUN --to FOLDER`

Writes the weights of a run as safetensors, its config, and a card in the form that model hubs take: what the network
was trained on, by which protocol the weights were chosen, its numbers with intervals, and how it was made. The mains'
--resume and `utils.predict --checkpoint` take the folder, and name a file of it that was changed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from utils.base.errors import command
from utils.base.flags import Parser
from utils.evaluation.protocols import PROTOCOLS


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m utils.release", description="Make a folder of a run's result, to be handed on.")
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, such as Exps/Supv/exp1")
    parser.add_argument("--to", required=True, type=Path, metavar="FOLDER", help="a new folder to write")
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="authors",
        help="which weights: of the best epoch on the test split (the default), or on the val split",
    )
    parser.add_argument("--license", default="mit", metavar="ID", help="of the weights, as hubs call it (default: mit)")
    options = parser.parse_args(argv)
    from utils.base import released
    from utils.release.card import card
    from utils.release.facts import facts_of

    content, facts = facts_of(options.run, options.protocol, options.license)
    released.write(options.to, content | {"release": facts}, card(facts))
    print(f"released: {options.to}")
    print(f"before you publish it, read {options.to / released.CARD}: it shows your command line, with its paths")


if __name__ == "__main__":
    sys.exit(main())

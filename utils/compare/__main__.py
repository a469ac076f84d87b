"""Compare evaluations of the same clips: `python -m utils.compare EVAL EVAL ...`

    python -m utils.compare Exps/Supv/exp1/eval-test Exps/Supv/exp2/eval-test   # two checkpoints
    python -m utils.compare configs/studies/main.json                           # the rows of a study, over its seeds

The first is what the others are compared with. Prints Markdown: each one's accuracy, its difference to the first with
the 95 % interval, how many clips it wins and loses; then naming and timing apart, and each category.
"""

from __future__ import annotations

import sys
from pathlib import Path

from utils.base.errors import UserError, command
from utils.base.flags import Parser
from utils.evaluation.protocols import PROTOCOLS


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m utils.compare", description="Is a difference between evaluations one of networks?")
    parser.add_argument(
        "evaluations",
        nargs="+",
        metavar="EVAL",
        help="an evaluation's folder, such as Exps/Supv/exp1/eval-test, or a study's JSON file: each of its rows",
    )
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="authors",
        help="which weights of a study's runs: of the best epoch on the test split, or on the val split",
    )
    options = parser.parse_args(argv)
    from utils.compare.compared import check_same_clips, read_all
    from utils.compare.tables import comparison

    compared = read_all(options.evaluations, options.protocol)
    if len(compared) < 2:
        raise UserError(f"{options.evaluations[0]}: is one evaluation alone; name a second one to compare it with")
    check_same_clips(compared)
    has_study = any(Path(path).is_file() for path in options.evaluations)
    print(comparison(compared, PROTOCOLS[options.protocol] if has_study else None))


if __name__ == "__main__":
    sys.exit(main())

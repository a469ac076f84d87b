"""Generate clips in the AVE format, for the demo, the tests, and benchmarks at full AVE size.

python -m dataset.synthetic --out data/demo                             # the demo data
python -m dataset.synthetic --out FOLDER --annotations Annotations.txt  # AVE's categories, times and splits
"""

from __future__ import annotations

import argparse
import sys

from dataset import files
from dataset.synthetic.clips import DTYPES, Settings
from dataset.synthetic.generate import generate
from utils.base.errors import UserError, command
from utils.base.flags import Parser
from utils.base.output import log_to_terminal
from utils.base.text import read_json


def _parser() -> Parser:
    defaults = Settings()
    parser = Parser(
        prog="python -m dataset.synthetic",
        description="Generate clips in the AVE format with a planted structure. With --out alone: the demo data.",
        argument_default=argparse.SUPPRESS,  # only what was given overrides the defaults of Settings
    )
    parser.add_argument("--data_root", "--out", dest="out", required=True, metavar="DIR", help="folder for the data")
    parser.add_argument("--force", action="store_true", help="replace data generated with other settings")
    for name, text in (
        ("train", "training clips"),
        ("val", "validation clips"),
        ("test", "test clips"),
        ("background-only", "clips without an event (32, or 178 with --annotations)"),
        ("categories", "categories, without background"),
        ("segments", "segments a clip"),
        ("visual-dim", "visual features of a grid cell"),
        ("audio-dim", "audio features of a segment"),
        ("seed", "the same seed gives the same data"),
    ):
        default = getattr(defaults, name.replace("-", "_"))
        parser.add_argument(
            f"--{name}", type=int, metavar="N", help=text + (f" ({default})" if default is not None else "")
        )
    parser.add_argument("--grid", type=int, nargs=2, metavar=("H", "W"), help="cells of the visual grid (7 7)")
    parser.add_argument("--dtype", choices=DTYPES, help=f"type of the stored features ({defaults.dtype})")
    parser.add_argument(
        "--annotations",
        metavar="FILE",
        help="AVE's Annotations.txt: its categories and times, the splits of the order files beside it, "
        "and the real background-only audio if that is beside it too",
    )
    return parser


@command
def main(arguments: list[str] | None = None) -> None:
    given = vars(_parser().parse_args(arguments))
    out, force = given.pop("out"), given.pop("force", False)
    replaced = [name for name in ("train", "val", "test", "categories") if name in given]
    if replaced and "annotations" in given:
        raise UserError(
            f"--{replaced[0]}: with --annotations the file says the categories and splits; leave one of the two away"
        )
    if "grid" in given:
        given["grid"] = tuple(given["grid"])
    log_to_terminal(sys.stderr)
    folder = generate(out, Settings(**given), force=force)
    record = read_json(folder / files.GENERATED)
    size = sum(record["bytes"].values())
    print(f"{folder}: generated data, {size / 1e9:.2f} GB" + "".join(f"; real: {part}" for part in record["real"]))


if __name__ == "__main__":
    sys.exit(main())

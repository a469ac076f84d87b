"""A folder of files, one a clip, and a table, made into a data folder: `python -m dataset.ingest --to DIR ...`.

    --preset ave-pm        --table DIR      --names class_name_mapping.csv --features DIR --to DIR
    --preset vggsound-avel --table FILE.csv --names FILE.txt --visual DIR --audio DIR --labels DIR --to DIR

The README of this folder says what the files may be, and how any other data set is described by flags.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from dataset.ingest.forms import GENERAL, PRESETS, Form
from dataset.labels import MINIMUM_SEGMENTS
from utils.base.errors import UserError, command
from utils.base.flags import Parser


def _parser() -> Parser:
    parser = Parser(prog="python -m dataset.ingest", description="Files of clips and a table -> a data folder.")
    parser.add_argument(
        "--to", "--data_root", dest="to", required=True, type=Path, metavar="DIR", help="the data folder"
    )
    parser.add_argument("--preset", choices=list(PRESETS), help="a data set whose form is known")
    parser.add_argument(
        "--table", required=True, type=Path, metavar="FILE",
        help="a CSV with a line a clip, or a folder of train.csv, val.csv and test.csv",
    )  # fmt: skip
    parser.add_argument(
        "--names", type=Path, metavar="FILE",
        help="categories by index: a text file, one a line, or a .csv with class_id,class_name (default: numbered by "
        "first appearance in the table)",
    )  # fmt: skip
    parser.add_argument("--features", type=Path, metavar="DIR", help="a file a clip that holds all its arrays")
    parser.add_argument("--visual", type=Path, metavar="DIR", help="or a folder a kind: a visual feature file a clip")
    parser.add_argument("--audio", type=Path, metavar="DIR", help="an audio feature file a clip")
    parser.add_argument("--labels", type=Path, metavar="DIR", help="a label file a clip: 1 where its event is")
    parser.add_argument(
        "--dtype", choices=["float16", "float32"], help="of the features (default: float16 where they are)"
    )
    parser.add_argument(
        "--grid", type=int, nargs=2, metavar=("H", "W"), help="of visual features whose shape leaves it open"
    )
    parser.add_argument("--workers", type=int, default=2, help="files read at once (default: %(default)s)")
    form = parser.add_argument_group(
        "what the table's columns and the files' arrays are called (default: the preset's)"
    )
    for name, what in (
        ("id", "column of the ids, which are the files' names"), ("category", "column of the categories"),
        ("split", "column of the splits"), ("start", "column of the events' beginnings, in seconds"),
        ("end", "column of their ends"), ("visual_key", "array of visual features in a file of several"),
        ("audio_key", "array of audio features"), ("labels_key", "array of labels"),
    ):  # fmt: skip
        default = getattr(GENERAL, name)
        form.add_argument(f"--{name}", metavar="NAME", help=what + (f" (default: {default})" if default else ""))
    form.add_argument(
        "--segments", type=int, metavar="T", help="segments of a clip (default: as many as the first has)"
    )
    return parser


def _form(args: argparse.Namespace) -> Form:
    """The form that the flags and the preset say. Raises UserError where they don't fit together."""
    given = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(Form)}
    base = PRESETS[args.preset] if args.preset else GENERAL
    form = dataclasses.replace(base, **{name: value for name, value in given.items() if value is not None})
    if (form.start is None) != (form.end is None):
        raise UserError("--start and --end: give the columns of both, or of none")
    if form.segments is not None and form.segments < MINIMUM_SEGMENTS:
        raise UserError(f"--segments {form.segments}: the networks need clips of at least {MINIMUM_SEGMENTS} segments")
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: give at least 1")
    if args.grid is not None and min(args.grid) < 1:
        raise UserError(f"--grid {args.grid[0]} {args.grid[1]}: give at least 1 x 1")
    if args.preset and args.names is None:
        raise UserError(f"--preset {args.preset}: needs --names, the file that numbers its categories")
    return form


@command
def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    form = _form(args)
    from dataset.ingest.make import make_data_folder
    from dataset.ingest.plan import read_plan

    report = make_data_folder(args.to, read_plan(args, form), args.workers)
    if report is None:
        print(f"{args.to}: already holds these data; remove the folder to make them again")
    else:
        print(*report.lines(args.to), sep="\n")


if __name__ == "__main__":
    sys.exit(main())

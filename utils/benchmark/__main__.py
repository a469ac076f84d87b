"""How fast training and evaluation are, how far from what the machine's matrix products allow, and next to the
authors' way of working.

    python -m utils.benchmark                                   # every row, both supervisions; many minutes on a CPU
    python -m utils.benchmark --rows '*/train/*' '*/eval/*'     # only the steps, on random features in memory
    python -m utils.benchmark --rows 'supervised/epoch/*' --seconds 60
    python -m utils.benchmark --study configs/studies/zoo.json --batch_size 64 --rows '*/train/*'   # every network
    python -m utils.benchmark --rows 'extract/*' --repeats 3    # features of a video: decoding, VGG-19, VGGish, writing

A row is SUPERVISION/WHAT/HOW: a train step and an evaluation of one batch, the data path alone, and whole epochs
(training, then evaluation of val and test) from the files of a generated data set of full AVE size, which is
made once. Of several configs of one supervision each row has its config's name in front; a pattern that says the
supervision chooses all of them. The rows "extract" need the packages of requirements-video.txt and are measured only
where they are named. Each row is measured in a process of its own. The rows "authors" work as the authors
do, with this project's network: float64, a worker DataLoader over HDF5, the loss looked at after every step, the C
library's memory as it comes. Every other row's ratio is to that one of the same config and the same run.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

import torch

from utils.base.atomic import write_text
from utils.base.devices import choose_device
from utils.base.errors import UserError, command
from utils.base.flags import Parser
from utils.base.paths import project_path
from utils.benchmark import extraction
from utils.benchmark.measure import Task, measure_all
from utils.benchmark.rows import choose, read_configs, read_study, with_batch_size
from utils.benchmark.table import rates, table


@command
def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    if args.repeats < 1 or not args.seconds >= 0:
        raise UserError(f"--repeats {args.repeats} --seconds {args.seconds}: at least 1 repeat and 0 seconds")
    default = [str(project_path(f"configs/{name}.json")) for name in ("main", "weak")]
    configs = read_study(args.study) if args.study else read_configs(args.config or default)
    if args.batch_size is not None:
        configs = with_batch_size(configs, args.batch_size)
    device, where = choose_device("cpu" if args.device == "cpu" else "0" if args.device == "cuda" else None)
    if args.device == "cuda" and device.type != "cuda":
        raise UserError("--device cuda: torch sees no GPU; use --device cpu")
    of_extraction = [pattern for pattern in args.rows if pattern.startswith(extraction.PREFIX)]
    cases = choose(configs, device.type, [pattern for pattern in args.rows if pattern not in of_extraction])
    steps = [case for case in cases if case.timed in ("train", "eval")]
    traced = next((case for case in steps if not case.variant.authors), next(iter(steps), None))
    if (args.trace or args.profile) and traced is None:
        raise UserError(
            f"{'--trace' if args.trace else '--profile'}: profiles a train or eval row, and --rows chooses none"
        )
    print(f"{where}; torch {torch.__version__}; batch {', '.join(str(c.train.batch_size) for c in configs.values())}")
    limits = (device.type, args.repeats, args.seconds)
    tasks = [
        Task(case, *limits, args.data_root, args.trace if case is traced else None, args.profile and case in steps)
        for case in cases
    ]
    tasks += extraction.chosen(of_extraction, *limits)
    rows, failures = measure_all(tasks)
    print("\n".join([*table(rows), "", *rates(rows)]))
    if args.json:
        content = {"device": where, "torch": torch.__version__, "threads": torch.get_num_threads()}
        identities = {case.name: case.identity for case in cases}
        content["rows"] = [{**asdict(row), **identities.get(row.name, {})} for row in rows]
        write_text(args.json, json.dumps(content, indent=2) + "\n")
    if failures:
        raise UserError(f"{len(failures)} of {len(tasks)} rows could not be measured; {failures[0]}")


def _parser() -> Parser:
    parser = Parser(
        prog="python -m utils.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: the first GPU, if there is one")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--config", nargs="+", action="extend", metavar="JSON", help="configs to measure (default: main, weak)"
    )
    what.add_argument("--study", metavar="JSON", help="measure the config of each row of a study that trains")
    parser.add_argument("--batch_size", type=_batch_size, metavar="N", help="of all configs (default: each one's own)")
    parser.add_argument("--rows", nargs="+", default=["*"], metavar="PATTERN", help="rows to measure (default: '*')")
    parser.add_argument("--repeats", type=int, default=7, help="steps that a train or eval row times (7)")
    parser.add_argument(
        "--seconds", type=float, default=120, help="longest time for a row's steps; an epoch is cut off then (120)"
    )
    parser.add_argument(
        "--data_root",
        default=str(project_path("data/benchmark")),
        metavar="DIR",
        help="data of the data and epoch rows, generated once (default: %(default)s)",
    )
    parser.add_argument("--json", metavar="FILE", help="also write every number here")
    parser.add_argument("--profile", action="store_true", help="print for each train or eval row its time by operator")
    parser.add_argument("--trace", metavar="FILE", help="profile the first row that isn't the authors', for Perfetto")
    return parser


def _batch_size(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())

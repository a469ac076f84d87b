"""How fast training and evaluation are, how far from what the machine's matrix products allow, and next to the
authors' way of working.

    python -m utils.benchmark                                   # every row, both settings; many minutes on a CPU
    python -m utils.benchmark --rows '*/train/*' '*/eval/*'     # only the steps, on random features in memory
    python -m utils.benchmark --rows 'supervised/epoch/*' --seconds 60

A row is SETTING/WHAT/WAY: a train step and an evaluation of one batch, the data path alone, and whole epochs
(training, then evaluation of val and test) from the files of a generated data set of full AVE size, which is
made once. Each row is measured in a process of its own. The way "authors" is theirs with this project's
network: float64, a worker DataLoader over HDF5, the loss looked at after every step, the C library's memory
as it comes. Every other way's ratio is to that row of the same setting and the same run.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from dataset.synthetic import generate
from utils.base.atomic import write_text
from utils.base.devices import choose_device
from utils.base.errors import UserError, command
from utils.base.flags import Parser
from utils.benchmark.measure import Task
from utils.benchmark.rows import AVE_SIZE, measure_apart, rows_of
from utils.benchmark.table import rates, table
from utils.config import files as config_files


@command
def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    sources = args.config or ["configs/main.json", "configs/weak.json"]
    by_setting = {}
    for source in sources:
        config = config_files.build(config_files.read_json(source), source)
        by_setting["supervised" if config.supervision == "full" else "weak"] = config
    device, story = choose_device("cpu" if args.device == "cpu" else "0" if args.device == "cuda" else None)
    if args.device == "cuda" and device.type != "cuda":
        raise UserError("--device cuda: torch sees no GPU; use --device cpu")
    names = rows_of(list(by_setting), device.type, args.rows)
    if any(name.split("/")[1] in ("data", "epoch") for name in names) and not Path(args.data_root).exists():
        generate.generate(args.data_root, generate.Settings(**AVE_SIZE))
    print(
        f"{story}; torch {torch.__version__}; batch {', '.join(str(c.train.batch_size) for c in by_setting.values())}"
    )
    traced = next((name for name in names if not name.endswith("/authors")), names[0])
    rows = []
    for name in names:
        config = by_setting[name.split("/")[0]]
        trace = args.trace if name == traced else None
        row = measure_apart(Task(name, config, device.type, args.repeats, args.seconds, args.data_root, trace))
        if isinstance(row, str):
            print(f"{name}: not measured: {row}", file=sys.stderr)
            continue
        rows.append(row)
        print(f"{name}: {row.seconds:.4g} s", file=sys.stderr)
    print("\n".join([*table(rows), "", *rates(rows)]))
    if args.json:
        content = {"device": story, "torch": torch.__version__, "threads": torch.get_num_threads()}
        write_text(args.json, json.dumps({**content, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")


def _parser() -> Parser:
    parser = Parser(
        prog="python -m utils.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: the first GPU, if there is one")
    parser.add_argument(
        "--config",
        action="append",
        metavar="JSON",
        help="a config to measure; several may be (default: main, weak)",
    )
    parser.add_argument("--rows", nargs="+", default=["*"], metavar="PATTERN", help="rows to measure (default: '*')")
    parser.add_argument("--repeats", type=int, default=7, help="steps that a train or eval row times (7)")
    parser.add_argument(
        "--seconds", type=float, default=120, help="longest time for a row's steps; an epoch is cut off then (120)"
    )
    parser.add_argument(
        "--data_root", default="data/benchmark", metavar="DIR", help="data of the data and epoch rows (generated once)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write every number here")
    parser.add_argument("--trace", metavar="FILE", help="profile the first row that isn't the authors', for Perfetto")
    return parser


if __name__ == "__main__":
    sys.exit(main())

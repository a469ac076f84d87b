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
import fnmatch
import json
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

import torch

from dataset import synthetic
from utils import config as configs
from utils.atomic import write_text
from utils.errors import UserError, command
from utils.flags import Parser
from utils.measure import WAYS, Row, Task, measure
from utils.runtime import choose_device

_AVE_SIZE = {"train": 3339, "val": 402, "test": 402, "background_only": 178, "categories": 28}


def rows_of(settings: list[str], device: str, patterns: list[str]) -> list[str]:
    """Names of the rows that `patterns` choose, the authors' first in each group. Raises UserError for none."""
    names = [
        f"{setting}/{what}/{way}"
        for what, ways in WAYS.items()
        for setting in settings
        for way, how in ways.items()
        if device in how.devices
    ]
    chosen = [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        raise UserError(f"--rows {' '.join(patterns)}: chooses none of the rows {', '.join(names)}")
    return chosen


def table(rows: list[Row]) -> Iterator[str]:
    """The lines of a Markdown table of measured rows."""
    yield "| | s a step: median (fastest to slowest, steps) | clips/s | ratio to authors | bound | x bound | memory | |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    authors = {row.name.rpartition("/")[0]: row for row in rows if row.name.endswith("/authors")}
    for row in rows:
        first = authors.get(row.name.rpartition("/")[0])
        ratio = f"{row.clips_per_second / first.clips_per_second:.2f}" if first else ""
        limit = (f"{row.bound:.4g}", f"{row.seconds / row.bound:.2f}") if row.bound else ("", "")
        memory = f"{row.host_bytes / 2**30:.1f} GiB"
        if row.device_bytes is not None:
            memory += f", GPU {row.device_bytes / 2**30:.1f} GiB"
        notes = [row.note] if row.note else []
        if row.loading_seconds is not None:
            notes.append(f"{row.features}, loaded in {row.loading_seconds:.1f} s")
        spread = f"{row.seconds:.4g} ({row.fastest:.4g} to {row.slowest:.4g}, {row.steps})"
        cells = [row.name, spread, f"{row.clips_per_second:.4g}", ratio, *limit, memory, "; ".join(notes)]
        yield f"| {' | '.join(cells)} |"


def _rates(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        if row.bound:
            copies = f"; copies move {row.copy_rate / 1e9:.0f} GB/s" if row.copy_rate else ""
            yield (
                f"{row.name}: the bound is {row.flops / 1e9:.0f} GFLOP in matrix products, timed alone: "
                f"{row.rate / 1e9:.0f} GFLOP/s (its fastest kind {row.fastest_rate / 1e9:.0f}){copies}"
            )


def _run(task: Task) -> Row | str:
    """Measure in a fresh process; where that fails, its reason."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(measure, task).result()
        except BrokenProcessPool:
            return "its process was killed; is there enough memory?"
        except torch.OutOfMemoryError as error:
            return f"does not fit into the GPU's memory ({error})".split("\n")[0]


@command
def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    sources = args.config or ["configs/main.json", "configs/weak.json"]
    by_setting = {}
    for source in sources:
        config = configs.build(configs.read_json(source), source)
        by_setting["supervised" if config.model.name == configs.SUPERVISED else "weak"] = config
    device, story = choose_device("cpu" if args.device == "cpu" else "0" if args.device == "cuda" else None)
    if args.device == "cuda" and device.type != "cuda":
        raise UserError("--device cuda: torch sees no GPU; use --device cpu")
    names = rows_of(list(by_setting), device.type, args.rows)
    if any(name.split("/")[1] in ("data", "epoch") for name in names) and not Path(args.data_root).exists():
        synthetic.generate(args.data_root, synthetic.Settings(**_AVE_SIZE))
    print(
        f"{story}; torch {torch.__version__}; batch {', '.join(str(c.train.batch_size) for c in by_setting.values())}"
    )
    traced = next((name for name in names if not name.endswith("/authors")), names[0])
    rows = []
    for name in names:
        config = by_setting[name.split("/")[0]]
        trace = args.trace if name == traced else None
        row = _run(Task(name, config, device.type, args.repeats, args.seconds, args.data_root, trace))
        if isinstance(row, str):
            print(f"{name}: not measured: {row}", file=sys.stderr)
            continue
        rows.append(row)
        print(f"{name}: {row.seconds:.4g} s", file=sys.stderr)
    print("\n".join([*table(rows), "", *_rates(rows)]))
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

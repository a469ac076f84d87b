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
import resource
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import nn

from dataset import files, synthetic
from dataset.ave import AVEDataset, WeakAVEDataset
from dataset.labels import SEGMENTS
from dataset.loading import Batch, Batches, place
from model import build_model
from model.losses import SupervisedLoss, WeakLoss
from model.prediction import Reading
from utils import bound
from utils import config as configs
from utils.atomic import write_text
from utils.config import Config
from utils.errors import UserError, command
from utils.evaluation import evaluate
from utils.flags import Parser
from utils.runtime import autocast, choose_device, dtype_of, keep_freed_memory, seed_everything
from utils.training import Training

GRID = (7, 7)  # of the AVE features
_AVE_SIZE = {"train": 3339, "val": 402, "test": 402, "background_only": 178, "categories": 28}


class Way(NamedTuple):
    """A way of working."""

    precision: str
    features: str  # a value of the setting data.features
    devices: tuple[str, ...] = ("cpu", "cuda")
    authors: bool = False
    compile: bool = False


_AUTHORS = {"authors": Way("float64", "loader", authors=True)}
_PRECISIONS = {name: Way(name, "auto") for name in ("float32", "bfloat16", "float64")}
_COMPILED = {f"{name}-compiled": Way(name, "auto", ("cuda",), compile=True) for name in ("float32", "bfloat16")}
_PLACES = {
    "device": Way("float32", "device", devices=("cuda",)),
    "host": Way("float32", "host"),
    "stream": Way("float32", "stream"),
    "loader": Way("float32", "loader"),
}
# What is measured -> the ways in which it is.
WAYS = {
    "train": _AUTHORS | _PRECISIONS | _COMPILED,
    "eval": _AUTHORS | _PRECISIONS,
    "data": _AUTHORS | _PLACES,
    "epoch": _AUTHORS | _PRECISIONS | _COMPILED | {"stream": _PLACES["stream"]},
}


@dataclass
class Row:
    """A measured row of the table. Times are seconds a step."""

    name: str
    clips: int  # a step
    seconds: float = 0.0  # median
    fastest: float = 0.0
    slowest: float = 0.0
    steps: int = 0  # measured
    bound: float | None = None  # seconds of utils.bound.Bound; train and eval rows
    rate: float | None = None  # its other numbers
    fastest_rate: float | None = None
    copy_rate: float | None = None
    flops: int | None = None  # in matrix products
    throughput: float | None = None  # clips/s over all steps, of data and epoch rows
    loading_seconds: float | None = None  # before the first step
    features: str = ""  # the class of dataset.loading that held them
    total_seconds: float | None = None  # of a whole epoch
    host_bytes: int = 0  # peak of the process, its loader workers left out
    device_bytes: int | None = None
    note: str = ""
    times: list[float] = field(default_factory=list)

    @property
    def clips_per_second(self) -> float:
        """By the median step, or over all steps where these differ in what they wait for."""
        return self.throughput or self.clips / self.seconds


@dataclass(frozen=True)
class Task:
    """What a measuring process needs to know."""

    name: str
    config: Config
    device: str
    repeats: int
    seconds: float
    data_root: str
    trace: str | None = None

    @property
    def what(self) -> str:
        return self.name.split("/")[1]

    @property
    def way(self) -> Way:
        return WAYS[self.what][self.name.split("/")[2]]


def measure(task: Task) -> Row:
    """Measure one row in this process, which should be a fresh one: peak memory is the process's."""
    device, _ = choose_device("cpu" if task.device == "cpu" else None)
    if not task.way.authors:
        keep_freed_memory()
    seed_everything(task.config.train.seed)
    row = Row(task.name, task.config.train.batch_size)
    {"train": _train_step, "eval": _evaluation, "data": _data_path, "epoch": _epoch}[task.what](task, device, row)
    row.seconds, row.fastest, row.slowest = median(row.times), min(row.times), max(row.times)
    row.steps = len(row.times)
    row.host_bytes = _peak_host_memory()
    row.device_bytes = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return row


def _train_step(task: Task, device: torch.device, row: Row) -> None:
    training = _training(task, device, {})
    batch = _random_batch(task.config, device, dtype_of(task.way.precision))
    training.network.train()

    def step() -> None:
        terms, _, _ = training.gradients(batch)
        if task.way.authors:
            terms["total"].item()
        training.optimizer.step()

    network, loss, on_meta = _on_meta(task.config)
    work = bound.count(lambda: loss(network(on_meta.visual, on_meta.audio), on_meta.labels)["total"].backward())
    _time_steps(step, work, task, device, row)


def _evaluation(task: Task, device: torch.device, row: Row) -> None:
    network, _ = _network(task.config)
    network.to(device, dtype_of(task.way.precision)).eval()
    batch = _random_batch(task.config, device, dtype_of(task.way.precision))

    @torch.inference_mode()
    def step() -> None:
        with autocast(device, task.way.precision):
            prediction = network.predict(*network.explain(batch.visual, batch.audio))
        if task.way.authors:
            prediction.segments.cpu()

    counted, _, on_meta = _on_meta(task.config)
    with torch.no_grad():
        work = bound.count(lambda: counted(on_meta.visual, on_meta.audio))
    _time_steps(step, work, task, device, row)


def _data_path(task: Task, device: torch.device, row: Row) -> None:
    batches = _timed_loading(task, device, ("train",), row)["train"]
    _time_epoch(batches, task, device, row, lambda batch: None)


def _epoch(task: Task, device: torch.device, row: Row) -> None:
    batches = _timed_loading(task, device, files.SPLITS, row)
    training = _training(task, device, batches)
    training.network.train()

    def step(batch: Batch) -> None:
        terms, _, _ = training.gradients(batch)
        if task.way.authors:
            terms["total"].item()
        training.optimizer.step()

    start = time.perf_counter()
    if _time_epoch(batches["train"], task, device, row, step):
        for split in ("val", "test"):
            evaluate(training.network, batches[split], training.network.predict, task.way.precision)
        row.total_seconds = time.perf_counter() - start
        row.note = f"{row.total_seconds:.1f} s with the evaluation of val and test"


def _time_steps(step: Callable[[], None], work: bound.Work, task: Task, device: torch.device, row: Row) -> None:
    """Time a step and, in turn with it, its products alone; `task.repeats` times while `task.seconds` last."""
    dtype = torch.bfloat16 if task.way.precision == "bfloat16" else dtype_of(task.way.precision)
    alone = bound.Stopwatch(work, device, dtype)
    for _ in range(3 if device.type == "cuda" else 1):
        step()
    start = time.perf_counter()
    while len(row.times) < task.repeats and (not row.times or time.perf_counter() - start < task.seconds):
        row.times.append(bound.time_once(step, device))
        alone.round()
    row.bound, row.rate, row.fastest_rate, row.copy_rate = alone.bound()
    row.flops = work.flops
    if task.trace:
        _trace(step, device, task.trace)


def _time_epoch(batches: Batches, task: Task, device: torch.device, row: Row, step: Callable[[Batch], None]) -> bool:
    """Time the steps of an epoch for `task.seconds`; returns whether it was whole."""
    start = last = time.perf_counter()
    clips, whole = 0, True
    for batch in batches.epoch(1):
        step(batch)
        clips += len(batch.clips)
        if device.type == "cpu" or task.way.authors:
            now = time.perf_counter()
            row.times.append(now - last)
            last = now
            if now - start > task.seconds and len(row.times) < len(batches):
                row.note, whole = f"the first {len(row.times)} of {len(batches)} steps", False
                break
    bound.synchronize(device)
    seconds = time.perf_counter() - start
    row.throughput = clips / seconds
    row.times = row.times or [seconds / len(batches)]  # nothing waits for a GPU within its epoch
    return whole


def _trace(step: Callable[[], None], device: torch.device, path: str) -> None:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, record_shapes=True) as profile:
        for _ in range(2):
            step()
        bound.synchronize(device)
    profile.export_chrome_trace(path)


def _network(config: Config) -> tuple[nn.Module, nn.Module]:
    return build_model(config.model), SupervisedLoss() if config.model.name == configs.SUPERVISED else WeakLoss()


def _on_meta(config: Config) -> tuple[nn.Module, nn.Module, Batch]:
    """The network, its loss and a batch without numbers, to count with."""
    network, loss = _network(config)
    # In training mode also for evaluation, whose fused kernels would hide the same products.
    return network.to("meta").train(), loss, _random_batch(config, torch.device("meta"), torch.float32)


def _training(task: Task, device: torch.device, batches: dict[str, Batches]) -> Training:
    network, loss = _network(task.config)
    network.to(device, dtype_of(task.way.precision))
    config = task.config.model_copy(
        update={
            "train": task.config.train.model_copy(update={"precision": task.way.precision, "compile": task.way.compile})
        }
    )
    return Training(network, loss, Reading(network.predict, ""), batches, config, recorder=None)


def _random_batch(config: Config, device: torch.device, dtype: torch.dtype) -> Batch:
    """Features like those of AVE, after a ReLU, and labels, all random (on the device "meta": only their shapes)."""
    clips, model = config.train.batch_size, config.model
    shape = (clips, SEGMENTS) if model.name == configs.SUPERVISED else (clips,)
    category = torch.randint(model.categories, shape)
    return Batch(
        torch.randn(clips, SEGMENTS, *GRID, model.video_inputdim, dtype=dtype, device=device).relu_(),
        torch.randn(clips, SEGMENTS, model.audio_inputdim, dtype=dtype, device=device).relu_(),
        nn.functional.one_hot(category, model.categories + 1).float().to(device),
        torch.arange(clips),
        weight=1.0,
    )


def _timed_loading(task: Task, device: torch.device, splits: tuple[str, ...], row: Row) -> dict[str, Batches]:
    start = time.perf_counter()
    kind = AVEDataset if task.config.model.name == configs.SUPERVISED else WeakAVEDataset
    dtype = dtype_of(task.way.precision)
    datasets = {split: kind(task.data_root, split, dtype) for split in splits}
    settings = task.config.data.model_copy(update={"features": task.way.features})
    sizes = {split: task.config.eval.test_batch_size for split in splits} | {"train": task.config.train.batch_size}
    batches = place(datasets, settings, sizes, device, dtype, task.config.train.seed)
    bound.synchronize(device)
    row.loading_seconds = time.perf_counter() - start
    row.features = type(batches[splits[0]]).__name__
    return batches


def _peak_host_memory() -> int:
    """The most memory that this process has had, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the process was before it became this program
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


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
        "--config", action="append", metavar="JSON", help="a config to measure (default: main and weak)"
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

"""One row of the benchmark: a way of working, what of it is timed, and the numbers."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import nn

from dataset import files
from dataset.ave import AVEDataset, WeakAVEDataset
from dataset.labels import SEGMENTS
from dataset.loading import Batch, Batches, fitting_placement, make_batches
from model import build_loss, build_model
from model.localization import Localization
from utils.base.devices import autocast, choose_device, dtype_of
from utils.base.memory import keep_freed_memory
from utils.benchmark import roofline
from utils.config.settings import Config
from utils.evaluation.evaluate import evaluate
from utils.training.randomness import seed_everything
from utils.training.state import Training

GRID = (7, 7)  # of the AVE features


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
    bound: float | None = None  # seconds of utils.benchmark.roofline.Bound; train and eval rows
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
    work = roofline.count(lambda: loss(network(on_meta.visual, on_meta.audio), on_meta.labels)["total"].backward())
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
        work = roofline.count(lambda: counted(on_meta.visual, on_meta.audio))
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

    if device.type == "cuda":  # what the first epochs do once: loading kernels, compiling, recording CUDA graphs
        for _ in range(3 if task.way.compile else 1):
            for batch in batches["train"].epoch(0):
                step(batch)
        roofline.synchronize(device)
    start = time.perf_counter()
    if _time_epoch(batches["train"], task, device, row, step):
        for split in ("val", "test"):
            evaluate(training.network, batches[split], training.network.predict, task.way.precision)
        row.total_seconds = time.perf_counter() - start
        row.note = f"{row.total_seconds:.1f} s with the evaluation of val and test"


def _time_steps(step: Callable[[], None], work: roofline.Work, task: Task, device: torch.device, row: Row) -> None:
    """Time a step and, in turn with it, its products alone; `task.repeats` times while `task.seconds` last."""
    dtype = torch.bfloat16 if task.way.precision == "bfloat16" else dtype_of(task.way.precision)
    alone = roofline.Stopwatch(work, device, dtype)
    for _ in range(3 if device.type == "cuda" else 1):
        step()
    start = time.perf_counter()
    while len(row.times) < task.repeats and (not row.times or time.perf_counter() - start < task.seconds):
        row.times.append(roofline.time_once(step, device))
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
    roofline.synchronize(device)
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
        roofline.synchronize(device)
    profile.export_chrome_trace(path)


def _network(config: Config) -> tuple[nn.Module, nn.Module]:
    return build_model(config.model), build_loss(config.model)


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
    return Training(network, loss, Localization(network), batches, config, recorder=None)


def _random_batch(config: Config, device: torch.device, dtype: torch.dtype) -> Batch:
    """Features like those of AVE, after a ReLU, and labels, all random (on the device "meta": only their shapes)."""
    clips, model = config.train.batch_size, config.model
    shape = (clips, SEGMENTS) if config.supervision == "full" else (clips,)
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
    kind = AVEDataset if task.config.supervision == "full" else WeakAVEDataset
    dtype = dtype_of(task.way.precision)
    datasets = {split: kind(task.data_root, split, dtype) for split in splits}
    sizes = {split: task.config.eval.test_batch_size for split in splits} | {"train": task.config.train.batch_size}
    placement = task.way.features if task.way.features != "auto" else fitting_placement(datasets, device)
    workers = task.config.data.workers
    batches = make_batches(datasets, placement, sizes, device, task.config.train.seed, workers=workers)
    roofline.synchronize(device)
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

"""Measuring the rows of the benchmark, each in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Protocol

import torch
from torch import nn
from torch.utils.benchmark import timer

from dataset import files
from dataset.ave import AVEDataset, WeakAVEDataset
from dataset.labels import SEGMENTS
from dataset.loading import Batch, Batches
from dataset.synthetic import generate
from model import build_loss, build_model
from model.localization import Localization
from utils.base.atomic import atomic_path
from utils.base.devices import autocast, choose_device, dtype_of
from utils.base.errors import UserError
from utils.base.memory import keep_freed_memory, without_tcache
from utils.benchmark.roofline import ProductTimer, Work, count
from utils.benchmark.rows import Case, Row, Variant
from utils.config.settings import Config
from utils.evaluation.evaluate import evaluate
from utils.evaluation.splits import batches_of, check_sizes
from utils.evaluation.threshold import check_localization
from utils.training.compiled import Compiled
from utils.training.randomness import seed_everything
from utils.training.state import Training

AVE_SIZE = {"train": 3339, "val": 402, "test": 402, "background_only": 178, "categories": 28}
GRID = (7, 7)  # of the AVE features


@dataclass(frozen=True)
class Task:
    """What a measuring process needs to know."""

    case: Case
    device: str  # cpu or cuda
    repeats: int  # steps that a train or eval row times,
    seconds: float  # while these last; an epoch is cut off after them
    data_root: str
    trace: str | None = None  # a file
    profile: bool = False  # whether to print where a train or eval row's time goes

    @property
    def name(self) -> str:
        return self.case.name

    @property
    def config(self) -> Config:
        return self.case.config

    @property
    def variant(self) -> Variant:
        return self.case.variant

    @property
    def authors(self) -> bool:
        return self.variant.authors

    def prepare(self) -> None:
        """Make the data that the row reads, where they aren't there."""
        if self.case.timed in ("data", "epoch") and not Path(self.data_root).exists():
            generate.generate(self.data_root, generate.Settings(**AVE_SIZE))

    def run(self) -> Row:
        """Measure the row in this process."""
        return measure(self)


class Measurable(Protocol):
    """A row to be measured in a process of its own."""

    name: str

    @property
    def authors(self) -> bool:
        """Whether the C library handles memory as it comes."""

    def prepare(self) -> None: ...

    def run(self) -> Row: ...


def measure_all(tasks: Sequence[Measurable]) -> tuple[list[Row], list[str]]:
    """The rows of some tasks, told on stderr as they come, and the reasons of those that could not be measured."""
    rows, failures = [], []
    for task in tasks:
        try:
            rows.append(measure_apart(task))
            print(f"{task.name}: {rows[-1].seconds:.4g} s", file=sys.stderr)
        except UserError as error:
            failures.append(f"{task.name}: {error}")
            print(f"not measured: {failures[-1]}", file=sys.stderr)
    return rows, failures


def measure_apart(task: Measurable) -> Row:
    """Measure in a fresh process. Raises UserError where that fails for a reason that the user can change."""
    task.prepare()
    variables = dict(os.environ) if task.authors else without_tcache(os.environ)
    with _environment(variables), ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(task.run).result()
        except BrokenProcessPool:
            raise UserError("its process was killed; is there enough memory?") from None
        except torch.OutOfMemoryError as error:
            raise UserError(f"does not fit into the GPU's memory ({str(error).splitlines()[0]})") from None


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Within it, processes are started with these variables."""
    before = dict(os.environ)
    os.environ |= variables
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


def measure(task: Task) -> Row:
    """Measure one row in this process, which should be a fresh one: peak memory is the process's."""
    device, _ = choose_device("cpu" if task.device == "cpu" else None)
    if not task.authors:
        keep_freed_memory()
    seed_everything(task.config.train.seed)
    row = Row(task.case.name, task.config.train.batch_size)
    {"train": _train_step, "eval": _evaluation, "data": _data_path, "epoch": _epoch}[task.case.timed](task, device, row)
    row.seconds, row.fastest, row.slowest = median(row.times), min(row.times), max(row.times)
    row.steps = len(row.times)
    row.host_bytes = row.host_bytes or peak_host_memory()
    row.device_bytes = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return row


def _train_step(task: Task, device: torch.device, row: Row) -> None:
    training = _training(task, device, {})
    batch = _random_batch(task.config, device, dtype_of(task.variant.precision))
    training.network.train()
    _time_steps(lambda: _update(training, batch, task), training_work(task.config), task, device, row)


def _evaluation(task: Task, device: torch.device, row: Row) -> None:
    network = build_model(task.config.model)
    network.to(device, dtype_of(task.variant.precision)).eval()
    batch = _random_batch(task.config, device, dtype_of(task.variant.precision))

    @torch.inference_mode()
    def step() -> None:
        with autocast(device, task.variant.precision):
            prediction = network.predict(*network.explain(batch.visual, batch.audio))
        if task.authors:
            prediction.segments.cpu()

    _time_steps(step, evaluation_work(task.config), task, device, row)


def _data_path(task: Task, device: torch.device, row: Row) -> None:
    batches = _timed_loading(task, device, ("train",), row)["train"]
    _time_epoch(batches, task, device, row, lambda batch: None)


def _epoch(task: Task, device: torch.device, row: Row) -> None:
    batches = _timed_loading(task, device, files.SPLITS, row)
    training = _training(task, device, batches)
    check_localization(training.network, batches["train"].dataset, training.localization)
    training.network.train()

    def step(batch: Batch) -> None:
        _update(training, batch, task)

    if device.type == "cuda":  # what the first epochs do once: loading kernels, compiling, recording CUDA graphs
        for _ in range(3 if task.variant.compile else 1):
            for batch in batches["train"].epoch(0):
                step(batch)
    start = timer()
    if _time_epoch(batches["train"], task, device, row, step):
        for split in ("val", "test"):
            evaluate(training.network, batches[split], training.network.predict, task.variant.precision)
        row.total_seconds = timer() - start
        row.note = f"{row.total_seconds:.1f} s with the evaluation of val and test"


def _update(training: Training, batch: Batch, task: Task) -> None:
    """A training step; the authors look at the loss after each."""
    terms, _, _ = training.gradients(batch)
    if isinstance(training.forward, Compiled) and training.forward.failed:
        raise UserError("torch.compile failed, for the reason above")
    if task.authors:
        terms["total"].item()
    training.optimizer.step()


def _time_steps(step: Callable[[], None], work: Work, task: Task, device: torch.device, row: Row) -> None:
    """Time a step and, in turn with it, its products alone; `task.repeats` times while `task.seconds` last."""
    dtype = torch.bfloat16 if task.variant.precision == "bfloat16" else dtype_of(task.variant.precision)
    alone = ProductTimer(work, device, dtype)
    for _ in range(3 if device.type == "cuda" else 1):
        step()
    start = timer()
    while len(row.times) < task.repeats and (not row.times or timer() - start < task.seconds):
        before = timer()  # waits for the device; a call of `Timer` would warm up before each step
        step()
        row.times.append(timer() - before)
        row.host_bytes = row.host_bytes or peak_host_memory()  # before the products alone add theirs
        alone.round()
    row.roofline, row.rate, row.fastest_rate, row.copy_rate = alone.roofline()
    row.flops = work.flops
    if task.trace or task.profile:
        _profile(step, device, task)


def _time_epoch(batches: Batches, task: Task, device: torch.device, row: Row, step: Callable[[Batch], None]) -> bool:
    """Time the steps of an epoch for `task.seconds`; returns whether it was whole."""
    start = last = timer()
    clips, whole = 0, True
    for batch in batches.epoch(1):
        step(batch)
        clips += len(batch.clips)
        if device.type == "cpu" or task.authors:
            now = timer()
            row.times.append(now - last)
            last = now
            if now - start > task.seconds and len(row.times) < len(batches):
                row.note, whole = f"the first {len(row.times)} of {len(batches)} steps", False
                break
    seconds = timer() - start
    row.throughput = clips / seconds
    row.times = row.times or [seconds / len(batches)]  # nothing waits for a GPU within its epoch
    return whole


def _profile(step: Callable[[], None], device: torch.device, task: Task) -> None:
    """Write two steps to `task.trace` and print by operator where their time goes, as the task has it."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, record_shapes=True, profile_memory=task.profile) as profile:
        for _ in range(2):
            step()
        timer()
    if task.profile:
        print(f"{task.name}, two steps by operator:")
        sort_by = f"self_{device.type}_time_total"
        print(profile.key_averages().table(sort_by=sort_by, row_limit=25, max_name_column_width=40), flush=True)
    if task.trace:
        with tempfile.TemporaryDirectory() as folder, atomic_path(task.trace) as part:
            written = Path(folder) / Path(task.trace).name  # the profiler says nothing of a file that it can't write
            profile.export_chrome_trace(str(written))
            part.write_bytes(written.read_bytes())


def training_work(config: Config) -> Work:
    """The matrix products of a training step."""
    network, loss, batch = _on_meta(config)
    return count(lambda: loss(network(batch.visual, batch.audio), batch.labels)["total"].backward())


def evaluation_work(config: Config) -> Work:
    """The matrix products of the evaluation of a batch."""
    network, _, batch = _on_meta(config)
    with torch.no_grad():
        return count(lambda: network(batch.visual, batch.audio))


def _on_meta(config: Config) -> tuple[nn.Module, nn.Module, Batch]:
    """The network, its loss and a batch without numbers, to count with."""
    batch = _random_batch(config, torch.device("meta"), torch.float32)
    with torch.device("meta"):
        # In training mode also for evaluation, whose fused kernels would hide the same products.
        return build_model(config.model).train(), build_loss(config.model), batch


def _training(task: Task, device: torch.device, batches: dict[str, Batches]) -> Training:
    network = build_model(task.config.model).to(device, dtype_of(task.variant.precision))
    changes = {"precision": task.variant.precision, "compile": task.variant.compile}
    config = task.config.model_copy(update={"train": task.config.train.model_copy(update=changes)})
    return Training(network, build_loss(config.model), Localization(network), batches, config, recorder=None)


def _random_batch(config: Config, device: torch.device, dtype: torch.dtype) -> Batch:
    """Features like those of AVE, after a ReLU, and labels, all random (on the device "meta": only their shapes)."""
    clips, model = config.train.batch_size, config.model
    segments, grid = getattr(model, "segments", SEGMENTS), getattr(model, "grid", GRID)  # some are made for one size
    shape = (clips, segments) if config.supervision == "full" else (clips,)
    category = torch.randint(model.categories, shape)
    return Batch(
        torch.randn(clips, segments, *grid, model.video_inputdim, dtype=dtype, device=device).relu_(),
        torch.randn(clips, segments, model.audio_inputdim, dtype=dtype, device=device).relu_(),
        nn.functional.one_hot(category, model.categories + 1).float().to(device),
        torch.arange(clips),
        weight=1.0,
    )


def _timed_loading(task: Task, device: torch.device, splits: Sequence[str], row: Row) -> dict[str, Batches]:
    start = timer()
    kind = AVEDataset if task.config.supervision == "full" else WeakAVEDataset
    regime = {} if task.config.supervision == "full" else {"label_regime": task.config.label_regime}
    datasets = {split: kind(task.data_root, split, dtype_of(task.variant.precision), **regime) for split in splits}
    check_sizes(datasets[splits[0]], task.config.model)
    sizes = {split: task.config.eval.test_batch_size for split in splits} | {"train": task.config.train.batch_size}
    data = task.config.data.model_copy(update={"placement": task.variant.placement})
    batches = batches_of(datasets, data, sizes, device, task.config.train.seed)
    row.loading_seconds = timer() - start
    row.features = type(batches[splits[0]]).__name__
    return batches


def peak_host_memory() -> int:
    """The most memory that this process has had, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the process was before it became this program
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

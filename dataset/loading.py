"""Batches of a split: from memory (resident), from the file in shuffled blocks (streamed), or by a DataLoader.

Which clips an epoch's k-th step sees depends on the seed, the epoch and k alone, not on the device, the number
of readers, or what ran before: a run can go on from any step. Every clip comes exactly once an epoch.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from dataset.ave import AVEDataset
from dataset.reading import read_clips, resident_dtype, split_bytes
from utils.config import DataSettings

BLOCK_CLIPS = 64  # neighbours in the file that are read together when streaming
POOL_BLOCKS = 8  # blocks among which a streamed clip is shuffled; two pools are in memory at a time

# Left free for the network's own work when features move in: a training step of 64 AVE clips, with room to spare.
DEVICE_RESERVE = 6 * 2**30
HOST_RESERVE = 5 * 2**30

_log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """The clips of one step (b of them) on one device."""

    visual: Tensor  # [b, T, H, W, Dv]
    audio: Tensor  # [b, T, Da]
    labels: Tensor  # [b, T, C+1] or [b, C+1]
    clips: Tensor  # [b] int64, on the CPU: position of each clip in its split
    weight: float  # this process's share of the step's clips times the number of processes; 1 for a single one


class Shard(NamedTuple):
    """Which part of every step's clips this process works on."""

    rank: int = 0
    world: int = 1


_ALONE = Shard()


class Batches:
    """Batches of one split; subclasses say where the features come from.

    Args:
        dataset: the split.
        batch_size: clips a step, over all processes. The last, shorter batch is kept.
        device, dtype: of the features handed out (labels stay float32).
        seed: None keeps the split's order (evaluation); a number shuffles each epoch anew.
    """

    def __init__(
        self,
        dataset: AVEDataset,
        batch_size: int,
        device: torch.device,
        dtype: torch.dtype,
        seed: int | None = None,
        shard: Shard = _ALONE,
    ) -> None:
        self.dataset, self.batch_size, self.seed, self.shard = dataset, batch_size, seed, shard
        self.device, self.dtype = device, dtype

    def __len__(self) -> int:
        """Steps an epoch."""
        return -(-len(self.dataset) // self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """The split's positions in the order in which an epoch visits them, [clips] int64."""
        if self.seed is None:
            return torch.arange(len(self.dataset))
        return torch.randperm(len(self.dataset), generator=_generator(self.seed, epoch))

    def steps(self, epoch: int) -> list[tuple[Tensor, float]]:
        """For each step of an epoch, the positions of this process's clips and its `Batch.weight`."""
        rank, world = self.shard
        steps = []
        for clips in self.order(epoch).split(self.batch_size):
            mine = clips[rank::world]
            # A process without a clip in a short last batch still takes part in the step, with weight 0.
            weight = len(mine) * world / len(clips)
            steps.append((mine if len(mine) else clips[:1], weight))
        return steps

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step `first_step` on."""
        raise NotImplementedError


class ResidentBatches(Batches):
    """The whole split lies in memory, on the device or on the host; a batch is an index_select.

    Args (besides those of Batches):
        home: the device whose memory holds the features.
        workers: reading threads.
    """

    def __init__(self, *args, home: torch.device, workers: int = 2, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        stored = resident_dtype(self.dataset, self.dtype)
        everything = torch.arange(len(self.dataset))
        self.visual, self.audio = read_clips(
            self.dataset,
            everything,
            stored,
            home,
            workers,
            description=f"loading {self.dataset.split}" if self.shard.rank == 0 else None,
        )
        self.labels = torch.from_numpy(self.dataset.labels).to(home)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        steps = self.steps(epoch)[first_step:]
        if self.visual.device == self.device:
            return (self._batch(*step) for step in steps)
        return _ahead(self._batch(*step) for step in steps)

    def _batch(self, clips: Tensor, weight: float) -> Batch:
        rows = clips.to(self.visual.device)
        visual, audio, labels = (x.index_select(0, rows) for x in (self.visual, self.audio, self.labels))
        return _on_device(self, visual, audio, labels, clips, weight)


class StreamedBatches(Batches):
    """Features are read from the files as they are needed: memory doesn't grow with the data set.

    The split's clips are cut, in file order, into blocks of neighbours; an epoch visits the blocks in a new
    order, and shuffles the clips among POOL_BLOCKS blocks at a time. The next pool is read while the network
    works on this one.
    """

    def __init__(self, *args, workers: int = 2, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.workers = workers
        self.pool_clips = max(self.batch_size, BLOCK_CLIPS * POOL_BLOCKS // self.batch_size * self.batch_size)

    def order(self, epoch: int) -> Tensor:
        if self.seed is None:
            return super().order(epoch)
        generator = _generator(self.seed, epoch)
        blocks = self.dataset.file_order().split(BLOCK_CLIPS)
        shuffled = torch.cat([blocks[i] for i in torch.randperm(len(blocks), generator=generator)])
        pools = shuffled.split(self.pool_clips)
        return torch.cat([pool[torch.randperm(len(pool), generator=generator)] for pool in pools])

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        return _ahead(self._batches(self.steps(epoch)[first_step:]))

    def _batches(self, steps: list[tuple[Tensor, float]]) -> Iterator[Batch]:
        per_pool = self.pool_clips // self.batch_size
        pools = [steps[i : i + per_pool] for i in range(0, len(steps), per_pool)]
        labels = torch.from_numpy(self.dataset.labels)
        for visual, audio, pool in _ahead(self._read_pool(pool) for pool in pools):
            sizes = [len(clips) for clips, _ in pool]
            for v, a, (clips, weight) in zip(visual.split(sizes), audio.split(sizes), pool, strict=True):
                yield _on_device(self, v, a, labels[clips], clips, weight)

    def _read_pool(self, pool: list[tuple[Tensor, float]]) -> tuple[Tensor, Tensor, list[tuple[Tensor, float]]]:
        clips = torch.cat([clips for clips, _ in pool])
        dtype = resident_dtype(self.dataset, self.dtype)
        visual, audio = read_clips(self.dataset, clips, dtype, torch.device("cpu"), self.workers)
        return visual, audio, pool


class LoaderBatches(Batches):
    """A torch DataLoader over the data set's items, with worker processes: the authors' way of loading."""

    def __init__(self, *args, workers: int = 2, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.workers = workers

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        steps = self.steps(epoch)[first_step:]
        loader = DataLoader(
            self.dataset,
            batch_sampler=_Steps(steps),
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            # Without it each epoch's workers would draw their base seed from, and so disturb, the run's generator.
            generator=torch.Generator(),
        )
        for (visual, audio, labels), (clips, weight) in zip(loader, steps, strict=True):
            yield _on_device(self, visual, audio, labels, clips, weight)


class _Steps(Sampler):
    def __init__(self, steps: list[tuple[Tensor, float]]) -> None:
        self.steps = steps

    def __iter__(self) -> Iterator[list[int]]:
        return (clips.tolist() for clips, _ in self.steps)

    def __len__(self) -> int:
        return len(self.steps)


def place(
    datasets: dict[str, AVEDataset],
    settings: DataSettings,
    batch_sizes: dict[str, int],
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
    shard: Shard = _ALONE,
) -> dict[str, Batches]:
    """Batches for each split of a run, the features where `settings.features` says or where they fit.

    The split "train" is shuffled by `seed`; the others keep their order. Logs where the features are.
    """
    needed = sum(split_bytes(dataset, dtype) for dataset in datasets.values())
    where = settings.features if settings.features != "auto" else _where_it_fits(needed, device, shard.world)
    _log.info(f"features: {needed / 2**30:.1f} GiB {_PLACES[where]}")
    kind = {"stream": StreamedBatches, "loader": LoaderBatches}.get(where, ResidentBatches)
    more = {"home": device if where == "device" else torch.device("cpu")} if kind is ResidentBatches else {}
    return {
        split: kind(
            dataset,
            batch_sizes[split],
            device,
            dtype,
            seed=seed if split == "train" else None,
            shard=shard,
            workers=settings.workers,
            **more,
        )
        for split, dataset in datasets.items()
    }


_PLACES = {
    "device": "resident in the device's memory",
    "host": "resident in main memory",
    "stream": "streamed from the files, in shuffled blocks",
    "loader": "read clip by clip by a DataLoader",
}


def _where_it_fits(needed: int, device: torch.device, processes: int) -> str:
    if device.type == "cuda" and needed + DEVICE_RESERVE < torch.cuda.mem_get_info(device)[0]:
        return "device"
    return "host" if needed + HOST_RESERVE < available_memory() // processes else "stream"


def available_memory() -> int:
    """Main memory that this process may still take, in bytes: the machine's, or its control group's if that is less."""
    available = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        relative = Path("/proc/self/cgroup").read_text().strip().splitlines()[-1].split("::", 1)[1].lstrip("/")
        group = group / relative
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            available = min(available, int(limit) - int((group / "memory.current").read_text()))
    except (OSError, IndexError, ValueError):
        pass  # not Linux's control groups version 2: the machine's number stands
    return available


def _generator(seed: int, epoch: int) -> torch.Generator:
    # One 64-bit number for each pair, so that epochs of neighbouring seeds don't repeat each other.
    return torch.Generator().manual_seed((seed << 32) + epoch)


def _on_device(batches: Batches, visual: Tensor, audio: Tensor, labels: Tensor, clips: Tensor, weight: float) -> Batch:
    def move(x: Tensor, dtype: torch.dtype) -> Tensor:
        if batches.device.type == "cuda" and x.device.type == "cpu" and not x.is_pinned():
            x = x.pin_memory()  # only from pinned memory does a copy run beside the computation
        return x.to(batches.device, non_blocking=True).to(dtype)

    return Batch(move(visual, batches.dtype), move(audio, batches.dtype), move(labels, labels.dtype), clips, weight)


def _ahead(items: Iterator, depth: int = 1) -> Iterator:
    """The items of an iterator, made by a thread of its own while the caller works on earlier ones."""
    ready: queue.Queue = queue.Queue(maxsize=depth)
    stopped = threading.Event()
    end = object()

    def put(item: object) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((end, None))
        except BaseException as error:  # handed over: it is the caller's to raise
            put((end, error))

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stopped.set()
        thread.join()

"""Batches of a split: from memory (resident), from the file in shuffled blocks (streamed), or by a DataLoader.

Which clips an epoch's k-th step sees depends on the seed, the epoch, k, and whether the run began by streaming; not
on the device, the number of readers, or what ran before. A run can go on from any step, wherever its features are
then: the kind of order goes with it (`Batches.in_blocks`). Every clip comes exactly once an epoch.
"""

from __future__ import annotations

import collections
import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dataset.ave import AVEDataset
from dataset.clips import read_clips, split_bytes
from dataset.prefetch import ahead, one_ahead
from utils.base import memory
from utils.base.errors import UserError

BLOCK_CLIPS = 64  # neighbours in the file that are read together when streaming
POOL_BLOCKS = 8  # blocks among which a streamed clip is shuffled; two pools are in memory at a time

# Left free for the network's own work when features move in: a training step of 64 AVE clips, with room to spare.
DEVICE_RESERVE = 6 * 2**30
HOST_RESERVE = 4 * 2**30

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
    world_size: int = 1


_ALONE = Shard()


class Batches(ABC):
    """Batches of one split; each subclass keeps the features elsewhere until their step.

    Args:
        dataset: the split; features are handed out in its `dtype` (labels stay float32).
        batch_size: clips a step, over all processes. The last, shorter batch is kept.
        device: of the features and labels handed out.
        seed: None keeps the split's order (evaluation); a number shuffles each epoch anew.
        workers: reading threads; worker processes of LoaderBatches.

    Attributes:
        prefetches: whether a thread makes the next batch while the network works on this one.
        in_blocks: how it shuffles: False: all clips; True: blocks of neighbours in the files, and clips among few
            blocks at a time, because reading neighbours is what makes streaming quick.
    """

    prefetches = False
    in_blocks = False

    def __init__(
        self,
        dataset: AVEDataset,
        batch_size: int,
        device: torch.device,
        seed: int | None = None,
        shard: Shard = _ALONE,
        workers: int = 2,
    ) -> None:
        self.dataset, self.batch_size, self.seed, self.shard, self.workers = dataset, batch_size, seed, shard, workers
        self.device, self.dtype = device, dataset.dtype

    def __len__(self) -> int:
        """Steps an epoch."""
        return -(-len(self.dataset) // self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """The split's positions in the order in which an epoch visits them, [clips] int64."""
        if self.seed is None:
            return torch.arange(len(self.dataset))
        generator = epoch_generator(self.seed, epoch)
        if not self.in_blocks:
            return torch.randperm(len(self.dataset), generator=generator)
        blocks = self.dataset.file_order().split(BLOCK_CLIPS)
        shuffled = torch.cat([blocks[i] for i in torch.randperm(len(blocks), generator=generator)])
        pools = shuffled.split(self.pool_clips)
        return torch.cat([pool[torch.randperm(len(pool), generator=generator)] for pool in pools])

    @property
    def pool_clips(self) -> int:
        """Clips that are shuffled together, and read together, when streaming."""
        return max(self.batch_size, BLOCK_CLIPS * POOL_BLOCKS // self.batch_size * self.batch_size)

    def steps(self, epoch: int) -> list[tuple[Tensor, float]]:
        """For each step of an epoch, the positions of this process's clips and its `Batch.weight`."""
        rank, world_size = self.shard
        steps = []
        for clips in self.order(epoch).split(self.batch_size):
            mine = clips[rank::world_size]
            # A process without a clip in a short last batch still takes part in the step, with weight 0.
            weight = len(mine) * world_size / len(clips)
            steps.append((mine if len(mine) else clips[:1], weight))
        return steps

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step `first_step` on."""
        return self.batches_of(self.steps(epoch)[first_step:])

    def batches_of(self, steps: list[tuple[Tensor, float]]) -> Iterator[Batch]:
        """The batches of some steps, which `steps` returned, or that are of any other clips."""
        batches = self._in_memory(steps)
        return self._prefetched(batches) if self.prefetches else map(self._moved, batches)

    @abstractmethod
    def _in_memory(self, steps: list[tuple[Tensor, float]]) -> Iterator[Batch]:
        """The batches of some steps, wherever and in whatever precision their features wait."""

    def _prefetched(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Batches made and moved to the device while the network works on the one before."""
        if self.device.type != "cuda":
            yield from one_ahead(self._moved(batch) for batch in batches)
            return
        stream = _copy_stream(self.device)  # copies run beside the computation

        def copies() -> Iterator[tuple[Batch, torch.cuda.Event]]:
            torch.cuda.set_device(self.device)  # a thread begins on GPU 0, and would take memory there
            for batch in batches:
                with torch.cuda.stream(stream):
                    moved = self._moved(batch)
                    yield moved, stream.record_event()

        computed: collections.deque[torch.cuda.Event] = collections.deque()
        for batch, arrived in one_ahead(copies()):
            current = torch.cuda.current_stream(self.device)
            current.wait_event(arrived)
            for x in (batch.visual, batch.audio, batch.labels):
                x.record_stream(current)
            yield batch
            computed.append(current.record_event())
            if len(computed) > 2:  # batches that the GPU hasn't come to yet lie in its memory
                computed.popleft().synchronize()

    def _moved(self, batch: Batch) -> Batch:
        def move(x: Tensor) -> Tensor:
            if self.device.type == "cuda" and x.device.type == "cpu" and not x.is_pinned():
                x = x.pin_memory()  # only from pinned memory does a copy run beside the computation
            return x.to(self.device, non_blocking=True)

        visual, audio = move(batch.visual).to(self.dtype), move(batch.audio).to(self.dtype)
        return batch._replace(visual=visual, audio=audio, labels=move(batch.labels))


class ResidentBatches(Batches):
    """The whole split lies in memory, on the device or on the host; a batch is an index_select.

    Args (besides those of Batches):
        home: the device whose memory holds the features.
    """

    def __init__(self, *args, home: torch.device, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.visual, self.audio = read_clips(
            self.dataset,
            torch.arange(len(self.dataset)),
            home,
            self.workers,
            description=f"loading {self.dataset.split}" if self.shard.rank == 0 else None,
        )
        self.labels = torch.from_numpy(self.dataset.labels).to(home)
        self.prefetches = self.visual.device != self.device

    def _in_memory(self, steps: list[tuple[Tensor, float]]) -> Iterator[Batch]:
        order = torch.cat([torch.empty(0, dtype=torch.int64), *(clips for clips, _ in steps)])
        # To the device at once: a copy for each step would wait there until the step before is computed.
        positions = order.to(self.visual.device).split([len(clips) for clips, _ in steps])
        for (clips, weight), chosen in zip(steps, positions, strict=True):
            visual, audio, labels = (x.index_select(0, chosen) for x in (self.visual, self.audio, self.labels))
            yield Batch(visual, audio, labels, clips, weight)


class StreamedBatches(Batches):
    """Features are read from the files as they are needed: memory doesn't grow with the data set.

    The split's clips are cut, in file order, into blocks of neighbours; an epoch visits the blocks in a new
    order, and shuffles the clips among POOL_BLOCKS blocks at a time. The next pool is read while the network
    works on this one.
    """

    prefetches = True
    in_blocks = True

    def _in_memory(self, steps: list[tuple[Tensor, float]]) -> Iterator[Batch]:
        per_pool = max(1, self.pool_clips // max((self.batch_size, *(len(clips) for clips, _ in steps))))
        pools = [steps[i : i + per_pool] for i in range(0, len(steps), per_pool)]
        labels = torch.from_numpy(self.dataset.labels)
        for visual, audio, pool in ahead(functools.partial(self._read_pool, pool) for pool in pools):
            sizes = [len(clips) for clips, _ in pool]
            for v, a, (clips, weight) in zip(visual.split(sizes), audio.split(sizes), pool, strict=True):
                # Copies, so that no batch on its way keeps the whole pool in memory.
                yield Batch(v.clone(), a.clone(), labels[clips], clips, weight)
            del visual, audio, v, a  # now: once the next pool is taken, the one after it is read

    def _read_pool(self, pool: list[tuple[Tensor, float]]) -> tuple[Tensor, Tensor, list[tuple[Tensor, float]]]:
        clips = torch.cat([clips for clips, _ in pool])
        visual, audio = read_clips(self.dataset, clips, torch.device("cpu"), self.workers)
        return visual, audio, pool


class LoaderBatches(Batches):
    """A torch DataLoader over the data set's items, with worker processes: the authors' way of loading."""

    def _in_memory(self, steps: list[tuple[Tensor, float]]) -> Iterator[Batch]:
        loader = DataLoader(
            self.dataset,
            batch_sampler=[clips.tolist() for clips, _ in steps],
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            # Without it each epoch's workers would draw their base seed from, and so disturb, the run's generator.
            generator=torch.Generator(),
        )
        try:
            for (visual, audio, labels), (clips, weight) in zip(loader, steps, strict=True):
                yield Batch(visual, audio, labels, clips, weight)
        except UserError as error:  # a worker's: torch puts its traceback before the line that it said
            raise UserError(str(error).rpartition("UserError: ")[2]) from error


# From the fastest to the one that takes the least memory, with what is said of each.
_KINDS = {
    "device": (ResidentBatches, "resident in the device's memory"),
    "host": (ResidentBatches, "resident in main memory"),
    "stream": (StreamedBatches, "streamed from the files, in shuffled blocks"),
    "loader": (LoaderBatches, "read clip by clip by a DataLoader"),
}
PLACEMENTS = tuple(_KINDS)


def make_batches(
    datasets: dict[str, AVEDataset],
    placement: str,
    batch_sizes: dict[str, int],
    device: torch.device,
    seed: int,
    shard: Shard = _ALONE,
    workers: int = 2,
) -> dict[str, Batches]:
    """Batches for each split of a run. Logs where the features are.

    The split "train" is shuffled by `seed`; the others keep their order.

    Args:
        placement: where the features wait, one of PLACEMENTS (`fitting_placement` chooses one).
        workers: reading threads; worker processes of "loader".
    """
    kind, said = _KINDS[placement]
    _log.info(f"features: {_bytes_of(datasets) / 2**30:.1f} GiB {said}")
    more = {"home": device if placement == "device" else torch.device("cpu")} if kind is ResidentBatches else {}
    seeds = {"train": seed}
    return {
        split: kind(dataset, batch_sizes[split], device, seeds.get(split), shard, workers, **more)
        for split, dataset in datasets.items()
    }


def fitting_placement(datasets: dict[str, AVEDataset], device: torch.device, processes: int = 1) -> str:
    """The fastest of "device", "host" and "stream" for which there is room.

    Several processes of one run must agree on one: streaming visits the clips in an order of its own.

    Args:
        processes: how many processes share this machine's main memory, each with features of its own.
    """
    needed = _bytes_of(datasets)
    if device.type == "cuda" and needed + DEVICE_RESERVE < torch.cuda.mem_get_info(device)[0]:
        return "device"
    if needed + HOST_RESERVE < memory.available() // processes:
        return "host"
    return "stream"


def _bytes_of(datasets: dict[str, AVEDataset]) -> int:
    return sum(split_bytes(dataset) for dataset in datasets.values())


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all epochs: torch keeps freed memory for the stream that it was taken on."""
    return torch.cuda.Stream(device)


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The generator that shuffles an epoch; 0 is for what stands outside of the epochs."""
    # torch's CPU generator takes 32 bits of a seed, so the pair is mixed into as many.
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))

"""Batches from memory, from the files and by a DataLoader: the same clips, each once; memory that stays bounded."""

from __future__ import annotations

import functools
import shutil
import weakref
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import TINY_MODEL

from dataset import files, loading, prefetch
from dataset.ave import AVEDataset, WeakAVEDataset
from dataset.loading import (
    Batch,
    Batches,
    LoaderBatches,
    ResidentBatches,
    Shard,
    StreamedBatches,
    fitting_placement,
    make_batches,
)
from dataset.prefetch import ahead, one_ahead
from model import build_loss, build_model
from model.localization import Localization
from utils.base import memory
from utils.base.errors import UserError
from utils.config import files as config_files
from utils.training.loop import train_one_epoch
from utils.training.randomness import seed_everything
from utils.training.record import SilentRecorder
from utils.training.state import Training
from utils.training.stopping import StopRequest

CPU = torch.device("cpu")


def _batches(kind: str, dataset: AVEDataset, seed: int | None = 0, **more) -> Batches:
    if kind == "resident":
        return ResidentBatches(dataset, 5, CPU, seed, home=CPU, **more)
    if kind == "loader":
        return LoaderBatches(dataset, 5, CPU, seed, **{"workers": 0, **more})
    return StreamedBatches(dataset, 5, CPU, seed, **more)


KINDS = ("resident", "stream", "loader")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch):
    """Several blocks and pools in 24 clips."""
    monkeypatch.setattr(loading, "BLOCK_CLIPS", 4)
    monkeypatch.setattr(loading, "POOL_BLOCKS", 3)


def _same(ours: Batch, theirs: Batch) -> bool:
    return ours.weight == theirs.weight and all(torch.equal(x, y) for x, y in zip(ours[:4], theirs[:4], strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("setting", [AVEDataset, WeakAVEDataset])
def test_every_clip_once_with_its_own_features_and_label(tiny_data: Path, kind: str, setting: type[AVEDataset]):
    dataset = setting(tiny_data, "train")
    batches = _batches(kind, dataset)
    seen = list(batches.epoch(1))
    assert [len(batch.clips) for batch in seen] == [5] * (len(dataset) // 5) + [len(dataset) % 5 or 5][
        : len(dataset) % 5
    ]
    assert len(seen) == len(batches)
    assert sorted(torch.cat([batch.clips for batch in seen]).tolist()) == list(range(len(dataset)))
    for batch in seen:
        for i, clip in enumerate(batch.clips.tolist()):
            visual, audio, label = dataset[clip]
            assert torch.equal(batch.visual[i], visual)
            assert torch.equal(batch.audio[i], audio)
            assert torch.equal(batch.labels[i], label)


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_is_the_same_twice_with_any_number_of_readers_and_from_any_step(tiny_data: Path, kind: str):
    dataset = AVEDataset(tiny_data, "train")
    first = list(_batches(kind, dataset).epoch(2))
    for workers in (3,) if kind == "loader" else (1, 3):
        again = _batches(kind, dataset, workers=workers).epoch(2)
        assert all(_same(a, b) for a, b in zip(first, again, strict=True))
    for step in range(len(first) + 1):
        rest = list(_batches(kind, dataset).epoch(2, first_step=step))
        assert len(rest) == len(first) - step
        assert all(_same(a, b) for a, b in zip(first[step:], rest, strict=True))
    order = torch.cat([batch.clips for batch in first])
    assert not torch.equal(order, torch.cat([batch.clips for batch in _batches(kind, dataset).epoch(3)]))
    assert not torch.equal(order, torch.cat([batch.clips for batch in _batches(kind, dataset, seed=1).epoch(2)]))


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_seed_clips_come_in_the_order_of_their_split(tiny_data: Path, kind: str):
    dataset = AVEDataset(tiny_data, "val")
    order = torch.cat([batch.clips for batch in _batches(kind, dataset, seed=None).epoch(7)])
    assert order.tolist() == list(range(len(dataset)))


@pytest.mark.parametrize("kind", KINDS)
def test_shards_share_every_step(tiny_data: Path, kind: str):
    dataset = AVEDataset(tiny_data, "train")
    whole = list(_batches(kind, dataset).epoch(1))
    shards = [list(_batches(kind, dataset, shard=Shard(rank, 3)).epoch(1)) for rank in range(3)]
    for batch, *parts in zip(whole, *shards, strict=True):
        counted = [clip for part in parts if part.weight for clip in part.clips.tolist()]
        assert sorted(counted) == sorted(batch.clips.tolist())
        assert sum(part.weight for part in parts) == pytest.approx(3)
        assert all(
            part.weight == pytest.approx(3 * len(part.clips) / len(batch.clips)) or not part.weight for part in parts
        )


@pytest.mark.parametrize("kind", KINDS)
def test_training_gives_the_same_weights_twice(tiny_data: Path, tmp_path: Path, kind: str):
    def weights() -> dict[str, torch.Tensor]:
        values = {"model": {"name": "supv_main_model", **TINY_MODEL}, "train": {"batch_size": 5}}
        config = config_files.build(values, "test")
        seed_everything(3)
        network = build_model(config.model)
        batches = {"train": _batches(kind, AVEDataset(tiny_data, "train"))}
        loss = build_loss(config.model)
        training = Training(network, loss, Localization(network), batches, config, SilentRecorder(tmp_path))
        train_one_epoch(training, 1, StopRequest())
        return network.state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_streaming_reads_neighbours_and_still_shuffles(tiny_data: Path):
    dataset = AVEDataset(tiny_data, "train")
    batches = _batches("stream", dataset)
    rank_in_file = dataset.file_order().argsort()
    for pool in batches.order(1).split(batches.pool_clips):
        ranks = sorted(rank_in_file[pool].tolist())
        blocks = {rank // loading.BLOCK_CLIPS for rank in ranks}
        # A pool of whole batches may cut through the blocks at its two ends.
        assert len(blocks) <= batches.pool_clips // loading.BLOCK_CLIPS + 2
    shuffled = torch.cat(batches.order(1).split(batches.pool_clips)[:1])
    assert not torch.equal(rank_in_file[shuffled], rank_in_file[shuffled].sort().values)


def test_streaming_holds_two_pools_at_most(tiny_data: Path, monkeypatch: pytest.MonkeyPatch):
    batches = _batches("stream", AVEDataset(tiny_data, "train"))
    read_pool, read, alive, most = batches._read_pool, 0, 0, 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def counted(pool):
        nonlocal read, alive, most
        visual, *rest = read_pool(pool)
        array = visual.numpy().copy()
        read, alive = read + 1, alive + 1
        most = max(most, alive)
        weakref.finalize(array, gone)
        return torch.from_numpy(array), *rest

    class Prompt(ThreadPoolExecutor):
        def submit(self, *job):
            submitted = super().submit(*job)
            wait([submitted])  # the reader gets as far ahead as it may
            return submitted

    monkeypatch.setattr(batches, "_read_pool", counted)
    monkeypatch.setattr(prefetch, "ThreadPoolExecutor", Prompt)
    for _ in batches.epoch(1):
        pass
    assert read == -(-len(batches) // (batches.pool_clips // batches.batch_size)) > 2
    assert most == 2
    assert alive == 0


def test_ahead_hands_over_items_errors_and_the_end():
    def three_then(error: Exception | None):
        yield from (1, 2, 3)
        if error:
            raise error

    assert list(one_ahead(three_then(None))) == [1, 2, 3]
    items = one_ahead(three_then(ValueError("no more")))
    assert [next(items) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(ValueError, match="no more"):
        next(items)
    closed = []

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.append(True)

    items = one_ahead(endless())
    next(items)
    items.close()
    assert closed == [True]


def test_jobs_ahead_keep_their_order_and_are_bounded():
    started = []

    def job(number: int) -> int:
        started.append(number)
        return number

    for number, result in enumerate(ahead((functools.partial(job, i) for i in range(30)), threads=3, most=5)):
        assert result == number
        assert len(started) <= number + 6  # one in hand, five waiting
    assert sorted(started) == list(range(30))


def _group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(str(content) + "\n")


def test_memory_limits_of_control_groups_count(tmp_path: Path):
    gib, membership = 2**30, tmp_path / "membership"
    # Version 2: the limit is an outer group's; a gigabyte of what is used is a cache.
    outer = tmp_path / "v2" / "batch"
    _group(outer, memory__max=3 * gib, memory__current=2 * gib, memory__stat=f"inactive_file {gib}\nactive_file 0")
    _group(outer / "job", memory__max="max", memory__current=gib, memory__stat="inactive_file 0")
    membership.write_text("0::/batch/job\n")
    assert memory.available(tmp_path / "v2", membership) == 2 * gib
    # Version 1, seen from within a container: its own group is the root that is to be seen.
    _group(
        tmp_path / "v1" / "memory",
        memory__limit_in_bytes=gib,
        memory__usage_in_bytes=gib // 4,
        memory__stat="total_inactive_file 0\ntotal_active_file 0",
    )
    membership.write_text("5:cpu:/elsewhere\n4:memory:/elsewhere/job\n0::/\n")
    assert memory.available(tmp_path / "v1", membership) == gib - gib // 4
    assert memory.available(tmp_path / "none", tmp_path / "none") > 0


def test_features_go_where_there_is_room(tiny_data: Path, monkeypatch: pytest.MonkeyPatch):
    datasets = {"train": AVEDataset(tiny_data, "train")}

    def fitting(room: int, processes: int = 1) -> str:
        monkeypatch.setattr(memory, "available", lambda: room)
        return fitting_placement(datasets, CPU, processes)

    assert fitting(loading.HOST_RESERVE + 2**30) == "host"
    assert fitting(loading.HOST_RESERVE) == "stream"
    assert fitting(2 * loading.HOST_RESERVE + 2**30, processes=2) == "host"
    assert fitting(loading.HOST_RESERVE + 2**30, processes=2) == "stream"


def test_a_workers_error_is_the_line_that_it_said(tiny_data: Path, tmp_path: Path):
    root = shutil.copytree(tiny_data, tmp_path / "data")
    with h5py.File(root / files.AUDIO, "r+") as file:
        file[files.KEY][:, 0, 0] = np.nan
    batches = LoaderBatches(AVEDataset(root, "train"), 5, CPU, seed=0, workers=1)
    with pytest.raises(UserError) as refused:
        next(iter(batches.epoch(1)))
    assert str(refused.value).startswith(f"{root / files.AUDIO}: row ")
    assert "Traceback" not in str(refused.value)


@pytest.mark.parametrize(
    ("placement", "kind"), [("host", ResidentBatches), ("stream", StreamedBatches), ("loader", LoaderBatches)]
)
def test_each_placement_has_its_batches(tiny_data: Path, placement: str, kind: type[Batches]):
    batches = make_batches({"train": AVEDataset(tiny_data, "train")}, placement, {"train": 5}, CPU, seed=0, workers=1)
    assert type(batches["train"]) is kind

"""Several processes for one run: the same result as one, every clip once, one writer, and an end with a reason."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
from conftest import ROOT, TINY_MODEL, without_dropout
from torch.distributed.elastic.utils.distributed import get_free_port

from dataset.ave import AVEDataset
from dataset.loading import ResidentBatches, Shard
from model import build_loss, build_model
from model.interface import begin_epoch
from model.localization import Localization
from utils.base import memory, processes
from utils.base.checkpoint import Checkpoint
from utils.config import files as config_files
from utils.config import settings as config_settings
from utils.evaluation.evaluate import evaluate
from utils.evaluation.splits import batches_of
from utils.training.loop import train_one_epoch
from utils.training.randomness import seed_everything
from utils.training.record import SilentRecorder
from utils.training.state import Training
from utils.training.stopping import StopRequest

CPU = torch.device("cpu")
EPOCHS = 3
# With phases: some weights have no gradient in the first epoch. Without noise, which each process draws for itself.
NETWORKS = {"CMBS": {}, "with phases": {"name": "cace_supv", "contrast_noise": 0.0}}


class _Steps(SilentRecorder):
    """Remembers what each step is recorded with."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.steps: list[dict[str, float]] = []

    def step(self, values: dict[str, float], step: int, group: str = "step") -> None:
        self.steps.append(values)


def _training(data: Path, folder: Path, dropout: bool, **model: object) -> Training:
    """24 clips in steps of 23: of the last step's one clip, a second process has none."""
    values = {
        "model": {"name": "supv_main_model", **TINY_MODEL, **model},
        "train": {"batch_size": 23, "precision": "float64", "print_freq": 1, "lr": 0.01},
    }
    config = config_files.build(values, "test")
    seed_everything(0)
    network = build_model(config.model).double()
    if not dropout:
        without_dropout(network)
    shard = Shard(processes.rank(), processes.world_size())
    batches = {}
    for split in ("train", "test"):
        dataset = AVEDataset(data, split, torch.float64)
        seed = 0 if split == "train" else None
        batches[split] = ResidentBatches(dataset, 23 if seed == 0 else 3, CPU, seed, shard, home=CPU)
    return Training(network, build_loss(config.model), Localization(network), batches, config, _Steps(folder))


def _run(data: Path, folder: Path, **model: object) -> dict:
    """Train some epochs without dropout; returns what is to be equal whatever the number of processes."""
    training, stop = _training(data, folder, dropout=False, **model), StopRequest()
    means, updated = [], []
    for epoch in range(1, EPOCHS + 1):
        training.begin_after(epoch - 1)
        begin_epoch(training.network, epoch, n_epoch=8)
        means.append(train_one_epoch(training, epoch, stop))
        updated.append(len(training.optimizer.state))  # weights that had a gradient so far
    result = evaluate(training.network, training.batches["test"], training.network.predict, "float64")
    return {
        "steps": training.recorder.steps,
        "means": means,
        "updated": updated,
        "weights": training.network.state_dict(),
        "evaluation": result._asdict(),
    }


def _goes_on_alike(data: Path, folder: Path) -> bool:
    """Whether a run that is saved after an epoch goes on, in every process, as if it hadn't been."""
    straight, stop = _training(data, folder, dropout=True), StopRequest()
    torch.manual_seed(processes.rank())  # processes drop out different values
    train_one_epoch(straight, 1, stop)
    straight.begin_after(1)
    state, weights = copy.deepcopy((straight.state(), straight.network.state_dict()))
    resumed = _training(data, folder, dropout=True)
    resumed.network.load_state_dict(weights)
    resumed.restore(state)
    random = state["random"][processes.rank()]["torch"]
    train_one_epoch(resumed, 2, stop)
    torch.set_rng_state(random)
    train_one_epoch(straight, 2, stop)
    ours, theirs = straight.network.state_dict(), resumed.network.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def _place_with_memory_in_one_process(data: Path) -> str:
    """Where features go when only process 0 has memory for them."""
    with mock.patch.object(memory, "available", return_value=0 if processes.rank() else 2**50):
        datasets = {"train": AVEDataset(data, "train")}
        batches = batches_of(datasets, config_settings.DataSettings(), {"train": 5}, CPU, seed=0)
    return type(batches["train"]).__name__


def _process(rank: int, world: int, port: int, data: Path, folder: Path) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    processes.join(CPU)
    with processes.ending_together():
        alike = processes.all_gather(_goes_on_alike(data, folder))
        places = processes.all_gather(_place_with_memory_in_one_process(data))
        results = {name: _run(data, folder, **model) for name, model in NETWORKS.items()}
        if processes.rank() == 0:
            torch.save(results | {"alike": alike, "places": places}, folder / "result.pt")


def test_two_processes_train_as_one(tiny_data: Path, tmp_path: Path):
    port = get_free_port()
    torch.multiprocessing.spawn(_process, (2, port, tiny_data, tmp_path), nprocs=2)
    result = torch.load(tmp_path / "result.pt")
    assert result["alike"] == [True, True]
    assert result["places"] == ["StreamedBatches"] * 2, "one order of clips in all"
    for name, model in NETWORKS.items():
        _compare(result[name], _run(tiny_data, tmp_path, **model))
    first, *others = result["with phases"]["updated"]
    assert first == others[0] - 2, "in the early phase the event encoder has no gradient"


def _compare(ours: dict, alone: dict) -> None:
    assert len(ours["steps"]) == len(alone["steps"]) == 2 * EPOCHS
    for mine, its in zip(ours["steps"], alone["steps"], strict=True):
        assert mine == pytest.approx(its, rel=1e-9)
    for mine, its in zip(ours["means"], alone["means"], strict=True):
        assert mine["loss"] == pytest.approx(its["loss"], rel=1e-9)
        assert mine["train_accuracy"] == pytest.approx(its["train_accuracy"])
    for name, weight in alone["weights"].items():
        torch.testing.assert_close(ours["weights"][name], weight, rtol=1e-9, atol=1e-9, msg=name)
    assert torch.equal(ours["evaluation"]["segments"], alone["evaluation"]["segments"])
    assert torch.equal(ours["evaluation"]["target"], alone["evaluation"]["target"])
    assert ours["updated"] == alone["updated"]


def _python(*args: str, **more: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | more
    return subprocess.Popen(
        [sys.executable, *args], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_torchrun_writes_one_run_and_counts_every_clip_once(tiny_config, tmp_path: Path):
    config = str(tiny_config(train={"n_epoch": 1, "batch_size": 23}, eval={"test_batch_size": 3}))
    command = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    process = _python(*command, "supv_main.py", "--config", config, "--gpu", "cpu")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.count("epoch 1/1") == 1
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in metrics] == [1]
    evaluation = tmp_path / "run" / "eval-test"
    assert json.loads((evaluation / "metrics.json").read_text())["clips"] == 8
    best = Checkpoint.load(tmp_path / "run" / "best.pth.tar")
    network = build_model(best.config["model"])
    network.load_state_dict(best.network)
    dataset = AVEDataset(best.config["data"]["root"], "test")
    alone = evaluate(network, ResidentBatches(dataset, 3, CPU, home=CPU), network.predict, "float32")
    lines = [json.loads(line) for line in (evaluation / "predictions.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == dataset.rows.tolist()
    assert [line["prediction"] for line in lines] == alone.segments.tolist()
    assert [line["target"] for line in lines] == alone.target.tolist()


def test_a_threshold_does_not_depend_on_the_number_of_processes(tiny_config, tmp_path: Path):
    config = str(tiny_config(config_settings.WEAK, train={"n_epoch": 1}))
    flags = ("weak_main.py", "--config", config, "--gpu", "cpu")
    process = _python(*flags)
    assert process.communicate(timeout=120) is not None
    assert process.returncode == 0
    thresholds = []
    for command in ((), ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")):
        out = tmp_path / f"out {len(command)}"
        process = _python(*command, *flags, "--evaluate", "--localize", "combined", "--output", str(out))
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        thresholds.append(json.loads((out / "metrics.json").read_text())["threshold"])
    assert thresholds[0] == thresholds[1]


LAUNCHED = """
import os, signal, sys, time
import torch
from utils.base import processes
from utils.training.launching import launch
from utils.base.errors import UserError, Interrupted, command

signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests are a shell's background job, it is ignored

@command
def main(case):
    if not processes.is_distributed():
        sys.exit(launch(1 if case == "machine" else 2))
    processes.join(torch.device("cpu"))
    with processes.ending_together():
        processes.barrier()
        print("there", flush=True)
        me = processes.rank()
        if case == "all":
            raise UserError("no such data")
        if case == "one" and me == 1:
            raise UserError("its file is damaged")
        if case == "aborted" and me == 0:
            os.abort()
        if case == "aborted":
            raise UserError("its file is damaged")
        if case == "killed" and me == 1:
            os.kill(os.getpid(), 9)
        if case == "machine" and me == 1:
            os.kill(os.getppid(), 9)
            os.kill(os.getpid(), 9)
        if case == "stopped":
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                raise Interrupted("saved") from None
        processes.barrier()

sys.exit(main(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("case", "code", "said"),
    [
        ("all", 2, "error: no such data\n"),
        ("one", 2, "process 1 of 2: there\nerror: its file is damaged\n"),
        ("aborted", 2, "process 1 of 2: there\nerror: its file is damaged\n"),
        ("killed", 2, "error: process 1 of 2 was killed (SIGKILL); was there enough memory?\n"),
        ("stopped", 130, "saved\n"),
    ],
)
def test_a_launched_run_ends_as_its_processes_do(case: str, code: int, said: str):
    launched = _python("-c", LAUNCHED, case)
    if case == "stopped":
        assert launched.stdout.readline() == "there\n"
        time.sleep(1)  # until the other process sleeps too
        launched.send_signal(signal.SIGINT)
    _, errors = launched.communicate(timeout=60)
    assert launched.returncode == code, errors
    kept = [line for line in errors.splitlines(keepends=True) if "whose message says why" not in line]
    assert "".join(kept) == said


def test_a_machine_that_is_lost_ends_the_run_on_the_other():
    meeting = {"PET_NNODES": "2", "PET_RDZV_ENDPOINT": f"127.0.0.1:{get_free_port()}", "PET_LOCAL_ADDR": "127.0.0.1"}
    first, second = (_python("-c", LAUNCHED, "machine", **meeting) for _ in range(2))
    _, errors = first.communicate(timeout=120)
    assert first.returncode == processes.EXIT_LOST, errors
    assert "process 0 of 2 lost another one" in errors
    assert "Traceback" not in errors
    assert second.wait(timeout=60) == -signal.SIGKILL
    launched = _python("-c", LAUNCHED, "all", PET_NNODES="1:2")
    _, errors = launched.communicate(timeout=60)
    assert errors == "error: PET_NNODES=1:2: is not the number of machines of a run\n"


def test_gpu_flag_names_gpus_that_are_there(monkeypatch: pytest.MonkeyPatch):
    from utils.base.devices import named_gpus
    from utils.base.errors import UserError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert named_gpus("0,1") == [0, 1]
    assert named_gpus("1") == [1]
    assert named_gpus(None) == [0]
    assert named_gpus("cpu") == []
    for wrong in ("2", "0,0"):
        with pytest.raises(UserError, match="this machine has GPUs 0 to 1"):
            named_gpus(wrong)
    for wrong in ("0,", "x"):
        with pytest.raises(UserError, match="is not the number of a GPU"):
            named_gpus(wrong)

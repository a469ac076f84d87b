"""On a GPU: the authors' numbers, the batches and the training of a CPU, and no waiting within an epoch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN, TINY_MODEL, official_state_dict, without_dropout
from test_golden import CASES, TOLERANCE, deviation, features

import supv_main
import weak_main
from dataset.ave import AVEDataset
from dataset.loading import Batches, ResidentBatches, fitting_placement, make_batches
from model import build_loss, build_model
from model.localization import Localization
from model.official import load_official
from utils.base.devices import dtype_of
from utils.base.errors import EXIT_DONE
from utils.config import files as config_files
from utils.training.loop import train_one_epoch
from utils.training.meter import Meter
from utils.training.randomness import seed_everything
from utils.training.record import SilentRecorder
from utils.training.state import Training
from utils.training.stopping import StopRequest

pytestmark = pytest.mark.gpu

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def _batches(data: Path, device: torch.device, where: str, dtype: torch.dtype = torch.float32) -> Batches:
    datasets = {"train": AVEDataset(data, "train", dtype)}
    return make_batches(datasets, where, {"train": 5}, device, 0)["train"]


def _training(data: Path, folder: Path, device: torch.device, where: str, **train: object) -> Training:
    values = {
        "model": {"name": "supv_main_model", **TINY_MODEL},
        "train": {"batch_size": 5, "print_freq": 1000, "lr": 0.01, **train},
    }
    config = config_files.build(values, "test")
    seed_everything(0)
    network = without_dropout(build_model(config.model))
    dtype = dtype_of(config.train.precision)
    network.to(device, dtype)
    batches = {"train": _batches(data, device, where, dtype)}
    return Training(network, build_loss(config.model), Localization(network), batches, config, SilentRecorder(folder))


@pytest.mark.parametrize("setting", ["supv", "weak"])
def test_outputs_equal_the_authors(setting: str):
    network = build_model({"name": f"{setting}_main_model"}).double()
    load_official(network, official_state_dict(setting))
    network.to(GPU).eval()
    golden = np.load(GOLDEN / f"{setting}.npz")
    with torch.inference_mode():
        output = network(*(x.to(GPU) for x in features(CASES[setting])))
    for name in output._fields:
        assert deviation(getattr(output, name).cpu(), golden[f"eval/{name}"]) < TOLERANCE, name


@pytest.mark.parametrize("where", ["device", "host", "loader"])
def test_batches_are_those_of_a_cpu(where: str, tiny_data: Path):
    ours, theirs = _batches(tiny_data, GPU, where), _batches(tiny_data, CPU, "host")
    for mine, its in zip(ours.epoch(3), theirs.epoch(3), strict=True):
        assert all(x.device == GPU for x in mine[:3])
        assert all(torch.equal(x.cpu(), y) for x, y in zip(mine[:4], its[:4], strict=True))


def test_streamed_batches_are_those_of_a_cpu(tiny_data: Path):
    ours, theirs = _batches(tiny_data, GPU, "stream"), _batches(tiny_data, CPU, "stream")
    for mine, its in zip(ours.epoch(3), theirs.epoch(3), strict=True):
        assert all(torch.equal(x.cpu(), y) for x, y in zip(mine[:4], its[:4], strict=True))


def test_features_go_to_the_gpu_by_themselves(tiny_data: Path):
    placement = fitting_placement({"train": AVEDataset(tiny_data, "train")}, GPU)
    assert placement == "device"
    batches = _batches(tiny_data, GPU, placement)
    assert isinstance(batches, ResidentBatches)
    assert batches.visual.device == GPU


@pytest.mark.parametrize("where", ["device", "host"])
def test_training_ends_as_on_a_cpu(where: str, tiny_data: Path, tmp_path: Path):
    weights, losses = [], []
    for device, place_of_features in ((GPU, where), (CPU, "host")):
        training = _training(tiny_data, tmp_path, device, place_of_features, precision="float64")
        for epoch in (1, 2):
            losses.append(train_one_epoch(training, epoch, StopRequest())["loss"]["total"])
            training.begin_after(epoch)
        weights.append(training.network.state_dict())
    assert losses[:2] == pytest.approx(losses[2:], rel=1e-8)
    for name, weight in weights[1].items():
        # Adam divides by the root of a mean square: rounding in a gradient that is all but 0 moves a weight
        torch.testing.assert_close(weights[0][name].cpu(), weight, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_step_waits_for_the_gpu(precision: str, tiny_data: Path, tmp_path: Path):
    training = _training(tiny_data, tmp_path, GPU, "device", precision=precision)
    meter = Meter(training, 1)
    training.network.train()
    batches = enumerate(training.batches["train"].epoch(1), 1)
    step, batch = next(batches)  # the first one may wait: kernels are loaded
    meter.add(step, batch, *training.gradients(batch))
    training.optimizer.step()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for step, batch in batches:
            assert meter.add(step, batch, *training.gradients(batch))
            training.optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    meter.look()
    assert np.isfinite(meter.means()["loss"]["total"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_compiled_run_ends_as_one_that_is_not(precision: str, tiny_data: Path, tmp_path: Path, caplog):
    losses = {}
    for compile_ in (False, True):
        training = _training(tiny_data, tmp_path, GPU, "device", precision=precision, compile=compile_)
        losses[compile_] = []
        for epoch in (1, 2, 3):
            losses[compile_].append(train_one_epoch(training, epoch, StopRequest())["loss"]["total"])
            training.begin_after(epoch)
    assert not [record for record in caplog.records if "torch.compile failed" in record.message]
    assert losses[True] == pytest.approx(losses[False], rel=1e-3 if precision == "float32" else 5e-2)


@pytest.mark.parametrize(("main", "name"), [(supv_main, "supv_main_model"), (weak_main, "weak_main_model")])
def test_a_run_trains_goes_on_and_is_evaluated(main, name: str, tiny_config, tmp_path: Path):
    config = str(tiny_config(name, train={"n_epoch": 1}))
    assert main.main(["--config", config, "--gpu", "0"]) == EXIT_DONE
    assert main.main(["--config", config, "--gpu", "0", "--n_epoch", "3", "--resume", "last"]) == EXIT_DONE
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    accuracies = []
    for gpu in ("0", "cpu"):
        out = tmp_path / gpu
        assert main.main(["--config", config, "--gpu", gpu, "--evaluate", "--output", str(out)]) == EXIT_DONE
        accuracies.append(json.loads((out / "metrics.json").read_text())["accuracy"])
    assert accuracies[0] == pytest.approx(accuracies[1], abs=2.6)  # 2 of 80 segments may lie on the edge


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_train_one_run(tiny_config, tmp_path: Path):
    config = str(tiny_config(train={"n_epoch": 2}))
    assert supv_main.main(["--config", config, "--gpu", "0,1"]) == EXIT_DONE
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]

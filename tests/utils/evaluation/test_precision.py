"""Ways to compute a step: in bfloat16, compiled."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY_MODEL

from dataset.ave import AVEDataset, WeakAVEDataset
from dataset.loading import ResidentBatches
from model import build_loss, build_model
from model.blocks import in_blocks
from model.localization import Localization
from utils.base.devices import dtype_of
from utils.config import files as config_files
from utils.evaluation.evaluate import evaluate
from utils.training.compiled import Compiled
from utils.training.loop import train_one_epoch
from utils.training.randomness import seed_everything
from utils.training.record import SilentRecorder
from utils.training.state import Training
from utils.training.stopping import StopRequest

CPU = torch.device("cpu")
DATASETS = {"supv_main_model": AVEDataset, "weak_main_model": WeakAVEDataset, "cmran_weak": WeakAVEDataset}


class _Doubling(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return in_blocks(lambda x: (2 * x,), x)[0]


def _losses(name: str, data: Path, folder: Path, **train: object) -> list[float]:
    """Mean loss of each of six epochs; an evaluation in the same precision must come out finite."""
    values = {"model": {"name": name, **TINY_MODEL}, "train": {"batch_size": 12, "lr": 0.01, **train}}
    config = config_files.build(values, "test")
    seed_everything(0)
    network = build_model(config.model).to(dtype_of(config.train.precision))
    batches = {}
    for split in ("train", "test"):
        dataset = DATASETS[name](data, split, dtype_of(config.train.precision))
        batches[split] = ResidentBatches(dataset, 12, CPU, 0 if split == "train" else None, home=CPU)
    training = Training(
        network, build_loss(config.model), Localization(network), batches, config, SilentRecorder(folder)
    )
    losses = []
    for epoch in range(1, 7):
        losses.append(train_one_epoch(training, epoch, StopRequest())["loss"]["total"])
        training.begin_after(epoch)
    result = evaluate(network, batches["test"], network.predict, config.train.precision)
    assert result.event_probability.isfinite().all()
    assert result.event_probability.dtype == torch.float32
    return losses


@pytest.mark.parametrize("name", ["supv_main_model", "weak_main_model"])
def test_both_settings_train_in_bfloat16(tiny_data: Path, tmp_path: Path, name: str):
    losses = {p: _losses(name, tiny_data, tmp_path, precision=p) for p in ("float32", "bfloat16")}
    for precision, values in losses.items():
        assert values[-1] < values[0], precision
        assert values[0] == pytest.approx(losses["float32"][0], rel=0.1), precision


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_has_the_losses_of_one_that_is_not(tiny_data: Path, tmp_path: Path, caplog):
    plain, compiled = (_losses("cmran_weak", tiny_data, tmp_path, compile=compile_) for compile_ in (False, True))
    assert compiled == pytest.approx(plain, rel=1e-4)
    assert "torch.compile failed" not in caplog.text


def test_a_network_without_blocks_is_said_to_run_uncompiled_on_a_cpu(caplog: pytest.LogCaptureFixture):
    network, x = torch.nn.Linear(3, 2), torch.randn(4, 3)
    compiled = Compiled(network, CPU)
    for _ in range(2):
        assert torch.equal(compiled(x), network(x))
    assert ["model.blocks.in_blocks" in record.message for record in caplog.records] == [True]


def test_where_compiling_fails_the_network_runs_and_the_reason_is_given(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def no_compiler(graph: object, inputs: object) -> None:
        raise RuntimeError("there is no C++ compiler")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda compute, **_: compile_(compute, backend=no_compiler))
    network, x = _Doubling(), torch.randn(4, 3)
    compiled = Compiled(network, CPU)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(compiled(x), network(x))
        assert torch.equal(compiled(x), network(x))
    assert len(caplog.records) == 1
    assert "there is no C++ compiler" in caplog.text

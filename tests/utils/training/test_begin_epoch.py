"""A network whose computation depends on the epoch is told which one it is in, in training and in evaluations."""

from __future__ import annotations

import pytest

import supv_main
from model.cmbs import SupervisedCMBS
from utils.base.checkpoint import Checkpoint
from utils.base.paths import BEST
from utils.evaluation.weights import network_of


@pytest.fixture
def told(monkeypatch) -> list[tuple[int, int]]:
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(SupervisedCMBS, "begin_epoch", lambda _, *epoch: calls.append(epoch), raising=False)
    return calls


def test_each_epoch_is_told_and_an_evaluation_computes_as_its_epoch_did(tiny_config, tmp_path, told):
    arguments = ["--config", str(tiny_config(train={"n_epoch": 3})), "--gpu", "cpu"]
    assert supv_main.main(arguments) == 0
    best = tmp_path / "run" / BEST
    epoch = Checkpoint.load(best).epoch
    assert told == [(1, 3), (2, 3), (3, 3), (epoch, 3)]

    told.clear()
    assert supv_main.main([*arguments, "--evaluate", "--n_epoch", "9"]) == 2  # an evaluation has no use for it
    assert supv_main.main([*arguments, "--evaluate"]) == 0
    network_of(Checkpoint.load(best))
    assert told == [(epoch, 3), (epoch, 3)]


def test_a_run_that_goes_on_is_told_its_own_epochs(tiny_config, tmp_path, told):
    arguments = ["--config", str(tiny_config(train={"n_epoch": 1})), "--gpu", "cpu"]
    assert supv_main.main(arguments) == 0
    told.clear()
    assert supv_main.main([*arguments, "--resume", "last", "--n_epoch", "3"]) == 0
    assert told[:3] == [(1, 1), (2, 3), (3, 3)]  # the checkpoint's, as its weights are loaded; then those that follow

"""A checkpoint as people keep it is loaded, evaluates to the same number, and starts a training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import helpers_bad
import numpy as np
import pytest
import torch
from conftest import TINY_MODEL
from helpers_bad import MAINS

from model import NETWORKS, build_model
from model.official import to_official
from utils.base.checkpoint import Checkpoint
from utils.base.errors import UserError
from utils.base.paths import BEST
from utils.config.settings import SUPERVISED, WEAK
from utils.evaluation import results
from utils.evaluation.weights import load_weights, network_of

quick = pytest.fixture(helpers_bad.quick, autouse=True, scope="module")


@pytest.fixture(scope="module")
def networks() -> dict[str, torch.nn.Module]:
    """A network of each supervision with the tiny sizes, with random weights."""
    torch.manual_seed(3)
    return {name: build_model({"name": name, **TINY_MODEL}) for name in MAINS}


def wrapped(weights: dict[str, torch.Tensor]) -> dict[str, dict]:
    return {
        "bare": weights,
        "wrapped": {"epoch": 3, "model": weights, "optimizer": {"state": {}}},
        "prefixed, an accuracy beside": {f"module._orig_mod.{k}": v for k, v in weights.items()} | {"a": np.float32(1)},
        "Lightning": {"state_dict": {f"model.{name}": tensor for name, tensor in weights.items()}},
    }


@pytest.mark.parametrize("name", MAINS)
def test_all_evaluate_to_the_same_number(name, networks, tiny_config, tmp_path, capsys):
    network = networks[name]
    config = str(tiny_config(name))
    metrics = []
    for keys, weights in {"ours": network.state_dict(), "the authors'": to_official(network)}.items():
        for kind, content in wrapped(weights).items():
            path, output = tmp_path / f"{keys} {kind}.pth", tmp_path / "evaluated"
            torch.save(content, path)
            command = ["--config", config, "--gpu", "cpu", "--evaluate", "--resume", str(path), "--output", str(output)]
            assert MAINS[name](command) == 0, (keys, kind)
            metrics.append(json.loads((output / results.METRICS).read_text()) | {"checkpoint": ""})
    assert metrics[0]["epoch"] is None
    assert metrics == metrics[:1] * len(metrics)
    assert "passed over: 'epoch', 'optimizer'" in capsys.readouterr().out


def test_a_training_starts_from_them(networks, tiny_config, tmp_path, capsys):
    torch.save({"state_dict": networks[SUPERVISED].state_dict(), "epoch": 9}, tmp_path / "x.pth")
    command = ["--config", str(tiny_config()), "--gpu", "cpu", "--resume", str(tmp_path / "x.pth")]
    assert MAINS[SUPERVISED]([*command, "--lr", "1e-9", "--n_epoch", "1"]) == 0
    assert "holds weights only: a new run starts from them" in capsys.readouterr().out
    trained = Checkpoint.load(tmp_path / "run" / BEST)
    assert trained.epoch == 1
    for name, weight in networks[SUPERVISED].state_dict().items():
        assert torch.allclose(trained.network[name], weight, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "avel_weak"])
def test_the_network_of_a_file_that_does_not_say_it(name, tmp_path):
    network = build_model({"name": name})
    for weights in (network.state_dict(), to_official(network)):
        torch.save({"model": weights}, tmp_path / "x.pth")
        found, settings = network_of(Checkpoint.load(tmp_path / "x.pth"))
        assert settings.name == name
        assert all(torch.equal(tensor, network.state_dict()[key]) for key, tensor in found.state_dict().items())


def test_a_file_that_two_networks_fit_says_which_is_taken(tmp_path, caplog):
    torch.save(build_model({"name": "avel_weak"}).state_dict(), tmp_path / "x.pth")
    _, settings = network_of(Checkpoint.load(tmp_path / "x.pth"))
    assert settings.name == "avel_supv"
    assert "has the weights of avel_supv or avel_weak, which are named alike; taken for avel_supv" in caplog.text


def test_weights_of_no_network_are_named(tmp_path):
    weights = build_model({"name": WEAK}).state_dict()
    del weights["audio_gate.score.bias"]
    torch.save(weights, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"none of the networks .*; tensors missing: audio_gate\.score\.bias$"):
        network_of(Checkpoint.load(tmp_path / "x.pth"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights: weights.popitem(), "tensors missing: "),
        (lambda weights: weights.update(extra=torch.ones(2)), "tensors not known: extra"),
        (lambda weights: weights.update({"event_classifier.weight": torch.ones(2)}), "is [2] and should be [1, 16]"),
        (lambda weights: weights["event_classifier.weight"].fill_(float("nan")), "not finite numbers in event_class"),
    ],
)
def test_what_is_wrong_with_weights_of_ours_is_named(change, words, networks, tmp_path):
    network = build_model({"name": SUPERVISED, **TINY_MODEL})
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    weights = {name: tensor.clone() for name, tensor in networks[SUPERVISED].state_dict().items()}
    change(weights)
    torch.save(weights, tmp_path / "x.pth")
    with pytest.raises(UserError) as error:
        load_weights(network, tmp_path / "x.pth", None)
    assert words in str(error.value)
    if "finite" not in words:
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_checkpoint_with_what_was_renamed_since(networks, tiny_config, tmp_path):
    config = json.loads(Path(tiny_config(WEAK)).read_text())
    localization = {"localize": "gate", "threshold": 0.25, "chosen_by": "chosen"}
    content = {"config": config, "network": networks[WEAK].state_dict(), "epoch": 1, "metrics": {}}
    torch.save({"format": "cmbs-1", **content, "reading": localization}, tmp_path / "old.pth.tar")
    checkpoint = Checkpoint.load(tmp_path / "old.pth.tar")
    assert checkpoint.ours
    assert checkpoint.localization == localization
    checkpoint.save(tmp_path / "new.pth.tar")
    shutil.move(tmp_path / "new.pth.tar", tmp_path / "old.pth.tar")
    assert Checkpoint.load(tmp_path / "old.pth.tar").localization == localization

"""Weights are found in whatever people keep them in, and what else lies there is passed over."""

from __future__ import annotations

import argparse
import collections
import datetime
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
import torch

from utils.base.checkpoint import Checkpoint
from utils.base.errors import UserError
from utils.base.state_dicts import find_weights

WEIGHTS = {"a.weight": torch.arange(4.0), "b.c.bias": torch.ones(2, 2)}


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in WEIGHTS.items()}


KEPT = {
    "bare": WEIGHTS,
    "state_dict": {"state_dict": WEIGHTS},
    "with an optimizer": {"model": WEIGHTS, "optimizer": {"state": {0: {"x": torch.ones(4)}}, "groups": []}},
    "in two wrappers": {"model": {"state_dict": WEIGHTS, "epoch": 3}, "epoch": 3},
    "beside an epoch": {**WEIGHTS, "epoch": 3},
    "beside NumPy's numbers": {**WEIGHTS, "accuracy": np.float64(79.3), "best": np.True_, "curve": np.arange(3.0)},
    "beside a tensor of one number": {"state_dict": {**WEIGHTS, "accuracy": torch.tensor(79.3)}},
    "beside a command line": {"state_dict": WEIGHTS, "args": argparse.Namespace(lr=1e-3, gpus=[0, 1], to=Path("/x"))},
    "beside texts, times and logs": {
        "state_dict": WEIGHTS,
        "name": np.str_("best"), "names": np.array(["a"]),
        "begun": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), "took": datetime.timedelta(1),
        "log": collections.defaultdict(list, {"loss": [0.5]}), "from": PureWindowsPath("c:/x"),
    },
    "DataParallel": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "compiled in DataParallel": prefixed("module._orig_mod."),
    "DataParallel, compiled, twice": prefixed("_orig_mod.module.module._orig_mod."),
    "Lightning": {"state_dict": prefixed("model."), "epoch": 3, "loops": {"fit": {"x": 1}}},
    "Lightning with a loss": {"state_dict": prefixed("model._orig_mod.") | {"loss.weight": torch.ones(3)}},
    "DataParallel with one name bare": prefixed("module.") | {"a.weight": WEIGHTS["a.weight"]}
    | {"module.a.weight": None},
    "parameters": {name: torch.nn.Parameter(tensor) for name, tensor in WEIGHTS.items()},
    "half precision": {name: tensor.half() for name, tensor in WEIGHTS.items()},
    "a format of somebody's own": {"format": "pt", "state_dict": WEIGHTS},
}  # fmt: skip


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
def test_weights_are_found(kept, tmp_path):
    torch.save(kept, tmp_path / "x.pth")
    checkpoint = Checkpoint.load(tmp_path / "x.pth")
    assert not checkpoint.ours
    assert checkpoint.network.keys() == WEIGHTS.keys()
    assert all(torch.equal(checkpoint.network[name].float(), tensor) for name, tensor in WEIGHTS.items())


def test_what_was_passed_over_is_said():
    _, passed = find_weights({"model": {**prefixed("model."), "loss.w": torch.ones(1)}, "epoch": 3, 7: "x\x1b[31m"})
    assert passed == ["'epoch'", "int 7", "'loss.w'"]


ODD = {
    "an unknown wrapper": (lambda: {"generator": WEIGHTS, "epoch": 3}, "its keys are 'generator', 'epoch'"),
    "an unknown wrapper with a key of colours": (lambda: {"\x1b[31m": WEIGHTS}, r"its keys are '\\x1b\[31m'"),
    "many keys": (lambda: {f"part{i}": i for i in range(30)}, "'part9' and 20 more"),
    "two state_dicts": (lambda: {"model": WEIGHTS, "net": WEIGHTS}, "under 'model' and 'net'"),
    "a name twice": (lambda: {**WEIGHTS, "module.a.weight": torch.ones(4)}, "'a.weight' twice"),
    "sparse": (lambda: {"a.weight": torch.eye(3).to_sparse()}, "a sparse tensor"),
    "sparse rows": (lambda: {"a.weight": torch.eye(3).to_sparse_csr()}, "a sparse tensor"),
    "quantized": (
        lambda: {"a.weight": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)},
        "a quantized tensor",
    ),
    "nested": (lambda: {"a.weight": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}, "a nested tensor"),
    "meta": (lambda: {"a.weight": torch.ones(3, device="meta")}, "a meta tensor"),
    "complex": (lambda: {"a.weight": torch.ones(3) * 1j}, "a complex tensor"),
    "whole numbers": (lambda: {"a.weight": torch.ones(3, dtype=torch.int8)}, "as torch.int8"),
}


@pytest.mark.filterwarnings("ignore")  # some of these kinds are on their way out of torch
@pytest.mark.parametrize(("kept", "words"), ODD.values(), ids=ODD)
def test_what_cannot_be_read_is_named(kept, words, tmp_path):
    torch.save(kept(), tmp_path / "x.pth")
    with pytest.raises(UserError, match=words):
        Checkpoint.load(tmp_path / "x.pth")


@pytest.mark.parametrize("protocol", [0, 1, 4, 5])
def test_another_protocol_is_not_called_code(protocol, tmp_path):
    torch.save(WEIGHTS, tmp_path / "x.pth", pickle_protocol=protocol)
    with pytest.raises(UserError, match=r"torch\.save its weights once more"):
        Checkpoint.load(tmp_path / "x.pth")


def test_a_file_that_contains_itself(tmp_path):
    kept = {"epoch": 3}
    kept["model"] = kept["state_dict"] = kept
    torch.save(kept, tmp_path / "x.pth")
    with pytest.raises(UserError, match="holds no weights"):
        Checkpoint.load(tmp_path / "x.pth")
    kept |= WEIGHTS
    del kept["state_dict"]
    torch.save(kept, tmp_path / "x.pth")
    assert Checkpoint.load(tmp_path / "x.pth").network.keys() == WEIGHTS.keys()

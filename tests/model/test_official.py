"""The authors' checkpoint format, in and out."""

from __future__ import annotations

import pytest
import torch
from conftest import TINY_MODEL, official_keys, official_state_dict

from model import build_model
from model.official import load_official, to_official

# Names of key tables -> the networks that they are of.
NETWORKS = {
    "supv": "supv_main_model",
    "weak": "weak_main_model",
    "cmran_supv": "cmran_supv",
    "cmran_weak": "cmran_weak",
    "cace_supv": "cace_supv",
}


@pytest.mark.parametrize("table", NETWORKS)
def test_export_is_complete(table):
    exported = to_official(build_model({"name": NETWORKS[table]}))
    assert {key: tuple(tensor.shape) for key, tensor in exported.items()} == {
        f"module.{key}": shape for key, shape, _ in official_keys(table)
    }


@pytest.mark.parametrize("table", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("prefix", ["module.", ""])
def test_round_trip(table, dtype, prefix):
    theirs = {prefix + key: tensor.to(dtype) for key, tensor in official_state_dict(table).items()}
    network = build_model({"name": NETWORKS[table]}).double()
    load_official(network, theirs)
    back = to_official(network)
    for key, _, used in official_keys(table):
        if used:
            assert torch.equal(back[f"module.{key}"], theirs[prefix + key].double()), key


@pytest.mark.parametrize("table", NETWORKS)
def test_every_weight_is_loaded(table):
    """No tensor of the network keeps its old value, and none is read from the wrong key."""
    network, other = (build_model({"name": NETWORKS[table], **TINY_MODEL}) for _ in range(2))
    for number, parameter in enumerate(network.parameters()):
        torch.nn.init.normal_(parameter, mean=number)
    load_official(other, to_official(network))
    for (name, ours), theirs in zip(network.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("table", NETWORKS)
def test_problems_are_named(table):
    network = build_model({"name": NETWORKS[table], **TINY_MODEL})
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    theirs = to_official(network)
    del theirs["module.v_fc.weight"], theirs["module.video_encoder.encoder_layer.linear1.bias"]
    theirs["module.something.weight"] = torch.zeros(3)
    theirs["module.v_fc.bias"] = torch.zeros(77)
    with pytest.raises(ValueError, match=f"the authors' {type(network).__name__} ") as error:
        load_official(network, theirs)
    for part in (
        "missing: v_fc.weight",
        "not known: something.weight",
        "v_fc.bias is [77] and should be",
    ):
        assert part in str(error.value)
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())


def test_the_other_setting_is_refused():
    weak = to_official(build_model({"name": "weak_main_model", **TINY_MODEL}))
    with pytest.raises(ValueError, match="localize_module"):
        load_official(build_model({"name": "supv_main_model", **TINY_MODEL}), weak)

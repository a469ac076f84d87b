"""Networks without one of their parts: that it is really gone, and that nothing else is."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import ROOT, TINY_MODEL, official_state_dict
from torch import nn

import supv_main
from model import build_loss, build_model
from model.official import load_official, to_official
from utils.base.errors import EXIT_DONE
from utils.base.nested import flat
from utils.config import files as config_files
from utils.config.settings import SUPERVISED, WEAK

NAMES = (SUPERVISED, WEAK)
ABLATIONS = sorted(path for folder in ("ablation", "written") for path in (ROOT / "configs" / folder).glob("*.json"))


def tiny(name: str, **settings: object) -> nn.Module:
    torch.manual_seed(0)
    return build_model({"name": name, **TINY_MODEL, **settings}).eval()


def like(other: nn.Module, name: str, **settings: object) -> nn.Module:
    """A network with those of the other's weights that it has."""
    network = tiny(name, **settings)
    own = network.state_dict()
    network.load_state_dict({key: value for key, value in other.state_dict().items() if key in own})
    return network


def features(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, 5, 2, 2, 16, generator=generator), torch.rand(3, 5, 8, generator=generator)


def same(first: tuple, second: tuple) -> bool:
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_ablation_changes_its_base_and_trains_all_its_weights(path):
    own = json.loads(path.read_text())
    config = config_files.build(config_files.read_json(path), str(path))
    base_path = path.parent / own["extends"]
    base = config_files.build(config_files.read_json(base_path), str(base_path))
    keys = set(flat({section: values for section, values in own.items() if section != "extends"}))
    assert keys == {line.split(" ")[0] for line in config_files.difference(config, base)}

    network = build_model({**config.model.model_dump(), **TINY_MODEL}).train()
    if config.model.name == SUPERVISED:
        labels = torch.eye(4)[[1, 1, 3, 3, 3]].repeat(3, 1, 1)
    else:
        labels = torch.eye(4)[[0, 3, 1]]
    loss = build_loss(config.model, config.train.loss_weights)
    loss(network(*features()), labels)["total"].backward()
    assert [key for key, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", NAMES)
def test_without_time_level_nothing_is_gated(name):
    network = tiny(name, time_level=False)
    assert not [key for key, _ in network.named_parameters() if "gate" in key]
    output, explanation = network.explain(*features())
    assert (output.gate == 1).all()
    assert explanation.scores == {}
    assert same(output, like(network, name, time_level=False, alpha=0.9)(*features()))
    whole = tiny(name)
    assert not same(whole(*features()), like(whole, name, alpha=0.9)(*features()))  # with it, alpha matters


@pytest.mark.parametrize("name", NAMES)
def test_without_event_level_no_modality_answers_alone(name):
    network = tiny(name, event_level=False)
    assert not [key for key, _ in network.named_parameters() if "visual_activation" in key or "audio_act" in key]
    output, explanation = network.explain(*features())
    assert list(explanation.activations) == ([] if name == SUPERVISED else ["fused"])
    assert same(output, like(network, name, event_level=False, gamma=0.9)(*features()))
    whole = tiny(name)
    assert not same(whole(*features()), like(whole, name, gamma=0.9)(*features()))  # with it, gamma matters
    if name == SUPERVISED:
        assert (output.av_category_logits == 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_one_modality_alone(name, modality):
    network = tiny(name, modalities=modality)
    (visual, audio), (other_visual, other_audio) = features(), features(seed=1)
    first = network(visual, audio)
    hidden_changes = network(visual, other_audio) if modality == "visual" else network(other_visual, audio)
    known_changes = network(other_visual, audio) if modality == "visual" else network(visual, other_audio)
    assert same(first, hidden_changes)
    assert not same(first, known_changes)


@pytest.mark.parametrize("name", NAMES)
def test_beta_0_is_the_limit_of_a_small_beta(name):
    whole = tiny(name, beta=0.4)
    without = like(whole, name, beta=0.0)
    assert not [key for key, _ in without.named_parameters() if "global" in key]
    assert not same(whole(*features()), without(*features()))
    whole.attention.beta = 1e-12
    assert same(whole(*features()), without(*features()))


@pytest.mark.parametrize("name", NAMES)
def test_without_self_attention_cells_stay_as_they_are(name):
    whole = tiny(name)
    without = like(whole, name, self_attention=False)
    assert not [key for key, _ in without.named_parameters() if "attention.value" in key or "attention.norm" in key]
    assert not same(whole(*features()), without(*features()))
    # Self-attention that adds nothing, not normalised: Y = X.
    nn.init.zeros_(whole.attention.value.weight)
    nn.init.zeros_(whole.attention.value.bias)
    whole.attention.norm = nn.Identity()
    assert same(whole(*features()), without(*features()))


def test_loss_weights():
    output, labels = tiny(SUPERVISED)(*features()), torch.eye(4)[[1, 1, 3, 3, 3]].repeat(3, 1, 1)
    settings = {"name": SUPERVISED}
    terms = build_loss(settings)(output, labels)
    half = build_loss(settings, weights={"gate": 0.5, "av_category": 0})(output, labels)
    assert set(half) == {"event", "gate", "category", "total"}
    torch.testing.assert_close(half["total"], terms["event"] + 0.5 * terms["gate"] + terms["category"])
    assert torch.equal(half["gate"], terms["gate"])  # named terms are unweighted


def test_a_part_that_is_left_out_has_no_loss():
    settings = {"name": SUPERVISED, "time_level": False, "quirks": {"gate_as_logit": False}}
    output, labels = tiny(**settings)(*features()), torch.eye(4)[[1, 1, 3, 3, 3]].repeat(3, 1, 1)
    assert set(build_loss(settings, {"gate": 1.0})(output, labels)) == {"event", "category", "av_category", "total"}


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        (SUPERVISED, {"gates": 0}, "no term 'gates' to weight; its terms are event, gate, category, av_category"),
        (WEAK, {"gate": 0}, "no term 'gate' to weight; its terms are category"),
        (WEAK, {"category": 0}, "nothing to train by"),
    ],
)
def test_loss_weights_that_make_no_sense(name, weights, message):
    with pytest.raises(ValueError, match=message):
        build_loss({"name": name}, weights)


def test_a_run_without_a_part_has_no_loss_for_it(tiny_config, tmp_path):
    config = tiny_config(model={"time_level": False}, train={"n_epoch": 1, "av_category_loss": 0.5})
    assert supv_main.main(["--config", str(config), "--gpu", "cpu"]) == EXIT_DONE
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert set(line["loss"]) == {"event", "category", "av_category", "total"}


@pytest.mark.parametrize("settings", [{"time_level": False}, {"event_level": False}, {"beta": 0.0}])
def test_the_authors_format_is_of_the_whole_network(settings):
    network = build_model({"name": SUPERVISED, **settings})
    with pytest.raises(ValueError, match="leave out"):
        load_official(network, official_state_dict("supv"))
    with pytest.raises(ValueError, match="leave out"):
        to_official(network)

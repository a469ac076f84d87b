"""CACE-Net beyond the outputs that all networks have: its two phases, its noise, its contrast, its guided audio."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import GOLDEN, TINY_MODEL, official_state_dict, without_dropout
from test_golden import CASES, TOLERANCE, check_gradients, deviation, drawn, features, labels, probes_of

from model import build_loss, build_model
from model.cace import contrast
from model.official import load_official

CASE = CASES["cace_supv"]
TINY = {"name": "cace_supv", **TINY_MODEL}


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "cace_supv.npz")


@pytest.fixture(scope="module")
def official():
    network = build_model(CASE.settings).double()
    load_official(network, official_state_dict(CASE.keys, CASE.salt))
    return network


@pytest.fixture
def network(official):
    return without_dropout(copy.deepcopy(official)).train()


def tiny(**settings: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return without_dropout(build_model({**TINY, **settings}).double())


def some_features(clips: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    visual = torch.rand(clips, 10, 2, 2, 16, generator=generator, dtype=torch.float64)
    return visual, torch.rand(clips, 10, 8, generator=generator, dtype=torch.float64)


def some_labels() -> torch.Tensor:
    """Of three clips: an event in the middle, none, one everywhere."""
    return torch.eye(4)[torch.tensor([[3, 3, 1, 1, 1, 1, 3, 3, 3, 3], [3] * 10, [0] * 10])]


def test_without_noise_as_its_authors(golden, network):
    """Both encodings are one: with no noise as a setting, and with noise that is 0."""
    network.contrast_noise = 0.0
    output = network(*features(CASE))
    assert torch.equal(output.encoding, output.noisy_encoding)
    terms = build_loss(CASE.settings)(output, labels(CASE))
    for name in ("contrast", "total"):
        assert deviation(terms[name], golden[f"quiet/{name}"]) < TOLERANCE, name
    terms["total"].backward()
    check_gradients(network, dict(zip(probes_of(golden), golden["quiet/gradprobe"], strict=True)), CASE.salt)


def test_early_phase_as_its_authors(golden, network):
    network.begin_epoch(1, 200)
    terms = build_loss(CASE.settings)(network(*features(CASE), **drawn(CASE)), labels(CASE))
    assert set(terms) == {"event", "gate", "category", "av_category", "total"}
    assert deviation(terms["total"], golden["early/total"]) < TOLERANCE
    terms["total"].backward()
    without = {key for key, p in network.named_parameters() if p.grad is None}
    assert without == {"event_encoder.weight", "event_encoder.bias"}
    assert deviation(network.eval()(*features(CASE)).event_logits, golden["early/event_logits"]) < TOLERANCE


@pytest.mark.parametrize(("n_epoch", "early"), [(200, 25), (10, 2), (8, 1), (2, 1), (1, 1)])
def test_the_first_eighth_is_the_early_phase(n_epoch, early):
    network = tiny()
    assert not network.early
    phases = []
    for epoch in range(1, n_epoch + 1):
        network.begin_epoch(epoch, n_epoch)
        phases.append(network.early)
    assert phases == [True] * early + [False] * (n_epoch - early)


def test_noise_is_drawn_anew_while_training_only():
    network = tiny().train()
    first, second = network(*some_features()), network(*some_features())
    assert torch.equal(first.encoding, second.encoding)
    assert not torch.equal(first.noisy_encoding, first.encoding)
    assert not torch.equal(first.noisy_encoding, second.noisy_encoding)
    noise = torch.randn(3, 10, 16).double()
    given = network(*some_features(), noise).noisy_encoding
    assert torch.equal(given, network(*some_features(), noise=noise).noisy_encoding)
    before = torch.random.get_rng_state()
    quiet = network.eval()(*some_features())
    assert torch.equal(torch.random.get_rng_state(), before)  # so that evaluating doesn't change the training
    assert torch.equal(quiet.noisy_encoding, quiet.encoding)


def test_contrast_one_row_after_the_other():
    generator = torch.Generator().manual_seed(0)
    encoding, noisy = torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    is_event = torch.tensor([[True, True, False, True], [False] * 4, [True] + [False] * 3])
    rows = []
    for clip in range(3):
        z = torch.cat([encoding[clip], noisy[clip]])
        z = z / z.norm(dim=1, keepdim=True)
        y = is_event[clip].tolist() * 2
        for i in range(8):
            e = {j: (z[i] @ z[j] / 0.01 - 100).exp() for j in range(8) if j != i}
            positives = [e[j] for j in e if abs(i - j) == 4 or (y[i] and y[j])]
            rows.append(-(sum(positives) / len(positives) / sum(e.values())).log())
    torch.testing.assert_close(contrast(encoding, noisy, is_event), torch.stack(rows).mean())


@pytest.mark.parametrize("autocast", [False, True])
def test_contrast_is_finite_where_all_segments_are_alike_or_apart(autocast):
    """Also in float32, whose e^s overflows from s = 89 on, and for an encoding of zeros."""
    for alike in (torch.ones(2, 10, 8), torch.eye(10)[None, :, :].repeat(2, 1, 1), torch.zeros(2, 10, 8)):
        encoding = alike.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            term = contrast(encoding, encoding.relu(), torch.arange(10).expand(2, 10) < 4)
        assert term.dtype == torch.float32
        assert term.isfinite()
        term.backward()
        assert encoding.grad.isfinite().all()


def test_only_the_audio_that_the_lstm_reads_is_guided():
    """The visual attention reads the audio as it is; without guidance the network is CMBS in the early phase."""
    guided, plain = tiny(), tiny(audio_guidance=0.0)
    assert not [key for key in plain.state_dict() if key.startswith("guidance")]
    plain.load_state_dict({key: value for key, value in guided.state_dict().items() if key in plain.state_dict()})
    ours, theirs = (network.eval().explain(*some_features()) for network in (guided, plain))
    assert torch.equal(ours[1].attention, theirs[1].attention)
    assert not torch.allclose(ours[0].event_logits, theirs[0].event_logits)

    plain.begin_epoch(1, 8)
    cmbs = without_dropout(build_model({"name": "supv_main_model", **TINY_MODEL}).double())
    for relation in (cmbs.visual_relation, cmbs.audio_relation):
        relation.linear1, relation.linear2 = torch.nn.Linear(16, 512).double(), torch.nn.Linear(512, 16).double()
    cmbs.load_state_dict({key: value for key, value in plain.state_dict().items() if "event_encoder" not in key})
    expected = cmbs.eval()(*some_features())
    assert all(torch.equal(a, b) for a, b in zip(plain(*some_features())[:4], expected, strict=True))


def test_what_cmbs_can_leave_out_and_mend_cace_can_too():
    settings = {"time_level": False, "modalities": "audio"}
    output = tiny(**settings)(*some_features())
    assert set(build_loss({**TINY, **settings})(output, some_labels())) == {
        "event", "category", "av_category", "contrast", "total",
    }  # fmt: skip
    settings = {"quirks": {"gate_as_logit": False}}
    output = tiny(**settings)(*some_features())
    gate = output.audio_gate_logits.sigmoid() * output.visual_gate_logits.sigmoid()
    torch.testing.assert_close(output.gate, gate)
    is_event = some_labels()[..., :-1].amax(2).double()
    expected = torch.nn.functional.binary_cross_entropy(gate, is_event)
    torch.testing.assert_close(build_loss({**TINY, **settings})(output, some_labels())["gate"], expected)


def test_weights_of_terms():
    output = tiny()(*some_features())
    terms = build_loss(TINY)(output, some_labels())
    half = build_loss(TINY, {"contrast": 0.5})(output, some_labels())
    torch.testing.assert_close(half["total"], terms["total"] - 0.5 * terms["contrast"])
    assert "contrast" not in build_loss(TINY, {"contrast": 0.0})(output, some_labels())
    with pytest.raises(ValueError, match="no term 'contrasts'"):
        build_loss(TINY, {"contrasts": 1.0})


def test_settings_that_it_does_not_have():
    with pytest.raises(ValueError, match="'self_attention' is false"):
        build_model({**TINY, "self_attention": False})
    with pytest.raises(ValueError, match="unknown key 'contrast_noise'"):
        build_model({"name": "supv_main_model", "contrast_noise": 0.1})

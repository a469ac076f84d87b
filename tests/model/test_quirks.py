"""What the authors' code does otherwise than their paper says: each switch by itself, against a second computation."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from conftest import TINY_MODEL
from torch import Tensor, nn
from torch.nn import functional as F

from model import build_loss, build_model
from model.attention import AudioGuidedAttention
from model.losses import product_cross_entropy
from model.settings import SupervisedQuirks, WeakCMBSSettings, WeakQuirks

SUPERVISED, WEAK = "supv_main_model", "weak_main_model"
SWITCHES = [(SUPERVISED, switch) for switch in SupervisedQuirks.model_fields]
SWITCHES += [(WEAK, switch) for switch in WeakQuirks.model_fields]


def tiny(name: str, **quirks: bool) -> nn.Module:
    """A small network in float64, of the same weights whatever its quirks."""
    torch.manual_seed(0)
    return build_model({"name": name, **TINY_MODEL, "quirks": quirks}).double().eval()


def features() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.rand(3, 5, 2, 2, 16, generator=generator, dtype=torch.float64),
        torch.rand(3, 5, 8, generator=generator, dtype=torch.float64),
    )


def labels(name: str) -> Tensor:
    index = [[1, 1, 3, 3, 3], [3, 2, 2, 2, 3], [3] * 5] if name == SUPERVISED else [1, 2, 3]
    return torch.eye(4, dtype=torch.float64)[torch.tensor(index)]


def loss_terms(name: str, network: nn.Module, **quirks: bool) -> dict[str, Tensor]:
    return build_loss({"name": name, "quirks": quirks})(network(*features()), labels(name))


@pytest.mark.parametrize(
    ("quirks", "words"),
    [
        ({}, ", as its authors' code has it"),
        ({"own_gate": False, "scale_input": False}, ", as its authors' code has it but for scale_input, own_gate"),
        (
            dict.fromkeys(("scale_input", "own_gate", "probs_as_logits"), False),
            ", as its paper has it (all model.quirks off)",
        ),
    ],
)
def test_settings_say_which_network_they_are(quirks, words):
    assert WeakCMBSSettings(name=WEAK, quirks=quirks).variant == words


@pytest.mark.parametrize(("name", "switch"), SWITCHES)
def test_each_switch_changes_the_training_and_its_default_nothing(name, switch):
    totals = {}
    for value in (None, True, False):
        quirks = {} if value is None else {switch: value}
        totals[value] = loss_terms(name, tiny(name, **quirks), **quirks)["total"].item()
    assert totals[None] == totals[True] != totals[False]


def attention_by_the_page(layer: AudioGuidedAttention, visual: Tensor, audio: Tensor, scale_input: bool) -> Tensor:
    """The five steps of the audio-guided attention, segment by segment and cell by cell."""
    result = torch.empty(*visual.shape[:2], visual.shape[3], dtype=visual.dtype)
    for clip, t in itertools.product(*map(range, visual.shape[:2])):
        x, a = visual[clip, t], audio[clip, t]
        y = layer.norm(x + (layer.query(x) @ layer.key(x).T).softmax(1) @ layer.value(x))
        m = F.relu(layer.global_mean(y.mean(0)))
        s = torch.stack([layer.global_score(F.relu(layer.global_cell(cell)) * m) for cell in y])
        g = (torch.tanh(s).softmax(0) * y).sum(0)
        c = torch.stack([F.relu(layer.channel_audio(a)) * F.relu(layer.channel_visual(cell)) for cell in y]).mean(0)
        z = torch.sigmoid(layer.channel_excite(F.relu(layer.channel_squeeze(c))))
        xc = (x if scale_input else y) * (1 + z)
        s = torch.stack(
            [layer.spatial_score(F.relu(layer.spatial_visual(n)) * F.relu(layer.spatial_audio(a))) for n in xc]
        )
        f = (torch.tanh(s).softmax(0) * xc).sum(0)
        result[clip, t] = f + layer.beta * torch.sigmoid(g) * f
    return result


@pytest.mark.parametrize("scale_input", [True, False])
def test_scale_input(scale_input):
    torch.manual_seed(0)
    layer = AudioGuidedAttention(16, 8, beta=0.4, scale_input=scale_input).double().eval()
    nn.init.normal_(layer.norm.weight, 1, 0.3)
    visual, audio = features()
    attended, _ = layer(visual.flatten(2, 3), audio)
    torch.testing.assert_close(
        attended, attention_by_the_page(layer, visual.flatten(2, 3), audio, scale_input), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("name", [SUPERVISED, WEAK])
def test_without_self_attention_there_is_nothing_else_to_scale(name):
    torch.manual_seed(0)
    networks = [
        build_model({"name": name, **TINY_MODEL, "self_attention": False, "quirks": {"scale_input": value}}).eval()
        for value in (True, False)
    ]
    networks[1].load_state_dict(networks[0].state_dict())
    visual, audio = (x.float() for x in features())
    assert all(torch.equal(*pair) for pair in zip(*(network(visual, audio) for network in networks), strict=True))


def test_gate_as_logit():
    network = tiny(SUPERVISED, gate_as_logit=False)
    output = network(*features())
    assert all(torch.equal(*pair) for pair in zip(output, tiny(SUPERVISED)(*features()), strict=False))
    terms = loss_terms(SUPERVISED, network, gate_as_logit=False)
    is_event = labels(SUPERVISED)[..., :-1].sum(2)
    by_hand = F.binary_cross_entropy(output.gate, is_event)
    torch.testing.assert_close(terms["gate"], by_hand, rtol=1e-12, atol=0)
    as_coded = loss_terms(SUPERVISED, tiny(SUPERVISED))
    assert {name for name in terms if terms[name] != as_coded[name]} == {"gate", "total"}

    parameters = [
        *network.audio_gate.parameters(),
        *network.visual_gate.parameters(),
        *network.audio_encoder.parameters(),
    ]
    ours = torch.autograd.grad(terms["gate"], parameters)
    theirs = torch.autograd.grad(by_hand, parameters)
    for gradient, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-16)


EXTREMES = (-1e4, -200.0, -20.0, -1.0, 0.0, 3.0, 20.0, 200.0, 1e4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_the_cross_entropy_of_a_product_at_any_logits(target, dtype):
    def log_sigmoid(x: float) -> float:
        return min(x, 0.0) - math.log1p(math.exp(-abs(x)))

    def wanted(x: float, y: float) -> float:
        if target:
            return -(log_sigmoid(x) + log_sigmoid(y))
        # 1 - sigma(x) sigma(y) = sigma(-x) + sigma(-y) - sigma(-x) sigma(-y), from its largest summand's logarithm
        parts = (log_sigmoid(-x), log_sigmoid(-y), log_sigmoid(-x) + log_sigmoid(-y))
        largest = max(parts)
        a, b, c = (math.exp(part - largest) for part in parts)
        return -(largest + math.log(a + b - c))

    for x, y in itertools.product(EXTREMES, repeat=2):
        logits = [torch.tensor([value], dtype=dtype, requires_grad=True) for value in (x, y)]
        loss = product_cross_entropy(*logits, torch.tensor([target], dtype=dtype))
        rounding = torch.finfo(dtype).eps
        assert loss.item() == pytest.approx(wanted(x, y), rel=8 * rounding, abs=4 * rounding)
        for gradient in torch.autograd.grad(loss, logits):
            assert gradient.isfinite().all()
            assert gradient.abs() <= 1


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("bias", [1e4, -1e4])
def test_gates_at_0_and_1_train_on(bias, autocast):
    """The gate is exactly 0 or 1; its loss still pulls it back where it is wrong."""
    torch.manual_seed(0)
    settings = {"name": SUPERVISED, **TINY_MODEL, "quirks": {"gate_as_logit": False}}
    network = build_model(settings)
    for gate in (network.audio_gate, network.visual_gate):
        nn.init.constant_(gate.score.bias, bias)
    visual, audio = (x.float() for x in features())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = network(visual, audio)
        terms = build_loss(settings)(output, labels(SUPERVISED).float())
    assert (output.gate == (1 if bias > 0 else 0)).all()
    assert all(term.isfinite() and term.dtype == torch.float32 for term in terms.values())
    terms["total"].backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())
    for gate in (network.audio_gate, network.visual_gate):
        assert gate.score.bias.grad * bias > 0  # a step down the gradient brings the gate back


class Returns(nn.Module):
    """Gives the same tensor for whatever it is asked."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, _: Tensor) -> Tensor:
        return self.value


def test_own_gate():
    """Gated by the other modality is what the authors' code computes with its two gates exchanged."""
    written, exchanged = tiny(WEAK, own_gate=False), tiny(WEAK)
    logits = {}
    for name in ("visual_gate", "audio_gate"):
        getattr(exchanged, name).register_forward_hook(lambda _, __, value, name=name: logits.update({name: value}))
    exchanged(*features())
    exchanged.visual_gate, exchanged.audio_gate = Returns(logits["audio_gate"]), Returns(logits["visual_gate"])
    (ours, explained), theirs = written.explain(*features()), exchanged(*features())
    for value, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(explained.scores["visual_gate"], logits["visual_gate"].sigmoid().squeeze(2))
    assert torch.equal(ours.gate, tiny(WEAK)(*features()).gate)


def test_probs_as_logits():
    network = tiny(WEAK, probs_as_logits=False)
    output = network(*features())
    assert all(torch.equal(*pair) for pair in zip(output, tiny(WEAK)(*features()), strict=True))
    total = 0.0
    for clip, label in enumerate(labels(WEAK)):
        for category, y in enumerate(label.tolist()):
            z = max((output.gate[clip, t] * output.category_logits[clip, category]).item() for t in range(5))
            total -= math.log(1 / (1 + math.exp(-z if y else z)))
    terms = loss_terms(WEAK, network, probs_as_logits=False)
    assert terms["category"].item() == terms["total"].item() == pytest.approx(total / (3 * 4), rel=1e-12)

"""The networks beyond the golden shapes: other sizes, autocast, initial weights, and predictions."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest
import torch
from conftest import ROOT, TINY_MODEL

from model import NETWORKS, build_loss, build_model
from model.cmbs import WeaklySupervisedCMBS, WeakOutput
from model.dropout import Dropout
from model.localization import RULES
from model.settings import RuleName
from model.validation import settings_class

GATES = ("gate", "audio_gate", "visual_gate")
# Networks that take any grid and number of segments -> the scores and the activations of their explanations.
EXPLAINED = {
    "supv_main_model": (GATES, ("visual", "audio")),
    "weak_main_model": (GATES, ("fused", "visual", "audio")),
    "cmran_supv": ((), ()),
    "cmran_weak": ((), ()),
    "cace_supv": (GATES, ("visual", "audio")),
}
CMBS = ("supv_main_model", "weak_main_model")


def columns_of(name: str, categories: int) -> int:
    """The columns of a network's category logits: under weak supervision one more, background's."""
    return categories + (NETWORKS[name].supervision == "weak")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("supv_main_model", 9_200_473),
        ("weak_main_model", 9_395_518),
        ("cmran_supv", 9_509_150),
        ("cmran_weak", 9_509_407),
        ("cace_supv", 9_283_417),
    ],
)
def test_only_used_parts_have_parameters(name, parameters):
    network = build_model({"name": name})
    assert sum(p.numel() for p in network.parameters()) == parameters
    visual, audio = torch.rand(2, 10, 2, 2, 512), torch.rand(2, 10, 128)
    sum(x.square().sum() for x in network(visual, audio) if x is not None).backward()
    without = [key for key, p in network.named_parameters() if p.grad is None]
    assert not without


@pytest.mark.parametrize("name", EXPLAINED)
@pytest.mark.parametrize(
    ("batch", "segments", "grid", "categories"), [(1, 10, (7, 7), 28), (2, 4, (1, 1), 3), (3, 13, (5, 2), 141)]
)
def test_shapes(name, batch, segments, grid, categories):
    network = build_model({"name": name, **TINY_MODEL, "categories": categories})
    output, explanation = network.explain(torch.rand(batch, segments, *grid, 16), torch.rand(batch, segments, 8))
    columns = columns_of(name, categories)
    wanted = {
        "event_logits": (batch, segments),
        "gate": (batch, segments),
        "category_logits": (batch, columns),
        "av_category_logits": (batch, columns),
        "category_probs": (batch, columns),
        "encoding": (batch, segments, 16),
        "noisy_encoding": (batch, segments, 16),
    }
    for field, tensor in output._asdict().items():
        assert tensor is None or tensor.shape == wanted[field], field
    if grid == (1, 1):  # attention to the only cell says nothing
        assert explanation.attention is None
    else:
        assert explanation.attention.shape == (batch, segments, *grid)
        torch.testing.assert_close(explanation.attention.sum((2, 3)), torch.ones(batch, segments))
    scores, activations = EXPLAINED[name]
    assert {key: score.shape for key, score in explanation.scores.items()} == dict.fromkeys(scores, (batch, segments))
    assert {key: activation.shape for key, activation in explanation.activations.items()} == dict.fromkeys(
        activations, (batch, segments, columns)
    )
    prediction = network.predict(output, explanation)
    assert prediction.segments.shape == prediction.event_probability.shape == (batch, segments)
    assert prediction.category_probability.shape == (batch, segments, categories)
    assert all(torch.equal(*pair) for pair in zip(prediction, network.predict(output), strict=True))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("visual", "audio"),
    [
        ((2, 10, 49, 16), (2, 10, 8)),  # a flattened grid
        ((2, 10, 16, 7, 7), (2, 10, 8)),  # channels first
        ((2, 10, 7, 7, 16), (2, 9, 8)),
        ((2, 10, 7, 7, 16), (3, 10, 8)),
        ((2, 10, 7, 7, 16), (2, 10, 16)),
        ((10, 7, 7, 16), (10, 8)),  # a clip without its batch
        ((2, 10, 8), (2, 10, 7, 7, 16)),  # in the other order
    ],
)
def test_features_of_another_shape_are_refused(name, visual, audio):
    network = build_model({"name": name, **TINY_MODEL})
    with pytest.raises(
        ValueError, match=r"takes visual features \[B, T, H, W, 16\] and audio features \[B, T, 8\]"
    ) as no:
        network(torch.rand(visual), torch.rand(audio))
    assert str(no.value).endswith(f", not {list(visual)} and {list(audio)}")


@pytest.mark.parametrize("name", [name for name in EXPLAINED if not name.startswith("cmran")])
def test_clips_too_short_to_average_their_best_segments_are_refused(name):
    network = build_model({"name": name, **TINY_MODEL})
    with pytest.raises(ValueError, match=r"averages the best 4 segments of a clip, and these clips have 3; it needs"):
        network(torch.rand(2, 3, 2, 2, 16), torch.rand(2, 3, 8))


@pytest.mark.parametrize("name", EXPLAINED)
def test_category_probabilities_share_out_the_event_probability(name):
    network = build_model({"name": name, **TINY_MODEL}).double().eval()
    output, explanation = network.explain(torch.rand(3, 10, 2, 2, 16).double(), torch.rand(3, 10, 8).double())
    prediction = network.predict(output, explanation)
    whole = prediction.category_probability.sum(2)
    if NETWORKS[name].supervision == "weak":  # the rest is that of a clip without an event
        whole = whole + prediction.event_probability * output.category_logits.softmax(1)[:, -1:]
    torch.testing.assert_close(whole, prediction.event_probability)
    best = prediction.category_probability.argmax(2)
    foreground = output.category_logits[:, : prediction.category_probability.shape[2]].argmax(1)
    assert torch.equal(best, foreground.unsqueeze(1).expand_as(best))


def test_correct_counts_segments_or_clips():
    network = build_model({"name": "supv_main_model", **TINY_MODEL})
    prediction = network.predict(network(torch.rand(2, 10, 2, 2, 16), torch.rand(2, 10, 8)))
    segments = torch.tensor([[0] * 6 + [3] * 4, [3] * 10])
    prediction = prediction._replace(segments=segments, category=torch.tensor([0, 1]))
    labels = torch.eye(4)[torch.tensor([[0] * 5 + [3] * 5, [2] * 10])]
    assert network.correct(prediction, labels).tolist() == [9, 20]
    assert network.correct(prediction, torch.eye(4)[[0, 3]]).tolist() == [1, 2]
    assert network.correct(prediction, labels).dtype == torch.float64
    shares = torch.tensor([[0.1, 0, 0, 0.9], [0, 0, 0.5, 0.5]])  # of segments: the clip's label is the event
    assert network.correct(prediction, shares).tolist() == [1, 2]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_by_its_name(name):
    settings_class, network, loss, supervision = NETWORKS[name]
    assert supervision == settings_class.supervision == ("weak" if "weak" in name else "full")
    assert isinstance(build_model({"name": name, **TINY_MODEL}), network)
    assert isinstance(build_loss({"name": name}), loss)
    assert isinstance(build_model(settings_class(name=name, **TINY_MODEL)), network)


@pytest.mark.parametrize("name", EXPLAINED)
def test_a_clip_does_not_depend_on_its_batch(name):
    network = build_model({"name": name, **TINY_MODEL}).double().eval()
    visual, audio = torch.rand(5, 10, 3, 3, 16).double(), torch.rand(5, 10, 8).double()
    together = network(visual, audio)
    for i in range(5):
        for ours, alone in zip(together, network(visual[i : i + 1], audio[i : i + 1]), strict=True):
            if alone is not None:
                torch.testing.assert_close(ours[i : i + 1], alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", EXPLAINED)
def test_trains_under_autocast(name):
    network = build_model({"name": name, **TINY_MODEL})
    loss = build_loss({"name": name})
    labels = torch.eye(4)[torch.randint(0, 4, (3, 10) if NETWORKS[name].supervision == "full" else (3,))]
    with torch.autocast("cpu", torch.bfloat16):
        terms = loss(network(torch.rand(3, 10, 3, 3, 16), torch.rand(3, 10, 8)), labels)
    assert terms.keys() == {*NETWORKS[name].settings.loss_terms, "total"}
    assert all(term.dtype == torch.float32 for term in terms.values())
    terms["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("name", CMBS)
def test_encoder_layers_start_equal(name):
    network = build_model({"name": name, **TINY_MODEL})
    for encoder in (network.visual_encoder, network.audio_encoder):
        first, second = (layer.state_dict() for layer in encoder.encoder.layers)
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_supervised_prediction_is_background_where_no_event():
    network = build_model({"name": "supv_main_model", **TINY_MODEL})
    output = network(torch.rand(2, 10, 2, 2, 16), torch.rand(2, 10, 8))
    logits = torch.tensor([[1.0, -1.0] * 5, [-1.0] * 10])
    prediction = network.predict(output._replace(event_logits=logits))
    assert (prediction.segments[0, 1::2] == 3).all()
    assert (prediction.segments[0, 0::2] == output.category_logits[0].argmax()).all()
    assert (prediction.segments[1] == 3).all()


def test_the_authors_rule_gives_every_segment_its_clips_category():
    gate = torch.tensor([[0.1, 0.4, 0.6, 0.9]])
    output = WeakOutput(gate, torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([[0.2, 0.5, 0.3]]))
    # sigma of a probability is above 0.5
    assert WeaklySupervisedCMBS.predict(output).segments.tolist() == [[1, 1, 1, 1]]


def test_loss_reads_labels_as_the_authors_do():
    """A clip with two events counts as the category with the larger index."""
    network = build_model({"name": "supv_main_model", **TINY_MODEL})
    output = network(torch.rand(1, 10, 2, 2, 16), torch.rand(1, 10, 8))
    labels = torch.eye(4)[torch.tensor([[0, 0, 2, 3, 3, 3, 3, 3, 3, 3]])]
    terms = build_loss({"name": "supv_main_model"})(output, labels)
    category = torch.nn.functional.cross_entropy(output.category_logits, torch.tensor([2]))
    is_event = torch.tensor([[1.0] * 3 + [0.0] * 7])
    event = torch.nn.functional.binary_cross_entropy_with_logits(output.event_logits, is_event)
    torch.testing.assert_close(terms["category"], category)
    torch.testing.assert_close(terms["event"], event)
    torch.testing.assert_close(terms["total"], sum(v for k, v in terms.items() if k != "total"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "supv_main_model", "alhpa": 0.1}, "did you mean"),
        ({"name": "main_model"}, "'name' is \"main_model\": no such network; did you mean"),
        ({"name": "transformer"}, "the networks are supv_main_model, "),
        ({"name": ["supv_main_model"]}, "'name' is"),
        ({"name": "supv_main_model", "quirks": {"own_gate": False}}, "unknown key 'quirks.own_gate'"),
        ({"name": "weak_main_model", "own_gate": False}, "belongs in the section 'quirks'"),
        ({"name": "weak_main_model", "quirks": {"own_gates": False}}, "did you mean 'quirks.own_gate'"),
        ({"name": "weak_main_model", "quirks": False}, "'quirks' must be a JSON object"),
        ({"name": "supv_main_model", "alpha": float("nan")}, "'alpha' is NaN"),
        ({"name": "supv_main_model", "d_model": 250}, "d_model"),
        ({}, "'name' is missing"),
        ({"nmae": "supv_main_model"}, "unknown key 'nmae'; did you mean 'name'"),
        ("supv_main_model", 'these must be a mapping such as {"name": ...}, not "supv_main_model"'),
    ],
)
def test_bad_settings(settings, message):
    for build in (build_model, build_loss):
        with pytest.raises(ValueError, match=message) as error:
            build(settings)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5])
def test_dropout_keeps_the_expectation(p):
    torch.manual_seed(0)
    dropout = Dropout(p).train()
    x = torch.ones(7, 11, 1013, requires_grad=True)  # a number of elements that four doesn't divide
    y = dropout(x)
    kept = y != 0
    # 78,001 draws: five standard deviations of a share are under 0.01.
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=0.01)
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / (1 - p)), rtol=2e-5, atol=0)
    neighbours = (kept[..., 1:] & kept[..., :-1]).float().mean().item()
    assert neighbours == pytest.approx((1 - p) ** 2, abs=0.01)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert torch.equal(dropout.eval()(x), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_and_relu_in_one_are_those_two(dtype):
    torch.manual_seed(0)
    dropout, x = Dropout(0.2).train(), torch.randn(7, 1013, dtype=dtype, requires_grad=True)
    y = dropout.relu(x)
    kept = y > 0
    assert kept.float().mean().item() == pytest.approx(0.4, abs=0.03)  # 7,091 draws, five standard deviations
    near = {"rtol": 1e-2 if dtype == torch.bfloat16 else 2e-5, "atol": 0}
    torch.testing.assert_close(y, torch.where(kept, x / 0.8, 0), **near)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.where(kept, 1 / 0.8, 0).to(dtype), **near)
    assert torch.equal(dropout.eval().relu(x), x.relu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_of_a_sum_leaves_the_residual_alone(dtype):
    torch.manual_seed(0)
    dropout = Dropout(0.2).train()
    residual, x = (torch.randn(7, 1013, dtype=dtype, requires_grad=True) for _ in range(2))
    y = dropout.add(residual, x)
    y.sum().backward()
    kept = x.grad != 0
    assert kept.float().mean().item() == pytest.approx(0.8, abs=0.03)
    near = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 2e-5, "atol": 1e-5}
    torch.testing.assert_close(y, torch.where(kept, residual + x / 0.8, residual), **near)
    torch.testing.assert_close(x.grad, torch.where(kept, 1 / 0.8, 0).to(dtype), **near)
    assert torch.equal(residual.grad, torch.ones_like(residual))
    assert torch.equal(dropout.eval().add(residual, x), residual + x)


def test_dropout_follows_the_seed():
    dropout, x = Dropout(0.2).train(), torch.ones(100)
    torch.manual_seed(1)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(1)
    assert torch.equal(first, dropout(x))
    assert not torch.equal(first, second)


def test_a_step_does_not_wait_for_the_import_of_torch_compile():
    step = """if True:
        import sys, torch
        from model import build_model
        sizes = {"video_inputdim": 16, "audio_inputdim": 8, "d_model": 16}
        network = build_model({"name": "weak_main_model", **sizes}).train()
        network(torch.rand(2, 4, 1, 2, 16), torch.rand(2, 4, 8)).category_logits.sum().backward()
        print("torch._dynamo" in sys.modules)"""
    assert subprocess.check_output([sys.executable, "-c", step], cwd=ROOT, text=True) == "False\n"


@pytest.mark.parametrize("call", ["__call__", "relu", "add"])
def test_compiled_dropout_draws_what_it_draws_uncompiled(call):
    dropout, results = Dropout(0.2).train(), []
    compiled = torch.compile(lambda *x: getattr(dropout, call)(*x), backend="aot_eager")
    for compute in (getattr(dropout, call), compiled):
        torch.manual_seed(0)
        x = [torch.linspace(-1, 1, 99, requires_grad=True) for _ in range(2 if call == "add" else 1)]
        y = compute(*x)
        results.append([y, *torch.autograd.grad((y * y).sum(), x)])
    torch._dynamo.reset()
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-7)


def test_settings_name_the_networks_and_rules_that_there_are():
    """They name them without importing torch."""
    assert {name: settings_class({"name": name}) for name in NETWORKS} == {n: e.settings for n, e in NETWORKS.items()}
    with pytest.raises(ValueError, match="the networks are ") as error:
        build_model({"name": "no network's name at all"})
    assert set(str(error.value).partition("the networks are ")[2].split(", ")) == set(NETWORKS)
    assert list(RULES) == list(get_args(RuleName))

"""AVEL, PSP and CPSP beyond the golden shapes: their sizes, initial weights, predictions, and losses of odd batches."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import TINY_MODEL, official_keys
from torch.nn import functional as F

from model import NETWORKS, build_loss, build_model
from model.cpsp import segment_contrast_as_coded, segment_contrast_over_rows, video_contrast
from model.interface import best_column
from model.official import load_official, to_official
from model.psp import PositiveSamplePropagation

PARAMETERS = {
    "avel_supv": 1_335_246,
    "avel_dmrn": 1_571_150,
    "avel_weak": 1_335_246,
    "psp_supv": 1_548_657,
    "psp_weak": 1_253_902,
    "cpsp_supv": 1_537_870,
}
BY_SEGMENT = ("avel_supv", "avel_dmrn", "avel_weak", "psp_supv", "psp_weak")


def tiny(name: str, grid: tuple[int, int] = (2, 2), segments: int = 10, **settings: object) -> torch.nn.Module:
    return build_model({"name": name, **TINY_MODEL, "grid": list(grid), "segments": segments, **settings})


def features(clips: int, grid: tuple[int, int] = (2, 2), segments: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(clips, segments, *grid, 16), torch.rand(clips, segments, 8)


def some_labels(name: str, clips: int, segments: int = 10) -> torch.Tensor:
    full = NETWORKS[name].supervision == "full"
    return torch.eye(4)[torch.randint(0, 4, (clips, segments) if full else (clips,))]


@pytest.mark.parametrize("name", PARAMETERS)
def test_only_used_parts_have_parameters(name):
    assert sum(p.numel() for p in build_model({"name": name}).parameters()) == PARAMETERS[name]
    network = tiny(name)
    terms = build_loss({"name": name})(network(*features(4)), some_labels(name, 4))
    assert terms.keys() == {*NETWORKS[name].settings.loss_terms, "total"}
    terms["total"].backward()
    without = [key for key, p in network.named_parameters() if p.grad is None]
    assert not without


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize(
    ("batch", "segments", "grid", "categories"), [(1, 10, (7, 7), 28), (2, 1, (1, 1), 3), (3, 13, (5, 2), 141)]
)
def test_shapes(name, batch, segments, grid, categories):
    network = tiny(name, grid, segments, categories=categories)
    output, explanation = network.explain(*features(batch, grid, segments))
    wanted = {
        "segment_probs": (batch, segments, categories + 1),
        "segment_logits": (batch, segments, categories + 1),
        "category_probs": (batch, categories + 1),
        "event_logits": (batch, segments),
        "category_logits": (batch, categories),
        "similarity": (batch, segments),
        "fusion": (batch, segments, 16),
    }
    for field in output._fields:
        assert getattr(output, field).shape == wanted[field], field
    if grid == (1, 1):  # attention to the only cell says nothing
        assert explanation.attention is None
    else:
        assert explanation.attention.shape == (batch, segments, *grid)
        torch.testing.assert_close(explanation.attention.sum((2, 3)), torch.ones(batch, segments))
    for score in explanation.scores.values():
        assert score.shape == (batch, segments)
        assert ((score >= 0) & (score <= 1)).all()
    for activation in explanation.activations.values():
        assert activation.shape == (batch, segments, categories + 1)
    prediction = network.predict(output, explanation)
    assert prediction.segments.shape == prediction.event_probability.shape == (batch, segments)
    assert prediction.category.shape == (batch,)
    assert prediction.category_probability.shape == (batch, segments, categories)
    assert all(torch.equal(*pair) for pair in zip(prediction, network.predict(output), strict=True))


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize(("segments", "grid"), [(9, (2, 2)), (10, (1, 4)), (10, (3, 3))])
def test_another_size_is_refused(name, segments, grid):
    with pytest.raises(ValueError, match=r"10 segments with a grid of 2x2 cells.*model\.segments and model\.grid"):
        tiny(name)(*features(2, grid, segments))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": [7]}, "grid"),
        ({"grid": [7, 0]}, "grid"),
        ({"segments": 0}, "segments"),
        ({"d_model": 30}, "d_model"),
        ({"segment_contrast": "rows"}, "unknown key 'segment_contrast'"),
        ({"alpha": 0.1}, "unknown key 'alpha'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        build_model({"name": "psp_supv", **settings})


def test_the_contrast_of_segments_is_one_of_two():
    with pytest.raises(ValueError, match=r"segment_contrast.*'as_coded' or 'rows'"):
        build_model({"name": "cpsp_supv", "segment_contrast": "columns"})


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_clip_does_not_depend_on_its_batch(name):
    network = tiny(name).double().eval()
    visual, audio = (x.double() for x in features(5))
    together = network(visual, audio)
    for i in range(5):
        for ours, alone in zip(together, network(visual[i : i + 1], audio[i : i + 1]), strict=True):
            torch.testing.assert_close(ours[i : i + 1], alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", PARAMETERS)
def test_trains_under_autocast(name):
    network, loss = tiny(name), build_loss({"name": name})
    with torch.autocast("cpu", torch.bfloat16):
        terms = loss(network(*features(5)), some_labels(name, 5))
    assert all(term.dtype == torch.float32 for term in terms.values())
    terms["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_loss_falls(name):
    torch.manual_seed(0)
    network, loss = tiny(name), build_loss({"name": name})
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    batch, labels = features(6), some_labels(name, 6)
    totals = []
    for _ in range(100):
        total = loss(network(*batch), labels)["total"]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert sum(totals[-10:]) < sum(totals[:10])


@pytest.mark.parametrize("name", PARAMETERS)
def test_which_weights_start_as_xavier(name):
    """Linear(in, out) starts within sqrt(6 / (in + out)) there, as torch makes it within 1 / sqrt(in)."""
    network = build_model({"name": name})
    of_attention = {"attention.visual_projection", "attention.audio_projection", "attention.of_visual",
                    "attention.of_audio", "attention.score"}  # fmt: skip
    wanted = {
        "avel_supv": of_attention | {"fusion.hidden", "fusion.classifier"},
        "avel_dmrn": {"fusion.classifier"},
        "avel_weak": of_attention | {"fusion.hidden", "fusion.classifier"},
        "psp_supv": of_attention | {"classifier.hidden", "classifier.classifier"},
        "psp_weak": of_attention | {"classifier.hidden", "classifier.classifier"},
        "cpsp_supv": of_attention,
    }[name]
    for key, layer in network.named_modules():
        if isinstance(layer, torch.nn.Linear):
            fan_out, fan_in = layer.weight.shape
            xavier, default = (6 / (fan_in + fan_out)) ** 0.5, fan_in**-0.5
            largest = layer.weight.abs().max().item()
            key = key.removeprefix("sequences.").removeprefix("features.")
            bound = xavier if key in wanted or "propagation." in key else default
            other = default if bound == xavier else xavier
            assert largest <= bound * 1.0001, key
            if bound > 1.3 * other:  # else the largest weight can't tell the two apart
                assert largest > other, key


@pytest.mark.parametrize("name", BY_SEGMENT)
def test_a_segment_is_an_event_where_the_event_probability_is_above_the_threshold(name):
    network, logits = tiny(name), torch.randn(8, 10, 4)
    logits[..., 3] += 1
    other = {"segment_probs": logits.softmax(2)} if name in ("avel_supv", "avel_dmrn") else {"segment_logits": logits}
    prediction = network.predict(network(*features(8))._replace(**other))
    event = prediction.segments != 3
    assert 0 < event.sum() < event.numel()
    assert torch.equal(event, prediction.event_probability > network.event_threshold)
    torch.testing.assert_close(prediction.category_probability.sum(2), prediction.event_probability)
    assert torch.equal(prediction.category_probability.argmax(2)[event], prediction.segments[event])


def test_the_best_column():
    logits = torch.tensor([[[0.0, 2.0, 1.0], [3.0, 0.0, 3.5], [0.0, 5.0, 5.0 - 1e-3]]])
    prediction = best_column(logits)
    assert prediction.segments.tolist() == [[1, 2, 1]]
    assert prediction.category.tolist() == [1]
    wanted = torch.tensor([[1.0, -0.5, 1e-3]]).sigmoid()
    torch.testing.assert_close(prediction.event_probability, wanted, rtol=1e-4, atol=0)
    assert best_column(logits, torch.tensor([2])).category.tolist() == [2]


def test_sure_probabilities_are_read_too():
    """A softmax may round to 0 and 1."""
    probs = torch.tensor([[[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]])
    network = tiny("avel_supv")
    prediction = network.predict(network(*features(1))._replace(segment_probs=probs))
    assert prediction.segments.tolist() == [[2, 1, 0]]
    assert all(x.isfinite().all() for x in prediction)


def test_only_strong_connections_propagate():
    network = PositiveSamplePropagation(16, threshold=0.3, supervised=True)
    similar = torch.tensor([[[1.0, 3.0, 6.0], [0.0, 0.0, 0.0], [2.0, 4.0, 4.0]]])
    wanted = [[[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.5, 0.5]]]
    torch.testing.assert_close(network.strong_connections(similar), torch.tensor(wanted))
    weak = PositiveSamplePropagation(16, threshold=0.3, supervised=False)
    wanted = [[[0.0, 0.0, 0.6], [0.0, 0.0, 0.0], [0.0, 0.4, 0.4]]]
    torch.testing.assert_close(weak.strong_connections(similar), torch.tensor(wanted))


def test_the_threshold_of_connections_follows_the_length_of_clips():
    assert tiny("psp_supv").features.propagation.threshold == pytest.approx(0.099)
    assert tiny("psp_weak").propagation.threshold == pytest.approx(0.095)
    assert tiny("cpsp_supv", segments=5).features.propagation.threshold == pytest.approx(0.198)


def test_targets_of_similarity():
    """Of the event's segments; where there is none, PSP's loss takes the background for it and CPSP's nothing."""
    labels = torch.eye(4)[torch.tensor([[0, 0, 3, 3, 3, 3, 3, 3, 3, 3], [3] * 10])]
    similarity = torch.rand(2, 10)
    shares = similarity / similarity.sum(1, keepdim=True)
    event = torch.tensor([0.5, 0.5] + [0.0] * 8)
    for name, without_event in (("psp_supv", 0.1), ("cpsp_supv", 0.0)):
        output = tiny(name)(*features(2))._replace(similarity=similarity)
        wanted = F.mse_loss(shares, torch.stack([event, torch.full((10,), without_event)]))
        assert build_loss({"name": name})(output, labels)["similarity"].item() == pytest.approx(wanted.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("psp_supv", {"segment": 1, "similarity": 100}),
        ("cpsp_supv", {"event": 1, "category": 1, "similarity": 100, "segment_contrast": 0.01, "video_contrast": 1}),
    ],
)
def test_weights_of_terms(name, weights):
    output, labels = tiny(name)(*features(6)), some_labels(name, 6)
    terms = build_loss({"name": name})(output, labels)
    assert set(terms) == {*weights, "total"}
    torch.testing.assert_close(terms["total"], sum(weight * terms[term] for term, weight in weights.items()))
    for term in weights:
        less = build_loss({"name": name}, {term: 0})(output, labels)
        assert set(less) == set(terms) - {term}
        twice = build_loss({"name": name}, {term: 2})(output, labels)
        torch.testing.assert_close(twice["total"], terms["total"] + (2 - weights[term]) * terms[term])
    with pytest.raises(ValueError, match="no term 'gate'"):
        build_loss({"name": name}, {"gate": 1})


def test_contrasts_where_there_is_nothing_to_contrast():
    fused = F.normalize(torch.rand(4, 10, 16), dim=2).requires_grad_()
    nowhere, everywhere = torch.zeros(4, 10), torch.ones(4, 10)
    for contrast in (segment_contrast_as_coded, segment_contrast_over_rows):
        for is_event in (nowhere, everywhere):
            value = contrast(fused, is_event)
            assert value.item() == pytest.approx(0, abs=1e-6)
            value.backward()
    for clips, category in ((1, [0]), (2, [0, 1]), (4, [0, 0, 0, 0]), (4, [0, 0, 1, 1])):
        value = video_contrast(fused[:clips], torch.tensor(category))  # fewer than 3 of another category
        assert value.item() == 0
        value.backward()
    assert fused.grad.isfinite().all()


def test_the_contrast_as_coded_trains_nothing():
    fused = F.normalize(torch.rand(3, 10, 16, dtype=torch.float64), dim=2).requires_grad_()
    is_event = (torch.arange(10) < torch.tensor([[3], [5], [0]])).double()
    value = segment_contrast_as_coded(fused, is_event)
    assert value.item() == pytest.approx(27.631 * (7 / 3 + 5 / 5) / 2, rel=1e-4)
    (coded,) = torch.autograd.grad(value, fused)
    (over_rows,) = torch.autograd.grad(segment_contrast_over_rows(fused, is_event), fused)
    assert coded.norm() < 1e-8 * over_rows.norm()


def test_clips_of_a_category_are_drawn_together():
    """Three far clips of other categories, one near one: only that lies within the margin."""
    means = torch.eye(16)[[0, 0, 1, 2, 3]]
    means[1] = F.normalize(means[0] + 0.2 * means[2], dim=0)
    fused = means.unsqueeze(1).repeat(1, 10, 1)
    category = torch.tensor([0, 0, 1, 2, 3])
    apart = torch.cdist(means, means)
    nearest = torch.stack([apart[i][category != category[i]].sort().values[:3].mean() for i in range(5)])
    wanted = (torch.tensor([apart[0, 1], apart[0, 1], 0, 0, 0]) - nearest + 0.2).relu().mean()
    torch.testing.assert_close(video_contrast(fused, category), wanted, rtol=1e-4, atol=1e-5)
    wider = video_contrast(fused, torch.tensor([0, 4, 1, 2, 0]))
    assert wider > video_contrast(fused, category)


def test_shares_of_segments_are_labels_too():
    """The loss of the weak PSP takes clip labels and shares alike, and is lowest where it predicts what it is given."""
    network, loss = tiny("psp_weak"), build_loss({"name": "psp_weak"})
    output = network(*features(2))
    shares = torch.tensor([[0.3, 0.0, 0.0, 0.7], [0.0, 0.0, 0.0, 1.0]])
    exact = loss(output._replace(category_probs=shares.clamp(1e-7, 1 - 1e-7)), shares)["total"]
    assert exact < loss(output._replace(category_probs=torch.eye(4)[[0, 3]]), shares)["total"]
    assert loss(output._replace(category_probs=torch.eye(4)[[0, 3]]), torch.eye(4)[[0, 3]])["total"] == 0


@pytest.mark.parametrize("name", PARAMETERS)
def test_official_keys(name):
    exported = to_official(build_model({"name": name}))
    assert {key.removeprefix("module."): tuple(tensor.shape) for key, tensor in exported.items()} == {
        key: shape for key, shape, _ in official_keys(name)
    }


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("prefix", ["module.", ""])
def test_every_weight_is_loaded_from_the_authors_keys(name, prefix):
    network, other = tiny(name), tiny(name)
    for number, parameter in enumerate(network.parameters()):
        torch.nn.init.normal_(parameter, mean=number)
    theirs = {prefix + key.removeprefix("module."): tensor for key, tensor in to_official(network).items()}
    load_official(other, theirs)
    for (key, ours), loaded in zip(network.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(ours, loaded), key


@pytest.mark.parametrize("name", PARAMETERS)
def test_problems_of_a_checkpoint_are_named(name):
    network = tiny(name)
    theirs, before = to_official(network), copy.deepcopy(network.state_dict())
    missing = next(key for key, _, _ in official_keys(name) if "lstm" in key)
    misshapen = next(key for key, _, _ in official_keys(name) if "affine_g" in key)
    del theirs[f"module.{missing}"]
    theirs[f"module.{misshapen}"] = torch.zeros(3)
    theirs["module.something.weight"] = torch.zeros(3)
    with pytest.raises(ValueError, match="not a checkpoint") as error:
        load_official(network, theirs)
    for part in (f"missing: {missing}", f"{misshapen} is [3] and should be", "not known: something.weight"):
        assert part in str(error.value)
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())

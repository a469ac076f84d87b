"""Where the weak network says the event is: each rule, its threshold, and that no segment label chooses it."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from conftest import TINY_MODEL

import supv_main
import weak_main
from dataset.ave import WeakAVEDataset
from dataset.files import ANNOTATIONS, LABELS
from dataset.loading import make_batches
from model import build_model
from model.cmbs import WeaklySupervisedCMBS, WeakOutput
from model.interface import Explanation
from model.localization import RULES, Localization
from model.thresholds import likely_threshold, otsu_threshold
from utils.base.checkpoint import Checkpoint
from utils.base.errors import EXIT_DONE, EXIT_USER_ERROR
from utils.base.paths import BEST
from utils.evaluation.threshold import choose_threshold

BACKGROUND = 2  # of two categories
BY_ACTIVATION = [name for name, rule in RULES.items() if rule.activations]


def made_output(activation: list, gate: list, category: int = 1) -> tuple[WeakOutput, Explanation]:
    """One clip of two categories: activation [T][C+1], gate [T]."""
    activation, gate = torch.tensor([activation]), torch.tensor([gate])
    logits = torch.zeros(1, BACKGROUND + 1)
    logits[0, category] = 1
    output = WeakOutput(gate, logits, logits.softmax(-1))
    seen = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    heard = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 9.0]]])
    return output, Explanation(None, {"gate": gate}, {"fused": activation, "visual": seen, "audio": heard})


def localized(localize: str, threshold: float | None = None) -> Localization:
    """How the weak CMBS network's outputs are read; its class alone has all that is needed for it."""
    return Localization(WeaklySupervisedCMBS, localize, threshold)


# Category 1 is high, then middling, then low; the background column passes it in the last segment only.
CLIP = made_output([[9.0, 8.0, 0.0], [9.0, 5.0, 0.0], [9.0, 4.0, 1.0], [9.0, 1.0, 2.0]], [0.9, 0.2, 0.8, 0.6])


@pytest.mark.parametrize(
    ("localize", "threshold", "events"),
    [
        ("authors", None, [1, 1, 1, 1]),
        ("gate", 0.6, [1, 0, 1, 0]),
        ("activation", 4.0, [1, 1, 0, 0]),
        ("background", None, [1, 1, 1, 0]),
        ("background", 4.0, [1, 1, 0, 0]),
        ("relative", -4.0, [1, 1, 0, 0]),
        ("combined", -2.0, [1, 1, 0, 0]),
        ("combined", -2.1, [1, 1, 1, 0]),
        ("contiguous", 0.36, [0, 1, 0, 0]),
        ("contiguous", 0.355, [1, 1, 0, 0]),
        ("contiguous_fused", 0.04, [1, 1, 0, 0]),
        ("contiguous_fused", 0.05, [1, 0, 0, 0]),
    ],
)
def test_what_a_rule_calls_an_event(localize, threshold, events):
    prediction = localized(localize, threshold)(*CLIP)
    assert prediction.segments.tolist() == [[1 if event else BACKGROUND for event in events]]
    assert prediction.category.tolist() == [1]
    if localize in BY_ACTIVATION:
        assert (prediction.event_probability > 0.5).int().tolist() == [events]
    else:
        assert torch.equal(prediction.event_probability, CLIP[0].gate)
    own = WeaklySupervisedCMBS.predict(*CLIP)  # whose shares of the categories stay
    share = own.category_probability / own.event_probability.unsqueeze(2)
    torch.testing.assert_close(prediction.category_probability, share * prediction.event_probability.unsqueeze(2))


@pytest.mark.parametrize("localize", RULES)
def test_a_clip_called_background_has_no_event(localize):
    output, explanation = made_output(
        CLIP[1].activations["fused"][0].tolist(), CLIP[0].gate[0].tolist(), category=BACKGROUND
    )
    prediction = localized(localize, None if localize == "authors" else 0.0)(output, explanation)
    assert (prediction.segments == BACKGROUND).all()
    if localize in BY_ACTIVATION:
        assert (prediction.event_probability == 0).all()


def test_relative_takes_out_how_strongly_a_clip_shows_its_event():
    weaker = CLIP[1]._replace(activations={"fused": CLIP[1].activations["fused"] - torch.tensor([0.0, 3.0, 0.0])})
    relative, activation = localized("relative", -4.0), localized("activation", 4.0)
    assert torch.equal(relative(*CLIP).segments, relative(CLIP[0], weaker).segments)
    assert not torch.equal(activation(*CLIP).segments, activation(CLIP[0], weaker).segments)


def test_otsu_finds_the_gap():
    torch.manual_seed(0)
    low, high = torch.rand(300), 3 + torch.rand(60)
    threshold = otsu_threshold(torch.cat([high, low]))
    assert low.max() < threshold < high.min()
    scores = torch.tensor([0.0, 1.0, 1.5, 4.0, 7.0, 7.5])

    def within(h: float) -> float:
        return sum(len(x) * x.var(correction=0).item() for x in (scores[scores > h], scores[scores <= h]))

    candidates = ((scores[1:] + scores[:-1]) / 2).tolist()
    assert otsu_threshold(scores) == pytest.approx(min(candidates, key=within))
    assert otsu_threshold(torch.full((2, 3), 0.4)) < 0.4


def test_the_likely_threshold_by_hand():
    scores = torch.tensor([0.1, 0.2, 0.2, 0.5, 0.6, 0.8, 0.9, 0.9, 1.0, 1.0, 1.0, 1.0]).double()

    def log_likelihood(h: float) -> float:
        """Of every score as a draw from its group's normal distribution, the most likely of one variance."""
        groups = [scores[scores <= h], scores[scores > h]]
        variance = sum(len(x) * x.var(correction=0) for x in groups) / len(scores)
        normal = [torch.distributions.Normal(x.mean(), variance.sqrt()) for x in groups]
        shares = [math.log(len(x) / len(scores)) for x in groups]
        return sum((n.log_prob(x) + p).sum().item() for x, n, p in zip(groups, normal, shares, strict=True))

    values = scores.unique()
    candidates = ((values[1:] + values[:-1]) / 2).tolist()
    assert likely_threshold(scores) == pytest.approx(max(candidates, key=log_likelihood))
    torch.manual_seed(0)
    few, many = torch.randn(300) - 2, torch.randn(6000) + 2
    assert likely_threshold(torch.cat([few, many])) < 0 < otsu_threshold(torch.cat([few, many]))


def test_equal_scores_fall_into_one_group():
    assert likely_threshold(torch.full((2, 3), 0.4)) < 0.4
    assert 0.5 < likely_threshold(torch.tensor([0.5] + [1.0] * 1000)) < 1
    assert 0 < likely_threshold(torch.tensor([0.0] * 1000 + [0.5])) < 0.5


@pytest.mark.parametrize("choose", [otsu_threshold, likely_threshold])
@pytest.mark.parametrize("scores", [[], [0.1, float("nan")], [0.1, float("inf")]])
def test_no_threshold_comes_from_scores_that_say_nothing(scores, choose):
    with pytest.raises(ValueError, match="no threshold can be chosen"):
        choose(torch.tensor(scores))


def test_a_contiguous_event_has_no_gaps():
    torch.manual_seed(0)
    fused, visual, audio = (3 * torch.randn(20, 8, BACKGROUND + 1) for _ in range(3))
    logits = torch.zeros(20, BACKGROUND + 1)
    logits[:, 1] = 1
    output = WeakOutput(torch.ones(20, 8), logits, logits.softmax(-1))
    explanation = Explanation(None, {}, {"fused": fused, "visual": visual, "audio": audio})
    events = localized("contiguous", 0.3)(output, explanation).segments == 1
    for clip in range(20):
        margins = [activation[clip, :, 1] - activation[clip, :, BACKGROUND] for activation in (fused, visual, audio)]
        odds = sum((margin - margin.max()).exp() for margin in margins) / 3
        above = (odds > 0.3).nonzero().flatten().tolist()
        wanted = list(range(above[0], above[-1] + 1)) if above else []
        assert events[clip].nonzero().flatten().tolist() == wanted


@pytest.mark.parametrize(
    ("settings", "localize", "missing"),
    [
        ({"name": "weak_main_model", "time_level": False}, "gate", "reads gate, and this network has no gate"),
        ({"name": "weak_main_model", "event_level": False}, "combined", "no visual and no audio; its activations are"),
        ({"name": "supv_main_model"}, "activation", "no fused; its activations are visual, audio"),
    ],
)
def test_a_rule_says_what_the_network_lacks(settings, localize, missing):
    network = build_model({**settings, **TINY_MODEL}).eval()
    output, explanation = network.explain(torch.rand(2, 5, 2, 2, 16), torch.rand(2, 5, 8))
    localization = Localization(network, localize, -0.5 if localize == "combined" else 0.5)
    for ask in (localization.check, lambda explanation: localization(output, explanation)):
        with pytest.raises(ValueError, match=missing):
            ask(explanation)


def test_the_gate_localizes_whatever_network_has_one():
    network = build_model({"name": "supv_main_model", **TINY_MODEL}).eval()
    output, explanation = network.explain(torch.rand(2, 5, 2, 2, 16), torch.rand(2, 5, 8))
    threshold = explanation.scores["gate"].median().item()
    prediction = Localization(network, "gate", threshold)(output, explanation)
    assert torch.equal(prediction.segments != 3, explanation.scores["gate"] > threshold)
    assert torch.equal(prediction.event_probability, explanation.scores["gate"])


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"localize": "authors"},
        {"localize": "gate", "threshold": -0.6, "chosen_by": "chosen"},  # below all gates, where they are all equal
        {"localize": "background"},
        {"localize": "combined", "threshold": -1.5, "chosen_by": "chosen"},
    ],
)
def test_what_a_checkpoint_remembers(state):
    localization = Localization.of_state(WeaklySupervisedCMBS, state)
    assert not localization.chooses
    assert {**localization.state(), **state} == localization.state()
    assert isinstance(localization.description, str)


@pytest.mark.parametrize(
    "state",
    [
        {"localize": "gates", "threshold": 0.1},
        {"localize": "gate"},
        {"localize": ["gate"]},
        {"localize": "relative", "threshold": "1"},
        {"localize": "gate", "threshold": float("nan")},
    ],
)
def test_what_no_checkpoint_can_remember(state):
    with pytest.raises(ValueError, match="holds no localization"):
        Localization.of_state(WeaklySupervisedCMBS, state)


@pytest.mark.parametrize(
    ("localize", "threshold", "message"),
    [("gates", None, "no localization rule"), ("authors", 0.5, "has no threshold"), ("gate", 2.0, "between 0 and 1")],
)
def test_a_rule_or_threshold_that_cannot_be(localize, threshold, message):
    with pytest.raises(ValueError, match=message):
        localized(localize, threshold)


def test_the_threshold_comes_from_the_labelled_category_of_event_clips():
    network = build_model({"name": "weak_main_model", **TINY_MODEL}).eval()
    labels = torch.eye(4)[[2, 0, 3, 1]]  # the third clip is background-only
    with torch.no_grad():
        _, explanation = network.explain(torch.rand(4, 5, 2, 2, 16), torch.rand(4, 5, 8))
    localization = Localization(network, "activation")
    scores = localization.scores(explanation, labels)
    fused = explanation.activations["fused"]
    wanted = torch.stack([fused[clip, :, category] for clip, category in ((0, 2), (1, 0), (3, 1))])
    assert torch.equal(scores, wanted)
    localization.choose(scores)
    assert localization.threshold == otsu_threshold(wanted)
    assert "3 training clips" in localization.description


def test_choosing_needs_no_segment_label(tiny_data, tmp_path):
    """With the segment labels and the annotations gone, the threshold is chosen all the same."""
    thresholds = []
    for root in (tiny_data, shutil.copytree(tiny_data, tmp_path / "without")):
        if root != tiny_data:
            (root / LABELS).unlink()
            (root / ANNOTATIONS).unlink()
        torch.manual_seed(0)
        network = build_model({"name": "weak_main_model", **TINY_MODEL})
        dataset = WeakAVEDataset(root, "train")
        batches = make_batches({"train": dataset}, "host", {"train": 8}, torch.device("cpu"), seed=1)
        localization = Localization(network, "relative")
        choose_threshold(network, batches["train"], localization, "float32")
        thresholds.append(localization.threshold)
    assert thresholds[0] == thresholds[1] < 0


def test_a_checkpoint_remembers_its_threshold(tiny_config, tmp_path, capsys):
    config = tiny_config("weak_main_model", eval={"localize": "relative"})
    assert weak_main.main(["--config", str(config), "--gpu", "cpu"]) == EXIT_DONE
    run = tmp_path / "run"
    best = Checkpoint.load(run / BEST)
    assert best.localization["localize"] == "relative"
    trained = json.loads((run / "eval-test" / "metrics.json").read_text())
    assert trained["accuracy"] == pytest.approx(best.metrics["test_accuracy"])
    assert (trained["localize"], trained["threshold"]) == ("relative", best.localization["threshold"])
    assert "clip labels only" in trained["reading"]

    # Another rule for the same weights: no threshold is stored for it, so one is chosen.
    arguments = ["--config", str(config), "--gpu", "cpu", "--evaluate", "--output", str(tmp_path / "other")]
    assert weak_main.main([*arguments, "--localize", "activation"]) == EXIT_DONE
    assert "choosing one on the training split" in capsys.readouterr().out
    other = json.loads((tmp_path / "other" / "metrics.json").read_text())
    assert other["localize"] == "activation"
    assert other["threshold"] != trained["threshold"]


@pytest.mark.parametrize(
    ("main", "name", "sections", "message"),
    [
        (supv_main, "supv_main_model", {"eval": {"localize": "gate"}}, "weak network"),
        (weak_main, "weak_main_model", {"eval": {"localize": "relative", "gate_threshold": 0.5}}, "remove one"),
        (weak_main, "weak_main_model", {"eval": {"localize": "gate"}, "model": {"time_level": False}}, "no gate"),
        (weak_main, "weak_main_model", {"eval": {"gate_threshold": 0.5}, "model": {"time_level": False}}, "no gate"),
        (
            weak_main,
            "weak_main_model",
            {"eval": {"localize": "combined"}, "model": {"event_level": False}},
            "no visual",
        ),
        (weak_main, "weak_main_model", {"eval": {"localize": "relativ"}}, "eval.localize"),
        (weak_main, "weak_main_model", {"train": {"gate_loss": 0.0}}, "has no term 'gate'"),
    ],
)
def test_localizations_that_make_no_sense(main, name, sections, message, tiny_config, capsys):
    assert main.main(["--config", str(tiny_config(name, **sections)), "--gpu", "cpu"]) == EXIT_USER_ERROR
    assert message in capsys.readouterr().err


def test_a_run_that_goes_on_keeps_its_threshold(tiny_config, tmp_path):
    """Best weights that a kill left unwritten are made up for with the threshold of their epoch."""
    config = tiny_config("weak_main_model", eval={"localize": "relative"}, train={"n_epoch": 1})
    arguments = ["--config", str(config), "--gpu", "cpu"]
    assert weak_main.main(arguments) == EXIT_DONE
    best = tmp_path / "run" / BEST
    localization = Checkpoint.load(best).localization
    best.unlink()
    assert weak_main.main([*arguments, "--resume", "last"]) == EXIT_DONE
    assert Checkpoint.load(best).localization == localization


def test_a_checkpoint_of_an_older_version_keeps_its_threshold(tiny_config, tmp_path):
    """Its config says eval.gate_threshold and knows no quirks; what it remembers stands under another name."""
    config = tiny_config("weak_main_model", eval={"localize": "relative"}, train={"n_epoch": 1})
    arguments = ["--config", str(config), "--gpu", "cpu"]
    assert weak_main.main(arguments) == EXIT_DONE
    best = tmp_path / "run" / BEST
    evaluated = json.loads((tmp_path / "run" / "eval-test" / "metrics.json").read_text())
    content = torch.load(best, weights_only=True)
    del content["config"]["model"]["quirks"]
    content["config"]["eval"]["gate_threshold"] = content["config"]["eval"].pop("threshold")
    content["reading"] = content.pop("localization")
    torch.save(content, best)
    assert weak_main.main([*arguments, "--evaluate", "--output", str(tmp_path / "again")]) == EXIT_DONE
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    for key in ("accuracy", "threshold", "chosen_by"):
        assert again[key] == evaluated[key]

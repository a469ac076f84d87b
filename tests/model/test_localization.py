"""Where the weak network says the event is: each reading, its threshold, and that no segment label chooses it."""

from __future__ import annotations

import json
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
from model.cmbs import Explanation, WeakOutput
from model.prediction import READINGS, WeakReading, otsu_threshold
from utils.base import checkpoint
from utils.base.errors import EXIT_DONE, EXIT_USER_ERROR
from utils.evaluation.evaluate import choose_threshold

BACKGROUND = 2  # of two categories


def made_output(activation: list, gate: list, category: int = 1) -> tuple[WeakOutput, Explanation]:
    """One clip of two categories: activation [T][C+1], gate [T]."""
    activation, gate = torch.tensor([activation]), torch.tensor([gate])
    logits = torch.zeros(1, BACKGROUND + 1)
    logits[0, category] = 1
    output = WeakOutput(gate, logits, logits.softmax(-1))
    seen = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    heard = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 9.0]]])
    return output, Explanation(gate, gate, gate, seen, heard, activation)


# Category 1 is high, then middling, then low; the background column passes it in the last segment only.
CLIP = made_output([[9.0, 8.0, 0.0], [9.0, 5.0, 0.0], [9.0, 4.0, 1.0], [9.0, 1.0, 2.0]], [0.9, 0.2, 0.8, 0.6])


@pytest.mark.parametrize(
    ("localize", "threshold", "events"),
    [
        ("authors", None, [1, 1, 1, 1]),
        ("gate", 0.6, [1, 0, 1, 0]),
        ("activation", 4.0, [1, 1, 0, 0]),
        ("background", None, [1, 1, 1, 0]),
        ("relative", -4.0, [1, 1, 0, 0]),
        ("combined", -2.0, [1, 1, 0, 0]),
        ("combined", -2.1, [1, 1, 1, 0]),
    ],
)
def test_what_a_reading_calls_an_event(localize, threshold, events):
    prediction = WeakReading(localize, threshold)(*CLIP)
    assert prediction.segments.tolist() == [[1 if event else BACKGROUND for event in events]]
    assert prediction.category.tolist() == [1]
    if localize in ("activation", "background", "relative", "combined"):
        assert (prediction.event_probability > 0.5).int().tolist() == [events]
    else:
        assert torch.equal(prediction.event_probability, CLIP[0].gate)


@pytest.mark.parametrize("localize", READINGS)
def test_a_clip_called_background_has_no_event(localize):
    output, explanation = made_output(CLIP[1].activation[0].tolist(), CLIP[0].gate[0].tolist(), category=BACKGROUND)
    prediction = WeakReading(localize, 0.0)(output, explanation)
    assert (prediction.segments == BACKGROUND).all()
    if localize in ("activation", "background", "relative", "combined"):
        assert (prediction.event_probability == 0).all()


def test_relative_takes_out_how_strongly_a_clip_shows_its_event():
    weaker = CLIP[1]._replace(activation=CLIP[1].activation - torch.tensor([0.0, 3.0, 0.0]))
    reading = WeakReading("relative", -4.0)
    assert torch.equal(reading(*CLIP).segments, reading(CLIP[0], weaker).segments)
    assert not torch.equal(
        WeakReading("activation", 4.0)(*CLIP).segments, WeakReading("activation", 4.0)(CLIP[0], weaker).segments
    )


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


def test_the_threshold_comes_from_the_labelled_category_of_event_clips():
    network = build_model({"name": "weak_main_model", **TINY_MODEL}).eval()
    labels = torch.eye(4)[[2, 0, 3, 1]]  # the third clip is background-only
    with torch.no_grad():
        output, explanation = network.explain(torch.rand(4, 5, 2, 2, 16), torch.rand(4, 5, 8))
    reading = WeakReading("activation")
    scores = reading.scores(output, explanation, labels)
    wanted = torch.stack([explanation.activation[clip, :, category] for clip, category in ((0, 2), (1, 0), (3, 1))])
    assert torch.equal(scores, wanted)
    reading.choose(scores)
    assert reading.threshold == otsu_threshold(wanted)
    assert "3 training clips" in reading.description


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
        reading = WeakReading("relative")
        choose_threshold(network, batches["train"], reading, "float32")
        thresholds.append(reading.threshold)
    assert thresholds[0] == thresholds[1] < 0


def test_a_checkpoint_remembers_its_threshold(tiny_config, tmp_path, capsys):
    config = tiny_config("weak_main_model", eval={"localize": "relative"})
    assert weak_main.main(["--config", str(config), "--gpu", "cpu"]) == EXIT_DONE
    run = tmp_path / "run"
    best = checkpoint.load(run / checkpoint.BEST)
    assert best["reading"]["localize"] == "relative"
    trained = json.loads((run / "eval-test" / "metrics.json").read_text())
    assert trained["accuracy"] == pytest.approx(best["metrics"]["test_accuracy"])
    assert (trained["localize"], trained["threshold"]) == ("relative", best["reading"]["threshold"])
    assert "clip labels only" in trained["reading"]

    # Another reading of the same weights: no threshold is stored for it, so one is chosen.
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
        (weak_main, "weak_main_model", {"eval": {"localize": "relativ"}}, "eval.localize"),
        (weak_main, "weak_main_model", {"train": {"gate_loss": 0.0}}, "no such loss"),
    ],
)
def test_readings_that_make_no_sense(main, name, sections, message, tiny_config, capsys):
    assert main.main(["--config", str(tiny_config(name, **sections)), "--gpu", "cpu"]) == EXIT_USER_ERROR
    assert message in capsys.readouterr().err


def test_a_run_that_goes_on_keeps_its_threshold(tiny_config, tmp_path):
    """Best weights that a kill left unwritten are made up for with the threshold of their epoch."""
    config = tiny_config("weak_main_model", eval={"localize": "relative"}, train={"n_epoch": 1})
    arguments = ["--config", str(config), "--gpu", "cpu"]
    assert weak_main.main(arguments) == EXIT_DONE
    best = tmp_path / "run" / checkpoint.BEST
    reading = checkpoint.load(best)["reading"]
    best.unlink()
    assert weak_main.main([*arguments, "--resume", "last"]) == EXIT_DONE
    assert checkpoint.load(best)["reading"] == reading

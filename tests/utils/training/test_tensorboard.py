"""What a run tells TensorBoard, and what its evaluation leaves to look at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

import supv_main
import weak_main
from utils.evaluation import results
from utils.evaluation.stored import read

PROTOCOLS = ("authors_protocol/test_accuracy", "validation_protocol/test_accuracy", "validation_protocol/val_accuracy")


@pytest.fixture(scope="module")
def run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tensorboard")
    config = {
        "model": {
            "name": "supv_main_model",
            "video_inputdim": 16,
            "audio_inputdim": 8,
            "d_model": 16,
            "categories": 3,
        },
        "data": {"root": str(tiny_data)},
        "train": {"n_epoch": 2, "batch_size": 10, "milestones": [1], "print_freq": 1},
    }
    (folder / "config.json").write_text(json.dumps(config))
    flags = ["--config", str(folder / "config.json"), "--gpu", "cpu", "--snapshot_pref", str(folder / "run")]
    assert supv_main.main(flags) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def events(run: Path) -> EventAccumulator:
    return EventAccumulator(str(run), size_guidance={"histograms": 0, "scalars": 0}).Reload()


def test_scalars_a_step_and_an_epoch(run: Path, events: EventAccumulator) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [point.step for point in events.Scalars("step/gradient_norm")] == [1, 2, 3, 4, 5, 6]
    rates = [point.value for point in events.Scalars("step/learning_rate")]
    assert rates == pytest.approx([7e-4] * 3 + [3.5e-4] * 3)
    for key in ("gradient_norm", "learning_rate", "val_accuracy", "test_accuracy"):
        points = {point.step: point.value for point in events.Scalars(f"epoch/{key}")}
        assert points == pytest.approx({3 * line["epoch"]: line[key] for line in lines}), key


def test_gates_are_histograms_of_every_segment(events: EventAccumulator) -> None:
    names = [f"{split}/{gate}" for split in ("val", "test") for gate in ("gate", "audio_gate", "visual_gate")]
    assert sorted(events.Tags()["histograms"]) == sorted(names)
    for name in names:
        found = events.Histograms(name)
        assert [event.step for event in found] == [3, 6]
        assert all(event.histogram_value.num == 80 for event in found)
        assert all(0 < event.histogram_value.min <= event.histogram_value.max < 1 for event in found)


def test_the_auc_of_every_gate_is_that_of_the_evaluation(run: Path) -> None:
    metrics = json.loads((run / "eval-test" / results.METRICS).read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    recorded = lines[metrics["protocols"]["authors"]["epoch"] - 1]["test_auc"]
    separation = {name: values["auc"] for name, values in metrics["separation"].items()}
    assert {"event_probability": separation["event_probability"], **recorded} == pytest.approx(separation)
    assert list(recorded) == ["gate", "audio_gate", "visual_gate"]


def test_the_log_says_which_of_the_two_networks_is_trained(run: Path) -> None:
    assert "training SupervisedCMBS, as its authors' code has it (" in (run / "log.txt").read_text()


def test_settings_and_both_protocols_compare_in_hparams(run: Path, events: EventAccumulator) -> None:
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert settings["train.lr"].number_value == pytest.approx(7e-4)
    assert settings["train.milestones"].string_value == "[1]"
    assert settings["model.name"].string_value == "supv_main_model"
    metrics = json.loads((run / "eval-test" / results.METRICS).read_text())
    authors, validation = metrics["protocols"]["authors"], metrics["protocols"]["validation"]
    expected = (authors["test_accuracy"], validation["test_accuracy"], validation["val_accuracy"])
    for tag, value in zip(PROTOCOLS, expected, strict=True):
        assert [point.value for point in events.Scalars(tag)] == pytest.approx([value])


def test_an_evaluation_leaves_a_page_figures_and_both_protocols(run: Path) -> None:
    folder = run / "eval-test"
    metrics, lines = (
        json.loads((folder / results.METRICS).read_text()),
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()],
    )
    assert metrics["protocols"]["authors"]["test_accuracy"] == max(line["test_accuracy"] for line in lines)
    assert metrics["protocols"]["validation"]["val_accuracy"] == max(line["val_accuracy"] for line in lines)
    assert metrics["accuracy"] == pytest.approx(metrics["protocols"]["authors"]["test_accuracy"])
    assert metrics["accuracy"] + sum(metrics["errors"].values()) == pytest.approx(100)
    assert metrics["generated"] is True
    assert metrics["calibration"].keys() == {"event_probability", "gate", "audio_gate", "visual_gate"}
    stored = read(folder)
    assert stored.attention.shape == (8, 10, 2, 2)
    scores = stored.scores  # the supervised network's gate is the product of the two
    assert scores["gate"] == pytest.approx(scores["audio_gate"] * scores["visual_gate"], abs=2e-6)
    assert len(list((folder / "figures").glob("*.png"))) == 4
    assert json.dumps(metrics["accuracy"]) in (folder / results.REPORT).read_text()


def test_a_weak_evaluation_has_the_gates_mean_as_its_gate(run: Path, tiny_config, tmp_path: Path) -> None:
    config = tiny_config("weak_main_model", train={"n_epoch": 1})
    assert weak_main.main(["--config", str(config), "--gpu", "cpu"]) == 0
    scores = read(tmp_path / "run" / "eval-test").scores
    assert scores["gate"] == pytest.approx((scores["audio_gate"] + scores["visual_gate"]) / 2, abs=2e-6)
    assert (scores["event_probability"] == scores["gate"]).all()

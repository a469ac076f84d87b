"""The figures: there, readable as PNG, in TensorBoard, and showing the numbers of metrics.json."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_evaluation import as_metrics, made_evaluation
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from utils.report import figures

NAMES = ["confusion_matrix", "per_category", "accuracy_by_time", "calibration"]


@pytest.fixture(scope="module")
def metrics() -> dict:
    return as_metrics(made_evaluation(60, 3), ["Bark", "Truck, $5", "Violin"])


def test_figures_are_files_and_in_tensorboard_and_replace_older_ones(metrics: dict, tmp_path: Path) -> None:
    for _ in range(2):
        figures.save(metrics, tmp_path)
    for name in NAMES:
        pixels = np.asarray(Image.open(tmp_path / figures.FIGURES / f"{name}.png"))
        assert min(pixels.shape[:2]) > 200
        assert len(np.unique(pixels)) > 10, f"{name} is blank"
    events = EventAccumulator(str(tmp_path / figures.FIGURES)).Reload()
    assert sorted(events.Tags()["images"]) == sorted(f"test/{name}" for name in NAMES)
    assert [image.step for image in events.Images("test/calibration")] == [7]


def test_the_confusion_matrix_shows_shares_of_its_rows(metrics: dict) -> None:
    matrix = [[3, 1, 0], [0, 0, 0], [0, 0, 5]]
    figure = figures.confusion_matrix(matrix, ["Bark", "Truck"])
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shown, [[75, 25, 0], [0, 0, 0], [0, 0, 100]])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["Bark", "Truck", "background"]


def test_bars_are_as_long_as_the_accuracies(metrics: dict) -> None:
    figure = figures.per_category(metrics["per_category"], metrics["accuracy"])
    lengths = [bar.get_width() for bar in figure.axes[0].patches]
    assert sorted(lengths) == sorted(row["accuracy"] for row in metrics["per_category"] if row["clips"])
    assert lengths == sorted(lengths, reverse=True), "the weakest on top"


def test_many_categories_and_empty_bins_can_be_drawn() -> None:
    result = made_evaluation(40, 141)
    result.scores["gate"].fill_(0.99)  # a saturated gate: nine of ten bins are empty
    names = [name for name, _ in figures.draw(as_metrics(result, [f"category {i}" for i in range(141)]))]
    assert names == NAMES

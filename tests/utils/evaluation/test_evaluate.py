"""Predicting every clip of a split: the scores that a network has, and no number from answers that aren't numbers."""

from __future__ import annotations

import pytest
import torch
from conftest import TINY_MODEL

from dataset.ave import AVEDataset
from dataset.loading import ResidentBatches
from model import build_model
from utils.base.errors import UserError
from utils.evaluation.evaluate import evaluate

CPU = torch.device("cpu")


@pytest.fixture
def batches(tiny_data):
    return ResidentBatches(AVEDataset(tiny_data, "test"), 3, CPU, home=CPU)


@pytest.mark.parametrize(
    ("settings", "scores"),
    [
        ({"name": "supv_main_model", **TINY_MODEL}, {"gate", "audio_gate", "visual_gate"}),
        ({"name": "supv_main_model", **TINY_MODEL, "time_level": False}, set()),
    ],
)
def test_an_evaluation_has_the_scores_that_the_network_has(settings, scores, batches):
    network = build_model(settings)
    result = evaluate(network, batches, network.predict, "float32", attention=True)
    assert set(result.scores) == scores
    assert {values.shape for values in result.scores.values()} <= {result.event_probability.shape}
    assert result.attention.shape == (*result.event_probability.shape, 2, 2)


def test_a_network_whose_answer_is_no_number_has_no_accuracy(batches):
    network = build_model({"name": "supv_main_model", **TINY_MODEL})
    with torch.no_grad():
        network.category_classifier.bias[1] = float("nan")
    rows = ", ".join(map(str, batches.dataset.rows))
    with pytest.raises(UserError, match=rf"in 8 of 8 clips of the test split, rows {rows} of visual_feature.h5"):
        evaluate(network, batches, network.predict, "float32")

"""The networks equal the authors', in float64: outputs, losses and gradients of the golden recipe."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import GOLDEN, golden_random, official_state_dict, without_dropout

from model import build_model
from model.losses import SupervisedLoss, WeakLoss
from model.official import load_official, to_official

CLIPS = 4
TOLERANCE = 1e-9  # relative


@pytest.fixture(scope="module", params=["supv", "weak"])
def setting(request):
    return request.param


@pytest.fixture(scope="module")
def network(setting):
    network = build_model({"name": f"{setting}_main_model"}).double()
    load_official(network, official_state_dict(setting))
    return network


@pytest.fixture(scope="module")
def golden(setting):
    return np.load(GOLDEN / f"{setting}.npz")


def features() -> tuple[torch.Tensor, torch.Tensor]:
    visual = golden_random("visual").standard_normal((CLIPS, 10, 7, 7, 512))
    audio = golden_random("audio").standard_normal((CLIPS, 10, 128))
    return torch.from_numpy(visual).clamp(min=0), torch.from_numpy(audio).clamp(min=0)


def labels(setting: str) -> torch.Tensor:
    random = golden_random("labels")
    category, start, end = random.randint(0, 28, CLIPS), random.randint(0, 5, CLIPS), random.randint(5, 11, CLIPS)
    segments = np.full((CLIPS, 10), 28)
    for clip in range(CLIPS):
        segments[clip, start[clip] : end[clip]] = category[clip]
    category[-1] = 28  # the weak recipe's last clip is background
    return torch.from_numpy(np.eye(29)[segments if setting == "supv" else category])


def deviation(ours: torch.Tensor | float, theirs: np.ndarray) -> float:
    ours = ours.detach().numpy() if isinstance(ours, torch.Tensor) else ours
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def test_outputs(setting, network, golden):
    network.eval()
    for mode in (torch.enable_grad, torch.inference_mode):  # torch's encoder has a fast path of its own without grad
        with mode():
            output = network(*features())
        assert set(output._fields) == {key[5:] for key in golden.files if key.startswith("eval/")}
        for name in output._fields:
            assert deviation(getattr(output, name), golden[f"eval/{name}"]) < TOLERANCE, name


def test_losses_and_gradients(setting, network, golden):
    network = without_dropout(copy.deepcopy(network)).train()
    terms = (SupervisedLoss() if setting == "supv" else WeakLoss())(network(*features()), labels(setting))
    assert set(terms) == {key[5:] for key in golden.files if key.startswith("loss/")}
    for name, value in terms.items():
        assert deviation(value, golden[f"loss/{name}"]) < TOLERANCE, name

    terms["total"].backward()
    with torch.no_grad():  # the exporter names gradients as it names weights
        for parameter in network.parameters():
            parameter.copy_(parameter.grad)
    gradients = to_official(network)
    probed = [key.removeprefix("gradprobe/") for key in golden.files if key.startswith("gradprobe/")]
    for key in probed:
        gradient = gradients[f"module.{key}"].numpy()
        probe = (gradient * golden_random(f"probe:{key}").standard_normal(gradient.shape)).sum()
        wanted_probe, wanted_norm = golden[f"gradprobe/{key}"]
        # A key's bias has no true gradient (softmax doesn't feel it): rounding alone is compared to 1e-12.
        scale = max(wanted_norm, 1e-12 / TOLERANCE)
        assert abs(probe - wanted_probe) < TOLERANCE * scale, key
        assert abs(np.linalg.norm(gradient) - wanted_norm) < TOLERANCE * scale, key
    assert len(probed) > 130

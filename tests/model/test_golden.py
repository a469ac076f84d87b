"""The networks equal the authors', in float64: outputs, losses and gradients of the golden recipe."""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import GOLDEN, golden_random, official_state_dict, without_dropout

from model import NETWORKS, build_loss, build_model
from model.official import load_official, to_official

CLIPS = 4
TOLERANCE = 1e-9  # relative


class Case(NamedTuple):
    """A file of golden numbers: its network's settings, whose checkpoint's keys, and how its draw differs."""

    settings: dict
    keys: str  # for `official_keys`
    salt: int = 4
    last_is_background: bool = True  # also in the labels of segments


WRITTEN = {
    "supv": {"scale_input": False, "gate_as_logit": False},
    "weak": {"scale_input": False, "own_gate": False, "probs_as_logits": False},
}
CASES = {
    "supv": Case({"name": "supv_main_model"}, "supv", salt=0, last_is_background=False),
    "weak": Case({"name": "weak_main_model"}, "weak", salt=0, last_is_background=False),
    "supv_written": Case({"name": "supv_main_model", "quirks": WRITTEN["supv"]}, "supv"),
    "weak_written": Case({"name": "weak_main_model", "quirks": WRITTEN["weak"]}, "weak"),
    **{name: Case({"name": name}, name) for name in ("cmran_supv", "cmran_weak")},
}


@pytest.fixture(scope="module", params=CASES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def case(name):
    return CASES[name]


@pytest.fixture(scope="module")
def network(case):
    network = build_model(case.settings).double()
    load_official(network, official_state_dict(case.keys, case.salt))
    return network


@pytest.fixture(scope="module")
def golden(name):
    return np.load(GOLDEN / f"{name}.npz")


def features(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    visual = golden_random("visual", case.salt).standard_normal((CLIPS, 10, 7, 7, 512))
    audio = golden_random("audio", case.salt).standard_normal((CLIPS, 10, 128))
    return torch.from_numpy(visual).clamp(min=0), torch.from_numpy(audio).clamp(min=0)


def labels(case: Case) -> torch.Tensor:
    random = golden_random("labels", case.salt)
    category, start, end = random.randint(0, 28, CLIPS), random.randint(0, 5, CLIPS), random.randint(5, 11, CLIPS)
    segments = np.full((CLIPS, 10), 28)
    for clip in range(CLIPS - case.last_is_background):
        segments[clip, start[clip] : end[clip]] = category[clip]
    category[-1] = 28  # the weak recipe's last clip is background
    return torch.from_numpy(np.eye(29)[segments if NETWORKS[case.settings["name"]].supervision == "full" else category])


def deviation(ours: torch.Tensor | float, theirs: np.ndarray) -> float:
    ours = ours.detach().numpy() if isinstance(ours, torch.Tensor) else ours
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def test_outputs(case, network, golden):
    network.eval()
    names = [key.removeprefix("eval/") for key in golden.files if key.startswith("eval/")]
    for mode in (torch.enable_grad, torch.inference_mode):  # torch's encoder has a fast path of its own without grad
        with mode():
            output = network(*features(case))
        assert output._fields[: len(names)] == tuple(names)
        for name in names:
            assert deviation(getattr(output, name), golden[f"eval/{name}"]) < TOLERANCE, name
        if "predict" in golden:
            assert np.array_equal(network.predict(output).segments, golden["predict"])


def test_losses_and_gradients(case, network, golden):
    network = without_dropout(copy.deepcopy(network)).train()
    terms = build_loss(case.settings)(network(*features(case)), labels(case))
    names = {key.removeprefix("loss/") for key in golden.files if key.startswith("loss/")}
    assert set(terms) == names | ({"category"} if names == {"total"} else set())  # a single term is the total
    for name in names:
        assert deviation(terms[name], golden[f"loss/{name}"]) < TOLERANCE, name

    terms["total"].backward()
    with torch.no_grad():  # the exporter names gradients as it names weights
        for parameter in network.parameters():
            parameter.copy_(parameter.grad)
    gradients = to_official(network)
    probed = [key.removeprefix("gradprobe/") for key in golden.files if key.startswith("gradprobe/")]
    largest = max(golden[f"gradprobe/{key}"][1] for key in probed)
    for key in probed:
        gradient = gradients[f"module.{key}"].numpy()
        probe = (gradient * golden_random(f"probe:{key}", case.salt).standard_normal(gradient.shape)).sum()
        wanted_probe, wanted_norm = golden[f"gradprobe/{key}"]
        # A key's bias has no true gradient (softmax doesn't feel it): its norm is rounding alone.
        scale = max(wanted_norm, 1e-8 * largest)
        assert abs(probe - wanted_probe) < TOLERANCE * scale, key
        assert abs(np.linalg.norm(gradient) - wanted_norm) < TOLERANCE * scale, key
    assert len(probed) > 100

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

TOLERANCE = 1e-9  # relative


class Case(NamedTuple):
    """A file of golden numbers: its network's settings, whose checkpoint's keys, and how its draw differs."""

    settings: dict
    keys: str  # for `official_keys`
    salt: int = 4
    last_is_background: bool = True  # also in the labels of segments
    clips: int = 4
    in_pairs: bool = False  # of two categories in turn, not of any


WRITTEN = {
    "supv": {"scale_input": False, "gate_as_logit": False},
    "weak": {"scale_input": False, "own_gate": False, "probs_as_logits": False},
}
CASES = {
    "supv": Case({"name": "supv_main_model"}, "supv", salt=0, last_is_background=False),
    "weak": Case({"name": "weak_main_model"}, "weak", salt=0, last_is_background=False),
    "supv_written": Case({"name": "supv_main_model", "quirks": WRITTEN["supv"]}, "supv"),
    "weak_written": Case({"name": "weak_main_model", "quirks": WRITTEN["weak"]}, "weak"),
    **{name: Case({"name": name}, name) for name in ("cmran_supv", "cmran_weak", "cace_supv")},
    **{name: Case({"name": name}, name) for name in ("avel_supv", "avel_dmrn", "avel_weak")},
    **{name: Case({"name": name}, name) for name in ("psp_supv", "psp_weak", "cpsp_supv")},
    "cpsp_supv_pairs": Case({"name": "cpsp_supv"}, "cpsp_supv", clips=8, in_pairs=True),
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
    visual = golden_random("visual", case.salt).standard_normal((case.clips, 10, 7, 7, 512))
    audio = golden_random("audio", case.salt).standard_normal((case.clips, 10, 128))
    return torch.from_numpy(visual).clamp(min=0), torch.from_numpy(audio).clamp(min=0)


def segment_labels(case: Case) -> torch.Tensor:
    random, clips = golden_random("labels", case.salt), case.clips
    category, start, end = random.randint(0, 28, clips), random.randint(0, 5, clips), random.randint(5, 11, clips)
    if case.in_pairs:
        category = np.arange(clips) % 2
    segments = np.full((clips, 10), 28)
    for clip in range(clips - case.last_is_background):
        segments[clip, start[clip] : end[clip]] = category[clip]
    return torch.from_numpy(np.eye(29)[segments])


def labels(case: Case) -> torch.Tensor:
    if NETWORKS[case.settings["name"]].supervision == "full":
        return segment_labels(case)
    category = golden_random("labels", case.salt).randint(0, 28, case.clips)
    category[-1] = 28  # the weak recipe's last clip is background
    return torch.from_numpy(np.eye(29)[category])


def drawn(case: Case) -> dict[str, torch.Tensor]:
    """What a network draws for itself unless it is handed in: CACE-Net's noise."""
    if case.settings["name"] != "cace_supv":
        return {}
    return {"noise": torch.from_numpy(golden_random("noise", case.salt).standard_normal((case.clips, 10, 256)))}


def deviation(ours: torch.Tensor, theirs: np.ndarray) -> float:
    difference = np.abs(ours.detach().numpy() - theirs).max()
    return float(difference / np.abs(theirs).max()) if difference else 0.0


def check_gradients(network: torch.nn.Module, probes: dict[str, np.ndarray], salt: int) -> None:
    """The gradients of a network, by the authors' keys: probe and norm of each."""
    with torch.no_grad():  # the exporter names gradients as it names weights
        for parameter in network.parameters():
            parameter.copy_(parameter.grad)
    gradients = to_official(network)
    largest = max(norm for _, norm in probes.values())
    for key, (wanted_probe, wanted_norm) in probes.items():
        gradient = gradients[f"module.{key}"].numpy()
        probe = (gradient * golden_random(f"probe:{key}", salt).standard_normal(gradient.shape)).sum()
        # A key's bias has no true gradient (softmax doesn't feel it): its norm is rounding alone.
        scale = max(wanted_norm, 1e-8 * largest)
        assert abs(probe - wanted_probe) < TOLERANCE * scale, key
        assert abs(np.linalg.norm(gradient) - wanted_norm) < TOLERANCE * scale, key
    assert len(probes) > 0.9 * len(list(network.parameters()))


def probes_of(golden) -> dict[str, np.ndarray]:
    return {key.removeprefix("gradprobe/"): golden[key] for key in golden.files if key.startswith("gradprobe/")}


def test_outputs(case, network, golden):
    network.eval()
    names = [key.removeprefix("eval/") for key in golden.files if key.startswith("eval/")]
    for mode in (torch.enable_grad, torch.inference_mode):  # torch's encoder has a fast path of its own without grad
        with mode():
            output = network(*features(case))
        for name in names:
            assert deviation(getattr(output, name), golden[f"eval/{name}"]) < TOLERANCE, name
        if "predict" in golden:
            assert np.array_equal(network.predict(output).segments, golden["predict"])


def test_losses_and_gradients(case, network, golden):
    network = without_dropout(copy.deepcopy(network)).train()
    terms = build_loss(case.settings)(network(*features(case), **drawn(case)), labels(case))
    names = {key.removeprefix("loss/") for key in golden.files if key.startswith("loss/")} - {"total_share"}
    assert names <= set(terms)
    assert len(terms) == max(len(names), 2)  # a single term is the total
    for name in names:
        assert deviation(terms[name], golden[f"loss/{name}"]) < TOLERANCE, name
    terms["total"].backward()
    check_gradients(network, probes_of(golden), case.salt)


def test_loss_of_shares_of_segments():
    """PSP's authors train their weak network by how much of a clip is the event, not by the clip's label."""
    case, golden = CASES["psp_weak"], np.load(GOLDEN / "psp_weak.npz")
    network = build_model(case.settings).double()
    load_official(network, official_state_dict("psp_weak", case.salt))
    network = without_dropout(network).train()
    terms = build_loss(case.settings)(network(*features(case)), segment_labels(case).mean(1))
    assert deviation(terms["total"], golden["loss/total_share"]) < TOLERANCE


@pytest.mark.parametrize("name", ["cpsp_supv", "cpsp_supv_pairs"], scope="module")
def test_contrast_over_rows(name, case, network, golden):
    network = without_dropout(copy.deepcopy(network)).train()
    terms = build_loss({**case.settings, "segment_contrast": "rows"})(network(*features(case)), labels(case))
    for term in ("segment_contrast", "total"):
        assert deviation(terms[term], golden[f"rows/{term}"]) < TOLERANCE, term
    terms["total"].backward()
    check_gradients(network, dict(zip(probes_of(golden), golden["rows/gradprobe"], strict=True)), case.salt)

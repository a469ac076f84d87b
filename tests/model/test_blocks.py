"""A batch computed in blocks of clips gives the same numbers as in one piece."""

from __future__ import annotations

import pytest
import torch
from conftest import without_dropout

from model import NETWORKS, blocks, build_loss, build_model


def outcome(name: str, clips: int, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, torch.Tensor], int]:
    """Outputs, loss and gradients with blocks of `clips` clips, and into how many blocks the batch was cut."""
    torch.manual_seed(0)
    settings = {"name": name, "contrast_noise": 0.0} if name == "cace_supv" else {"name": name}
    network, loss = without_dropout(build_model(settings).double()), build_loss(settings)
    visual = torch.rand(5, 10, 7, 7, 512, dtype=torch.float64)
    audio = torch.rand(5, 10, 128, dtype=torch.float64, requires_grad=True)
    shape = (5, 10) if NETWORKS[name].supervision == "full" else (5,)
    labels = torch.nn.functional.one_hot(torch.randint(28, shape), 29).double()
    monkeypatch.setattr(blocks, "BLOCK_VALUES", clips * visual[0].numel())
    of_cells = next(
        module for key, module in network.named_modules()
        if key.endswith("visual_projection") and isinstance(module, torch.nn.Linear)
    )  # fmt: skip
    calls = []
    of_cells.register_forward_hook(lambda *_: calls.append(1))
    output = network(visual, audio)
    total = loss(output, labels)["total"]
    total.backward()
    found = {key: value for key, value in output._asdict().items() if value is not None} | {"total": total}
    found |= {f"gradient of {key}": p.grad for key, p in network.named_parameters()} | {"of audio": audio.grad}
    return found, len(calls)


@pytest.mark.parametrize(
    "name", ["supv_main_model", "weak_main_model", "cace_supv", "cmran_supv", "avel_supv", "psp_supv"]
)
def test_blocks_change_no_number(name, monkeypatch):
    whole, one = outcome(name, 5, monkeypatch)
    parts, several = outcome(name, 2, monkeypatch)
    assert (one, several) == (1, 3)
    assert whole.keys() == parts.keys()
    # Some true gradients are zero, and what is computed of them is round-off of the others.
    largest = max(float(value.detach().abs().max()) for value in whole.values())
    for key, value in whole.items():
        torch.testing.assert_close(
            parts[key], value, rtol=1e-12, atol=1e-14 * largest, msg=lambda text, key=key: f"{key}: {text}"
        )


def test_a_single_clip_is_a_block_whatever_its_size(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_VALUES", 1)
    (doubled,) = blocks.in_blocks(lambda x: (2 * x,), torch.ones(3, 4))
    assert torch.equal(doubled, 2 * torch.ones(3, 4))

"""A batch computed in blocks of clips gives the same numbers as in one piece."""

from __future__ import annotations

import weakref

import pytest
import torch
from conftest import without_dropout

from model import NETWORKS, blocks, build_loss, build_model
from model.attention import AudioGuidedAttention, _CellsTimesVector, _ReLUMean


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


@pytest.mark.parametrize("name", ["cace_supv", "cmran_supv", "avel_supv"])  # CACE-Net's part has all of CMBS's
def test_compiled_blocks_change_no_number(name, monkeypatch):
    compile_, compiled = torch.compile, []

    def counting(compute, dynamic):
        run = compile_(compute, dynamic=dynamic, backend="aot_eager")  # all of torch.compile but the C++ compiler
        return lambda *block: compiled.append(len(block[0])) or run(*block)

    monkeypatch.setattr(torch, "compile", counting)
    torch._dynamo.reset()
    expected, _ = outcome(name, 2, monkeypatch)
    assert compiled == []
    with blocks.compiled_blocks():
        found, _ = outcome(name, 2, monkeypatch)
    torch._dynamo.reset()
    assert compiled == [2, 2]  # the last of the five clips is computed without
    largest = max(float(value.detach().abs().max()) for value in expected.values())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14 * largest)


def test_a_batch_that_is_one_block_is_compiled_too(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda compute, dynamic: lambda x: (compute(x)[0] + 1,))
    with blocks.compiled_blocks():
        (more,) = blocks.in_blocks(lambda x: (2 * x,), torch.ones(3, 4))
    assert torch.equal(more, 3 * torch.ones(3, 4))


def test_a_single_clip_is_a_block_whatever_its_size(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_VALUES", 1)
    (doubled,) = blocks.in_blocks(lambda x: (2 * x,), torch.ones(3, 4))
    assert torch.equal(doubled, 2 * torch.ones(3, 4))


def test_what_is_recomputed_is_made_once_more_in_the_backward_pass_and_not_kept(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_VALUES", 2 * 3)
    weight, x = torch.rand(3, 3, requires_grad=True), torch.rand(4, 3, requires_grad=True)
    made = []

    def double(x: torch.Tensor) -> torch.Tensor:
        y = 2 * x
        made.append(weakref.ref(y))
        return y

    def compute(x: torch.Tensor) -> tuple[torch.Tensor]:
        y = blocks.recomputed(double, x.exp())
        z = blocks.recomputed(torch.mul, y, x)  # of what isn't kept either
        return (y @ weight + y.square() + z @ weight,)

    (result,) = blocks.in_blocks(compute, x)
    assert [y() for y in made] == [None, None]  # a block each
    gradients = torch.autograd.grad(result.sum(), (weight, x))
    assert len(made) == 4
    (whole,) = compute(x)
    assert torch.equal(result, whole)
    for part, of_whole in zip(gradients, torch.autograd.grad(whole.sum(), (weight, x)), strict=True):
        torch.testing.assert_close(part, of_whole)
    assert len(made) == 5


@pytest.mark.parametrize("order", [1, 2])
def test_the_mean_of_a_relu_has_its_derivatives_and_keeps_signs(order):
    x = torch.randn(5, 7, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    results = []
    for mean in (_ReLUMean.apply, lambda x: x.relu().mean(1)):
        result = (mean(x) * weight).square().sum()
        for _ in range(order):
            (result,) = torch.autograd.grad(result.square().sum(), x, create_graph=True)
        results.append(result)
    torch.testing.assert_close(*results, rtol=1e-12, atol=0)
    mean = _ReLUMean.apply(x)
    assert mean.grad_fn.saved_tensors[0].dtype == torch.int8


@pytest.mark.parametrize(("dim", "subscripts"), [(2, "snd,sd->sn"), (1, "snd,sn->sd")])
def test_cells_times_a_vector(dim, subscripts):
    cells, vector = torch.randn(3, 5, 4, dtype=torch.float64), torch.randn(3, (0, 5, 4)[dim], dtype=torch.float64)
    product = _CellsTimesVector.apply(cells, vector, dim)
    torch.testing.assert_close(product, torch.einsum(subscripts, cells, vector), rtol=1e-14, atol=1e-15)
    inputs = cells.requires_grad_(), vector.requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: _CellsTimesVector.apply(*x, dim), inputs)
    assert torch.autograd.gradgradcheck(lambda *x: _CellsTimesVector.apply(*x, dim), inputs)


def test_attention_to_cells_in_float32_under_autocast_has_gradients_near_those_in_float32():
    """Autocast on a GPU leaves LayerNorm in float32; and somebody may take the module alone."""
    torch.manual_seed(0)
    attention = AudioGuidedAttention(16, 8, beta=0.4, dropout=0.0).train()
    audio, gradients = torch.rand(2, 3, 8), []
    cells = torch.rand(2, 3, 5, 16)
    for enabled in (False, True):
        x = cells.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            attended, _ = attention(x, audio)
        (gradient,) = torch.autograd.grad(attended.float().square().sum(), x)
        gradients.append(gradient)
    assert gradients[1].dtype == torch.float32
    assert (gradients[1] - gradients[0]).norm() < 0.05 * gradients[0].norm()


def test_what_a_block_of_cells_keeps_for_the_backward_pass():
    clips, cells, d = 8, 49, 64
    attention = AudioGuidedAttention(d, 32, beta=0.4).train()
    x = torch.rand(clips, 10, cells, d, requires_grad=True)
    with torch.profiler.profile(profile_memory=True) as profile, blocks._KeepingLess():
        results = attention(x, torch.rand(clips, 10, 32))
    kept = sum(event.self_cpu_memory_usage for event in profile.key_averages())
    values = {"query": d / 4, "key": d / 4, "value": d, "cell": d / 2, "spatial": d / 2, "weights": cells}
    signs = {"mask of dropout": d, "of the ReLU before the mean": d}
    of_a_cell = 4 * sum(values.values()) + sum(signs.values())
    assert kept == pytest.approx(clips * 10 * cells * of_a_cell, rel=0.1)
    sum(result.sum() for result in results).backward()
    assert x.grad is not None


def test_a_network_without_lstm_is_compiled_as_one_graph():
    settings = {"name": "weak_main_model", "video_inputdim": 16, "audio_inputdim": 8, "d_model": 16}
    network = build_model(settings).train()
    torch._dynamo.reset()
    explained = torch._dynamo.explain(network)(torch.rand(2, 4, 1, 2, 16), torch.rand(2, 4, 8))
    torch._dynamo.reset()
    assert (explained.graph_count, explained.break_reasons) == (1, [])

"""Dropout whose masks are cheap to draw and to keep on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """nn.Dropout, except that on a CPU the mask is read off 16-bit slices of random 64-bit numbers.

    torch draws a CPU's mask one number at a time, which takes a tenth of a training step; four elements a number
    take a tenth of that. p is rounded to a multiple of 2**-16 and the scale follows it, so the expectation
    stays exact. On any other device, compiled, and in float64 (the authors' arithmetic), it is nn.Dropout itself.
    """

    def forward(self, x: Tensor) -> Tensor:
        return _Masked.apply(x, self._threshold) if self._of_slices(x) else super().forward(x)

    def relu(self, x: Tensor) -> Tensor:
        """relu(dropout(x)), which is dropout(relu(x)); where x needs a gradient, only the result is kept for it."""
        return _MaskedReLU.apply(x, self._threshold) if self._of_slices(x) else super().forward(x).relu()

    @property
    def _threshold(self) -> int:
        return round(self.p * 2**16)

    def _of_slices(self, x: Tensor) -> bool:
        if not self.training or x.device.type != "cpu" or x.dtype == torch.float64 or torch.compiler.is_compiling():
            return False
        return self._threshold not in (0, 2**16)


class _Masked(torch.autograd.Function):
    """The elements that a mask drawn anew keeps, times 1 / (the share that it keeps), and 0 for the others."""

    @staticmethod
    def forward(ctx, x: Tensor, threshold: int) -> Tensor:
        kept, ctx.scale = _draw(x, threshold), _scale(threshold)
        ctx.save_for_backward(kept)
        return _keep(x, kept, ctx.scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return _keep(gradient, kept, ctx.scale), None


class _MaskedReLU(torch.autograd.Function):
    """relu of the same: what it lets through is above 0, so the backward pass needs no mask."""

    @staticmethod
    def forward(ctx, x: Tensor, threshold: int) -> Tensor:
        ctx.scale = _scale(threshold)
        result = _keep(x, _draw(x, threshold), ctx.scale).relu_()
        ctx.save_for_backward(result)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (result,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient, result, 0).mul_(ctx.scale), None


def _draw(x: Tensor, threshold: int) -> Tensor:
    """1 where an element of x is kept, else 0, int8: to turn this into floats is ten times as fast as bools."""
    numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    slices = numbers.view(torch.int16)[: x.numel()].view(x.shape)  # uniform in [-2**15, 2**15)
    return slices.ge_(threshold - 2**15).to(torch.int8)


def _scale(threshold: int) -> float:
    return 2**16 / (2**16 - threshold)


def _keep(x: Tensor, kept: Tensor, scale: float) -> Tensor:
    return kept.to(x.dtype).mul_(x).mul_(scale)

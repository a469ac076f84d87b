"""Dropout whose masks are cheap to draw and to keep on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.blocks import recomputed


class Dropout(nn.Dropout):
    """nn.Dropout, except that on a CPU the mask is read off 16-bit slices of random 64-bit numbers.

    torch draws a CPU's mask one number at a time, which takes a tenth of a training step; four elements a number
    take a tenth of that. p is rounded to a multiple of 2**-16 and the scale follows it, so the expectation
    stays exact. On any other device, and in float64 (the authors' arithmetic), it is nn.Dropout itself.
    """

    def forward(self, x: Tensor) -> Tensor:
        return _Masked.apply(x, *self._draw(x), None) if self._of_slices(x) else super().forward(x)

    def relu(self, x: Tensor) -> Tensor:
        """relu(dropout(x)), which is dropout(relu(x)); where x needs a gradient, only the result is kept for it."""
        return _MaskedReLU.apply(x, *self._draw(x)) if self._of_slices(x) else super().forward(x).relu()

    def add(self, residual: Tensor, x: Tensor) -> Tensor:
        """residual + dropout(x); in a block of clips the backward pass makes the sum again, of what it keeps anyway."""
        if not self._of_slices(x):
            return residual + super().forward(x)
        kept, scale = self._draw(x)
        return recomputed(lambda residual, x, kept: _Masked.apply(x, kept, scale, residual), residual, x, kept)

    @property
    def _threshold(self) -> int:
        return round(self.p * 2**16)

    def _of_slices(self, x: Tensor) -> bool:
        if not self.training or x.device.type != "cpu" or x.dtype == torch.float64:
            return False
        return self._threshold not in (0, 2**16)

    def _draw(self, x: Tensor) -> tuple[Tensor, float]:
        """1 where an element of x is kept, else 0, and the scale of what is kept."""
        draw = _kept_compiled if torch.compiler.is_compiling() else _kept
        return draw(x.detach(), self._threshold), 2**16 / (2**16 - self._threshold)


def _kept(x: Tensor, threshold: int) -> Tensor:
    """1 where an element of x is kept, else 0: as int8, which turns into floats ten times as fast as bools."""
    numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    slices = numbers.view(torch.int16)[: x.numel()].view(x.shape)  # uniform in [-2**15, 2**15)
    return slices.ge_(threshold - 2**15).to(torch.int8)


# torch.compile calls an operator as it is. Code of its own would draw the numbers on a CPU in many times the time.
_kept_compiled = torch.library.custom_op(
    "cmbs::kept", _kept, mutates_args=(), device_types="cpu", tags=[torch.Tag.nondeterministic_seeded]
)


@_kept_compiled.register_fake
def _(x: Tensor, threshold: int) -> Tensor:
    return torch.empty(x.shape, dtype=torch.int8)


class _Masked(torch.autograd.Function):
    """The elements of x that are kept, times the scale, and 0 for the others; added to `residual` if there is one."""

    @staticmethod
    def forward(ctx, x: Tensor, kept: Tensor, scale: float, residual: Tensor | None) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return _scaled(x, kept, scale, residual)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, Tensor | None]:
        (kept,) = ctx.saved_tensors
        return _scaled(gradient, kept, ctx.scale), None, None, gradient if ctx.needs_input_grad[3] else None


class _MaskedReLU(torch.autograd.Function):
    """relu of the same: what it lets through is above 0, so the backward pass needs no mask."""

    @staticmethod
    def forward(ctx, x: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        result = _scaled(x, kept, scale).relu()  # not in place, as in `_scaled`
        ctx.save_for_backward(result)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (result,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient, result, 0).mul_(ctx.scale), None, None


def _scaled(x: Tensor, kept: Tensor, scale: float, residual: Tensor | None = None) -> Tensor:
    # Nothing in place: torch 2.11 compiles a Function whose forward pass does that into one without gradients.
    residual = x.new_zeros(()) if residual is None else residual
    return torch.addcmul(residual, kept.to(x.dtype), x, value=scale)

"""Dropout for the network's largest tensors, with a mask that is cheap to draw on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """nn.Dropout, except that on a CPU the mask is read off 16-bit slices of random 64-bit numbers.

    torch draws a CPU's mask one number at a time, which takes a tenth of a training step; four elements a number
    take a tenth of that. p is rounded to a multiple of 2**-16 and the scale follows it, so the expectation
    stays exact. On any other device, and in float64 (the authors' arithmetic), it is nn.Dropout itself.
    """

    def forward(self, x: Tensor) -> Tensor:
        threshold = round(self.p * 2**16)
        if not self.training or x.device.type != "cpu" or x.dtype == torch.float64 or threshold in (0, 2**16):
            return super().forward(x)
        numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        slices = numbers.view(torch.int16)[: x.numel()].view(x.shape)  # uniform in [-2**15, 2**15)
        kept = (slices >= threshold - 2**15).to(x.dtype)
        return x * kept.mul_(2**16 / (2**16 - threshold))

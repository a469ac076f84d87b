"""A batch a few clips at a time, where a CPU computes it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Values of the first input in a block: eight clips of AVE. Smaller blocks make the matrix products slower.
BLOCK_VALUES = 2**21


def in_blocks(compute: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
    """What `compute(*inputs)` returns, on a CPU computed for one block of clips after another.

    A tensor of all cells of 64 AVE clips has 64 MB in float32, and a training step makes some forty of them. Those of a
    block are a few MB: they wait in the cache for the operation that reads them next, the C library gives their memory
    out again instead of returning it to the kernel, and the backward pass frees a block before it goes to the next.
    The results are the same; only dropout draws its masks block by block.

    Args:
        compute: tensors [b, ...] -> tensors [b, ...], each clip by itself.
        inputs: [B, ...] each; the first is by far the largest.
    """
    first = inputs[0]
    clips = max(1, BLOCK_VALUES // max(1, first[:1].numel()))
    if first.device.type != "cpu" or len(first) <= clips or torch.compiler.is_compiling():
        return compute(*inputs)
    parts = [compute(*block) for block in zip(*(x.split(clips) for x in inputs), strict=True)]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))

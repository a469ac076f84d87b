"""A batch a few clips at a time, where a CPU computes it, and what of it need not be kept for the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

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
    if first.device.type != "cpu" or torch.compiler.is_compiling():
        return compute(*inputs)
    compute_whole, compiled = compute, _compiled.get()
    if compiled is not None:
        compute_whole = torch.compile(compute, dynamic=False)
        compiled.append(compute_whole)
    if len(first) <= clips:
        return compute_whole(*inputs)
    parts = []
    for block in zip(*(x.split(clips) for x in inputs), strict=True):
        compute_block = compute_whole if len(block[0]) == clips else compute
        keeping_less = compute_block is compute and torch.is_grad_enabled()
        with _KeepingLess() if keeping_less else nullcontext():
            parts.append(compute_block(*block))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


@contextmanager
def compiled_blocks() -> Iterator[list[Callable]]:
    """Within it, `in_blocks` computes blocks by code that torch.compile makes; their backward pass may come after it.

    That code goes over a block's cells fewer times, because several operations on a cell are one loop. To make it, in
    the first call, takes seconds and a C++ compiler. The last block of a batch, where it has fewer clips than the
    others, is computed without: it would need code of its own. Yields a list of what was compiled so far.
    """
    token = _compiled.set(compiled := [])
    try:
        yield compiled
    finally:
        _compiled.reset(token)


_compiled: ContextVar[list[Callable] | None] = ContextVar("_compiled", default=None)


def recomputed(make: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """What `make(*inputs)` returns; where it lies in a block of clips, the backward pass makes it again.

    The operations that read it don't keep it then: for something cheap to make from tensors that are kept anyway.
    """
    if torch.compiler.is_compiling():
        return make(*inputs)
    result, keeping_less = make(*inputs), _keeping_less.get()
    if keeping_less is not None and result.is_contiguous():
        recipe = _Recipe(make, [keeping_less.pack(x.detach()) for x in inputs])
        # The result itself is held until the block is done, so that no other tensor has its address.
        keeping_less.made[result.data_ptr()] = result, recipe
    return result


class _Recipe:
    """How to make a tensor again: once for all the operations of a backward pass that ask for it."""

    def __init__(self, make: Callable[..., Tensor], inputs: list[_Kept]) -> None:
        self.make, self.inputs = make, inputs
        self.asking = 0  # operations that haven't asked for it yet
        self.result: Tensor | None = None

    @torch.no_grad()
    def __call__(self, shape: torch.Size) -> Tensor:
        result = self.make(*map(_unpack, self.inputs)) if self.result is None else self.result
        self.asking -= 1
        self.result = result if self.asking > 0 else None
        return result.view(shape)


_Kept = Tensor | tuple[_Recipe, torch.Size]


class _KeepingLess(saved_tensors_hooks):
    """Within it, operations keep for their backward pass the recipe of what is `recomputed` instead of itself."""

    def __init__(self) -> None:
        super().__init__(self.pack, _unpack)
        self.made: dict[int, tuple[Tensor, _Recipe]] = {}

    def __enter__(self) -> None:
        super().__enter__()
        self._token = _keeping_less.set(self)

    def __exit__(self, *error: object) -> None:
        _keeping_less.reset(self._token)
        self.made.clear()
        super().__exit__(*error)

    def pack(self, tensor: Tensor) -> _Kept:
        """What is kept of a tensor."""
        result, recipe = self.made.get(tensor.data_ptr(), (None, None))
        if result is None or tensor.numel() != result.numel() or not tensor.is_contiguous():
            return tensor
        recipe.asking += 1
        return recipe, tensor.shape


def _unpack(kept: _Kept) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    recipe, shape = kept
    return recipe(shape)


_keeping_less: ContextVar[_KeepingLess | None] = ContextVar("_keeping_less", default=None)

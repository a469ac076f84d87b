"""A network through torch.compile, where that works."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import torch
import torch._functorch.config as functorch
from torch import nn

from model.blocks import compiled_blocks

_log = logging.getLogger(__name__)


class Compiled:
    """Calls a network through torch.compile; where that fails, calls it as it is, and says why, once.

    On a GPU the kernels are replayed as CUDA graphs, which takes the launching of each off the host. On a CPU only the
    blocks of clips are compiled, which needs a C++ compiler; the rest of the network is small.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.network = network
        self.failed = False
        on_gpu = device.type == "cuda"
        self._forward = torch.compile(network, mode="reduce-overhead", dynamic=False) if on_gpu else network
        self._blocks = contextlib.nullcontext if on_gpu else compiled_blocks

    def __call__(self, *inputs: Any) -> Any:
        if not self.failed:
            try:
                torch.compiler.cudagraph_mark_step_begin()
                with _compiling_the_backward_too(), self._blocks() as blocks:
                    output = self._forward(*inputs)
            except torch._dynamo.exc.TorchDynamoException as error:
                self._fail(str(getattr(error, "inner_exception", error)).strip().partition("\n")[0])
            else:
                if blocks == []:
                    self._fail(
                        "on a CPU it is for what a network computes by model.blocks.in_blocks, and this has none"
                    )
                return output
        return self.network(*inputs)

    def _fail(self, reason: str) -> None:
        _log.warning(f"train.compile: torch.compile failed, so the network runs uncompiled: {reason}")
        self.failed = True


def _compiling_the_backward_too() -> contextlib.AbstractContextManager:
    """Compile the backward pass with the forward one: later, in `backward()`, nothing could be done about a failure."""
    if not hasattr(functorch, "force_non_lazy_backward_lowering"):
        return contextlib.nullcontext()  # another version of torch's, whose failure is then torch's own message
    return functorch.patch(force_non_lazy_backward_lowering=True)

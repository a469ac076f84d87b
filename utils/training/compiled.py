"""A network through torch.compile, where that works."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import torch
import torch._functorch.config as functorch
from torch import nn

_log = logging.getLogger(__name__)


class Compiled:
    """Calls a network through torch.compile; where that fails, calls it as it is, and says why, once.

    On a GPU the kernels are replayed as CUDA graphs, which takes the launching of each off the host. On a CPU
    compiling needs a C++ compiler.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.network = network
        mode = "reduce-overhead" if device.type == "cuda" else "default"
        self._compiled: Callable | None = torch.compile(network, mode=mode, dynamic=False)

    def __call__(self, *inputs: Any) -> Any:
        if self._compiled is not None:
            try:
                torch.compiler.cudagraph_mark_step_begin()
                with _compiling_the_backward_too():
                    return self._compiled(*inputs)
            except torch._dynamo.exc.TorchDynamoException as error:
                reason = str(getattr(error, "inner_exception", error)).strip().partition("\n")[0]
                _log.warning(f"train.compile: torch.compile failed, so the network runs uncompiled: {reason}")
                self._compiled = None
        return self.network(*inputs)


def _compiling_the_backward_too() -> contextlib.AbstractContextManager:
    """Compile the backward pass with the forward one: later, in `backward()`, nothing could be done about a failure."""
    if not hasattr(functorch, "force_non_lazy_backward_lowering"):
        return contextlib.nullcontext()  # another version of torch's, whose failure is then torch's own message
    return functorch.patch(force_non_lazy_backward_lowering=True)

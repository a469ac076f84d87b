"""What limits a step: its matrix products, counted without computing them and then timed alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")


class Product(NamedTuple):
    """A matrix product: its name in torch, and shape and stride of each operand."""

    name: str
    operands: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]

    @property
    def flops(self) -> int:
        """Floating-point operations, a multiplication and an addition counted as two."""
        left, right = (shape for shape, _ in self.operands[-2:])
        return 2 * torch.Size(left).numel() * right[-1]

    def values(self) -> int:
        """Numbers read and written when each is touched once."""
        left, right = (shape for shape, _ in self.operands[-2:])
        return torch.Size(left).numel() + torch.Size(right).numel() + torch.Size((*left[:-1], right[-1])).numel()


class Work(NamedTuple):
    """The matrix products of a step."""

    products: Counter[Product]
    flops: int


class Bound(NamedTuple):
    """The least time that a step's matrix products take on this machine."""

    seconds: float  # flops / rate; on a GPU, where moving their operands takes longer, that
    rate: float  # flop/s of the step's fastest kind of product
    products_seconds: float  # the step's products one after the other, each kind timed alone
    copy_rate: float | None  # bytes/s read and written by a copy; None on a CPU


def count(step: Callable[[], object]) -> Work:
    """Record the matrix products of a step whose tensors are all on the device "meta": nothing is computed.

    There, fused kernels (LSTM, attention) are taken apart into the products that they are made of.
    """
    recorder, counter = _Recorder(), FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter, recorder:
        step()
    return Work(recorder.products, counter.get_total_flops())


def measure(work: Work, device: torch.device, dtype: torch.dtype, repeats: int = 3) -> Bound:
    """Time the products of `work` alone, each kind `repeats` times (the median counts)."""
    seconds, rate, total_values = 0.0, 0.0, 0
    for product, times in work.products.items():
        alone = _seconds(product, device, dtype, repeats)
        seconds += times * alone
        rate = max(rate, product.flops / alone)
        total_values += times * product.values()
    least, copy_rate = work.flops / rate, None
    if device.type == "cuda":
        copy_rate = _copy_rate(device, repeats)
        least = max(least, total_values * dtype.itemsize / copy_rate)
    return Bound(least, rate, seconds, copy_rate)


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[Product] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in _PRODUCTS:
            operands = tuple((tuple(x.shape), x.stride()) for x in args if isinstance(x, Tensor))
            self.products[Product(name, operands)] += 1
        return func(*args, **(kwargs or {}))


def _seconds(product: Product, device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    operands = []
    for shape, stride in product.operands:
        reach = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        operands.append(torch.rand(reach, dtype=dtype, device=device).as_strided(shape, stride))
    compute = getattr(torch, product.name)
    return time_median(lambda: compute(*operands), device, repeats)


def _copy_rate(device: torch.device, repeats: int) -> float:
    source = torch.empty(2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / time_median(lambda: target.copy_(source), device, repeats)


def time_median(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median seconds of a call, after one that warms up; short calls are repeated to last 2 ms each time."""
    once = min(time_once(call, device), time_once(call, device))
    inner = max(1, int(2e-3 / max(once, 1e-7)))
    return median(_timed(call, device, inner) / inner for _ in range(repeats))


def time_once(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call."""
    return _timed(call, device, 1)


def _timed(call: Callable[[], object], device: torch.device, times: int) -> float:
    synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        call()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

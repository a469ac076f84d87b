"""What limits a step: its matrix products, counted without computing them and then timed alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
_LONG_ENOUGH = 2e-3  # seconds that a product is repeated for


class Product(NamedTuple):
    """A matrix product: its name in torch, and shape and stride of each operand."""

    name: str
    operands: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]

    @property
    def flops(self) -> int:
        """Floating-point operations, a multiplication and an addition counted as two."""
        left, right = (shape for shape, _ in self.operands[-2:])
        return 2 * torch.Size(left).numel() * right[-1]

    @property
    def values(self) -> int:
        """Numbers read and written when each is touched once."""
        left, right = (shape for shape, _ in self.operands[-2:])
        return torch.Size(left).numel() + torch.Size(right).numel() + torch.Size((*left[:-1], right[-1])).numel()


class Work(NamedTuple):
    """The matrix products of a step."""

    products: Counter[Product]
    flops: int


class Roofline(NamedTuple):
    """The least time that a step's matrix products take on this machine."""

    seconds: float  # the products alone; on a GPU, where moving their operands takes longer, that
    rate: float  # flop/s over all products
    fastest_rate: float  # flop/s of the step's fastest kind of product
    copy_rate: float | None  # bytes/s read and written by a copy; None on a CPU


def count(step: Callable[[], object]) -> Work:
    """Record the matrix products of a step whose tensors are all on the device "meta": nothing is computed.

    There, fused kernels (LSTM, attention) are taken apart into the products that they are made of.
    """
    recorder, counter = _Recorder(), FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter, recorder:
        step()
    return Work(recorder.products, counter.get_total_flops())


class ProductTimer:
    """Times the products of a step alone, each kind once a round, and takes the medians.

    Rounds between the step's own repeats see the machine in the same state as those do.
    """

    def __init__(self, work: Work, device: torch.device, dtype: torch.dtype) -> None:
        self.work, self.device, self.dtype = work, device, dtype
        self.seconds: dict[Product, list[float]] = {product: [] for product in work.products}
        self.copies: list[float] = []

    def round(self) -> None:
        """Time each kind of product once."""
        for product, seconds in self.seconds.items():
            operands = [self._operand(shape, stride) for shape, stride in product.operands]
            seconds.append(seconds_of(partial(getattr(torch, product.name), *operands)))
        if self.device.type == "cuda":
            source = torch.empty(2**28, dtype=torch.uint8, device=self.device)
            target = torch.empty_like(source)
            self.copies.append(2 * source.numel() / seconds_of(partial(target.copy_, source)))

    def roofline(self) -> Roofline:
        """What the rounds so far give."""
        alone = {product: median(seconds) for product, seconds in self.seconds.items()}
        total = sum(times * alone[product] for product, times in self.work.products.items())
        fastest = max(product.flops / seconds for product, seconds in alone.items())
        copy_rate = median(self.copies) if self.copies else None
        least = total
        if copy_rate is not None:
            values = sum(times * product.values for product, times in self.work.products.items())
            least = max(total, values * self.dtype.itemsize / copy_rate)
        return Roofline(least, self.work.flops / total, fastest, copy_rate)

    def _operand(self, shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        reach = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        # A tile of random numbers over and over: drawing them all would take longer than the products.
        tile = torch.rand(min(reach, 2**18), device=self.device).to(self.dtype)
        return tile.repeat(-(-reach // len(tile))).as_strided(shape, stride)


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


def seconds_of(call: Callable[[], object]) -> float:
    """Seconds of a call, warmed up, on as many threads as the step has; a short one is repeated."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=_LONG_ENOUGH).median

"""The weights in a file, however it is wrapped and whatever else lies in it; only dense tensors of numbers are taken.

People keep weights as {"state_dict": ...}, {"model": ..., "optimizer": ...}, with the epoch or an accuracy beside them,
and under names that begin with "module." (nn.DataParallel), "_orig_mod." (torch.compile) or "model." (Lightning).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

# Names under which files hold a state_dict.
WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net", "model_state", "weights", "module")
_DEPTH = 3  # wrappers in one another
_PREFIXES = ("module.", "_orig_mod.")
_LIGHTNING = "model."  # its module's other parts (losses, metrics) have other names


def find_weights(content: Mapping[Any, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights in what a file holds, by bare names, and the names of all that was passed over.

    Raises ValueError that says what the file has instead: an unknown wrapper, several state_dicts, odd tensors.
    """
    passed: list[str] = []
    for _ in range(_DEPTH):
        wrappers = [key for key in WRAPPERS if _holds_tensors(content.get(key))]
        if len(wrappers) > 1:
            raise ValueError(f"holds weights under {' and '.join(map(repr, wrappers))}; keep one of them")
        if wrappers:
            passed += [_shown(key) for key in content if key != wrappers[0]]
            content = content[wrappers[0]]
    # A number beside the weights (an epoch, an accuracy) may be a tensor too; no layer's name is without a dot.
    weights = {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor) and (value.dim() or "." in key)
    }
    if not weights:
        keys = [_shown(key) for key in content]
        there = ", ".join(keys[:10]) + (f" and {len(keys) - 10} more" if len(keys) > 10 else "")
        raise ValueError(
            f"holds no weights by themselves, nor under one of the names {', '.join(WRAPPERS)}; its keys are {there}; "
            f"save the state_dict alone"
        )
    passed += [_shown(key) for key in content if key not in weights]
    weights, outside = _without_prefixes(weights)
    require_dense(weights)
    whole = next((name for name, x in weights.items() if x.dim() and not x.is_floating_point()), None)
    if whole is not None:
        raise ValueError(f"holds {_shown(whole)} as {weights[whole].dtype}, and weights are floating point numbers")
    return weights, passed + outside


def _holds_tensors(value: Any, depth: int = _DEPTH) -> bool:
    """Whether a value is a mapping with tensors, or a wrapper around one."""
    if not isinstance(value, Mapping):
        return False
    if any(isinstance(inner, Tensor) for inner in value.values()):
        return True
    return depth > 1 and any(_holds_tensors(value.get(key), depth - 1) for key in WRAPPERS)


def _without_prefixes(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights by their bare names, and the names of those outside a Lightning module's `model`."""
    named = [(_bare(name), tensor) for name, tensor in weights.items()]
    outside: list[str] = []
    while any(name.startswith(_LIGHTNING) for name, _ in named):
        outside += [_shown(name) for name, _ in named if not name.startswith(_LIGHTNING)]
        named = [
            (_bare(name.removeprefix(_LIGHTNING)), tensor) for name, tensor in named if name.startswith(_LIGHTNING)
        ]
    bare = dict(named)
    if len(bare) < len(named):
        names = [name for name, _ in named]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"holds {twice!r} twice, under different prefixes; keep one of them")
    return bare, outside


def _bare(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return name


def require_dense(value: Any) -> None:
    """Raise ValueError that names the first tensor anywhere in `value` which isn't a dense one of real numbers."""
    for name, tensor in _tensors(value):
        kind = _odd_kind(tensor)
        if kind is not None:
            raise ValueError(
                f"holds {_shown(name)}, a {kind} tensor, and only dense ones of real numbers are read; convert it first"
            )


def _odd_kind(tensor: Tensor) -> str | None:
    if tensor.is_nested:
        return "nested"
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_quantized:
        return "quantized"
    if tensor.is_meta:
        return "meta"
    return "complex" if tensor.is_complex() else None


def _tensors(value: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested containers with its name there. Not by recursion: a file may nest, or contain itself."""
    waiting, seen = [("", value)], set()
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            waiting += [(f"{name}.{key}".removeprefix("."), inner) for key, inner in items]


def _shown(key: Any) -> str:
    """A key as a message can show it: whoever wrote the file chose it."""
    text = ascii(key) if isinstance(key, str) else f"{type(key).__name__} {key!a}"
    return text if len(text) <= 40 else text[:37] + "..."

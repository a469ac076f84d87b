"""Dicts within dicts, such as a config or a line of `metrics.jsonl`: made flat, and compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flat(values: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """Every value by its full name: {"train": {"lr": 1}} -> {"train.lr": 1}."""
    named: dict[str, Any] = {}
    for key, value in values.items():
        inner = flat(value, separator) if isinstance(value, Mapping) else None
        named |= {key: value} if inner is None else {f"{key}{separator}{name}": v for name, v in inner.items()}
    return named


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], separator: str = ".") -> list[tuple[str, Any, Any]]:
    """What differs: full name, our value, their value; None where there is none."""
    here, there = flat(ours, separator), flat(theirs, separator)
    return [(name, here.get(name), there.get(name)) for name in {**here, **there} if here.get(name) != there.get(name)]

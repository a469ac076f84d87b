"""Pickles of NumPy arrays, numbers, strings, lists, tuples and dicts, read without running what a file asks for.

A pickle is a program: it names functions and has them called. Here a name is looked up in a short table of functions
that only build arrays, and any other ends the reading. Arrays are put together here, not by NumPy's own `__setstate__`,
so that every size is compared with the bytes that are there before memory is taken.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from typing import Any, ClassVar

import numpy as np

_TYPE = re.compile(r"[<>|=]?(f[248]|[iu][1248]|b1|\?)")


class Refused(ValueError):
    """Content of a file that is not read; the message goes after the file's name."""


class _Type:
    """A number type as a pickle spells it: a code such as "f4", then the order of its bytes."""

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or not _TYPE.fullmatch(code):
            raise Refused(f"holds an array of the type {code!r}, not of numbers; save numbers alone")
        self.dtype = np.dtype(code)

    def build(self, state: tuple) -> None:
        if state[2:5] != (None, None, None):
            raise Refused("holds an array of records, not of numbers; save numbers alone")
        if state[1] in "<>":
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array as a pickle puts it together: made empty, then given its content."""

    values: np.ndarray | None = None

    def build(self, state: tuple) -> None:
        _, shape, kind, by_column, content = state
        self.values = _array(content, kind, shape, "F" if by_column else "C")


def _array(content: Any, kind: _Type, shape: Any, order: str) -> np.ndarray:
    raw = content.encode("latin1") if isinstance(content, str) else content  # a string to Python 2
    if not isinstance(kind, _Type) or not isinstance(raw, bytes | bytearray):
        raise Refused("holds an array of Python objects, not of numbers; save numbers alone")
    sizes = tuple(shape) if isinstance(shape, tuple) else (shape,)
    if any(not isinstance(n, int) or n < 0 for n in sizes) or math.prod(sizes) * kind.dtype.itemsize != len(raw):
        raise Refused("is damaged: an array's size isn't that of its content; make or fetch the file again")
    return np.frombuffer(raw, kind.dtype).reshape(sizes, order=order)


def _empty_array(*_: object) -> _Array:
    return _Array()


def _array_of_bytes(content: object, kind: _Type, shape: object, order: str) -> _Array:
    array = _Array()
    array.values = _array(content, kind, shape, order)
    return array


def _number(kind: _Type, content: object) -> float | int | bool:
    return _array(content, kind, (), "C").item()


def _bytes_of_text(text: str, encoding: str = "latin1") -> bytes:
    """How the oldest protocols spell bytes."""
    if encoding != "latin1":
        raise Refused(f"holds text in {encoding}; save numbers alone")
    return text.encode("latin1")


_KNOWN = {
    ("numpy", "ndarray"): _empty_array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _bytes_of_text,
}
for _core in ("numpy.core", "numpy._core"):  # of NumPy 1 and 2
    _KNOWN[f"{_core}.multiarray", "_reconstruct"] = _empty_array
    _KNOWN[f"{_core}.multiarray", "scalar"] = _number
    _KNOWN[f"{_core}.numeric", "_frombuffer"] = _array_of_bytes


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler, not C's, which takes as much memory as the file claims before it reads that."""

    dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise Refused(f"holds code ({module}.{name}), which is not run; save its arrays as .npy or .npz")
        return _KNOWN[module, name]

    def load_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if not isinstance(made, _Array | _Type):
            raise Refused("holds an object that isn't a number, text, list or array; save its arrays as .npy or .npz")
        made.build(state)

    dispatch[pickle.BUILD[0]] = load_build


def unpickled(content: bytes) -> Any:
    """The content of a pickle of any protocol, Python 2's too: an array, a list, a dict of these, or another value.

    Raises Refused, by name, for anything but NumPy arrays, numbers, strings, lists, tuples and dicts; any exception for
    a damaged one.
    """
    value = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else _plain(value)


def _plain(value: Any) -> Any:
    """An array, or a list whose items may be arrays, as NumPy's. Nothing deeper: a file may nest or repeat for ever."""
    if isinstance(value, _Array):
        return value.values
    if isinstance(value, list | tuple):
        return [item.values if isinstance(item, _Array) else item for item in value]
    return value

"""Dicts within dicts are made flat, and what differs between two of them is named in full."""

from __future__ import annotations

from utils.base.nested import differences, flat


def test_values_get_their_full_names():
    assert flat({"a": 1, "b": {"c": {"d": [2]}, "e": None}}, "/") == {"a": 1, "b/c/d": [2], "b/e": None}


def test_what_differs_or_is_missing_on_a_side():
    ours, theirs = {"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4}, "e": 5}
    assert differences(ours, theirs) == [("b.c", 2, 4), ("b.d", 3, None), ("e", None, 5)]
    assert differences(ours, ours) == []

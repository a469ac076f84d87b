"""JSON configs: read with what they extend, validated, and compared."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from model.validation import first_problem, settings_class, short
from utils.base import text
from utils.base.errors import UserError
from utils.base.nested import differences
from utils.base.paths import ROOT, project_path
from utils.config.keys import MayDiffer
from utils.config.renamed import RENAMED, moved, renamed, without_removed
from utils.config.settings import Config, declaration


def build(values: dict[str, Any], source: str, flags: Mapping[str, str] | None = None) -> Config:
    """Validate the sections of a config.

    Args:
        source: the file that they are from; named in errors.
        flags: keys that the command line gave, and how: {"train.lr": "--lr 5"}; named where one of these is wrong.

    Raises UserError that names the first key with a problem, where it is from, and the nearest valid key.
    """
    return _validated(without_removed(renamed(values, source), source), source, flags or {})


def build_stored(values: dict[str, Any], source: str) -> Config:
    """The same for the config that a run has stored, in its folder or a checkpoint (`source`), maybe long ago."""
    return _validated(without_removed(renamed(values, source), source=None), source, {})


def read_stored(path: Path) -> Config:
    """The config in a file that a run or a study has written."""
    return build_stored(read_json(path), source=str(path))


def _validated(values: dict[str, Any], source: str, flags: Mapping[str, str]) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        # A wrong entry of what a flag gave, or an object that is there only because a flag gave an entry of it.
        given = [flag for name, flag in flags.items() if f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.")]
        if key and given:
            source = given[0]
        elif flags and not key:  # keys that don't fit together
            source = f"{source} with {' '.join(flags.values())}"
        problem = first_problem(error, Config, model=settings_class(values.get("model")))
        old = "".join(f" ({old!r} is its old name)" for old, new in RENAMED.items() if f"'{new}'" in problem)
        raise UserError(f"{source}: {problem}{old}") from error


def read_json(path: str | os.PathLike, _extended_by: tuple[str, ...] = ()) -> dict[str, Any]:
    """Sections of a JSON config, those it extends merged in. Raises UserError for anything but a JSON object."""
    path = moved(Path(path))
    if os.path.realpath(path) in _extended_by:
        raise UserError(f'{path}: extends itself, through {_extended_by[-1]}; remove one "extends"')
    kind = f"config file (extended by {_extended_by[-1]})" if _extended_by else "config file"
    values = text.read_json(path, kind, _similar_file(path), object_pairs_hook=_no_repeats, parse_constant=_no_constant)
    if not isinstance(values, dict):
        raise UserError(f"{path}: a config is a JSON object with the sections model, data, train and eval")
    values = renamed(values, str(path))
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise UserError(f'{path}: "extends" must be the name of a config file, not {parent!r}')
    try:
        base = read_json(path.parent / parent, (*_extended_by, os.path.realpath(path)))
    except ValueError as error:  # a name that no file can have
        raise UserError(f'{path}: "extends" is not a file name: {error}') from error
    return merge(base, values)


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `changes`; sections are merged, anything else is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def difference(ours: Config, theirs: Config, may_differ: Collection[MayDiffer] = get_args(MayDiffer)) -> list[str]:
    """Keys in which two configs differ, as "train.lr (0.0007 here, 0.001 there)".

    Args:
        may_differ: only keys whose declaration says one of these; see `utils.config.keys`.
    """
    differing = differences(ours.model_dump(), theirs.model_dump())
    return [
        f"{key} ({here} here, {there} there)"
        for key, here, there in differing
        if declaration(key).may_differ in may_differ
    ]


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {short(repeated)} stands there twice; remove one")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number that a setting can have")


def _similar_file(path: Path) -> str:
    there = sorted(p.name for p in path.parent.glob("*.json")) if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, there, n=1)
    if close or (ROOT / path).is_file():
        return f"did you mean {path.parent / close[0] if close else project_path(path)}?"
    return f"the configs of this project are in {project_path('configs')}/"

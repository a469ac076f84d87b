"""`configs/README.md`: every key of a config, from its declaration."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from model import NETWORKS
from model.validation import settings_class_in
from utils.config.keys import Declared, declared
from utils.config.renamed import MOVED, REMOVED, RENAMED
from utils.config.settings import Config

_INTRODUCTION = """\
# Every key of a config

This page is made from the declarations in [utils/config/settings.py](../utils/config/settings.py) and
[model/settings.py](../model/settings.py) by `python -m utils.config > configs/README.md`; a test keeps it so.

A config is a JSON object with the sections `model`, `data`, `train` and `eval`. What it doesn't name has the default
that stands here. `"extends": "main.json"`, relative to the file, starts from another config, so that only what differs
is named. A relative path in a config is relative to the project's folder. `main.json` and `weak.json` spell out every
default. Folders hold variants: `ablation/`, `localization/`, `precision/`; `baselines/`, other networks; `features/`,
other features; `written/`, the networks as their paper has them. `studies/`, the files of
[`python -m utils.study`](studies/README.md).

On the command line a flag, or `--set KEY=VALUE` for any key (`--set train.lr_decay=0.3`,
`--set model.quirks.own_gate=false`), overrides the config. A relative path there is relative to where you stand.

*May differ* says what another value of the key means. *no*: it is another run. *going on*: a run may go on with it, and
has other numbers from there on. *always*: the run's numbers stay the same. All keys of `model` are *no*.
"""
_LARGE = 2**31  # a limit from here on only guards against what no number type can hold


def page() -> str:
    """The whole page, as Markdown."""
    parts = [_INTRODUCTION, "## `model`\n\nThe network. A key that a network doesn't have is an error.\n", *_networks()]
    for name in ("data", "train", "eval"):
        section = settings_class_in(Config.model_fields[name].annotation)
        rows = [
            (f"`{key.name}`", _default(key), _values(key.field), _sentence(section, key.name),
             ", ".join(f"`{flag}`" for flag in key.key.flags), key.key.may_differ)
            for key in declared(section)
        ]  # fmt: skip
        header = ("key", "default", "values", "what", "flag", "may differ")
        parts += [f"\n## `{name}`\n\n{section.__doc__}\n", *_table(header, rows)]
    parts.append("\n## Old names\n\nThey go on working, in configs, checkpoints, run folders and studies.\n")
    rows = [(f"`{old}`", f"`{new}`") for old, new in RENAMED.items()]
    rows += [(f"`{old}`", f"gone: {instead}") for old, instead in REMOVED.items()]
    rows += [(f"`{old}`", f"[`{new}`]({new})") for old, new in MOVED.items()]
    return "\n".join([*parts, *_table(("old", "now"), rows)]) + "\n"


def _networks() -> list[str]:
    """One table for all networks, which have most keys in common."""
    having: dict[str, dict[str, Declared]] = {}  # key -> network -> its declaration
    for network, (settings, *_) in NETWORKS.items():
        for key in declared(settings):
            having.setdefault(key.name, {})[network] = key
    rows = []
    for name, keys in having.items():
        default = _by_network({network: _default(key) for network, key in keys.items()})
        values = _by_network({network: _values(key.field) for network, key in keys.items()})
        if name == "name":
            values = ", ".join(_json(network) for network in keys)
        what = next(filter(None, (_sentence(NETWORKS[network].settings, name) for network in keys)))
        rows.append((f"`{name}`", default, values, what, "all" if len(keys) == len(NETWORKS) else _names(keys)))
    return _table(("key", "default", "values", "what", "networks"), rows)


def _by_network(texts: dict[str, str]) -> str:
    """One text where it is that of all networks, else each one with the networks that it is for."""
    different = list(dict.fromkeys(texts.values()))
    if len(different) == 1:
        return different[0]
    return "; ".join(f"{text} ({_names(n for n in texts if texts[n] == text)})" for text in different)


def _names(networks: Iterable[str]) -> str:
    return ", ".join(f"`{network}`" for network in networks)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def _sentence(section: type[BaseModel], name: str) -> str:
    """What a key means; a class that declares it anew, with another default, need not say it again."""
    *path, key = name.split(".")
    for part in path:
        section = settings_class_in(section.model_fields[part].annotation)
    fields = (base.model_fields.get(key) for base in section.__mro__ if issubclass(base, BaseModel))
    return next((" ".join(field.description.split()) for field in fields if field and field.description), "")


def _default(key: Declared) -> str:
    if key.field.is_required():
        return "required"
    if isinstance(key.field.default, BaseModel):
        return ""
    weak = "" if key.key.weak is None else f" (weak: {_json(key.key.weak)})"
    return _json(key.field.default) + weak


def _json(value: Any) -> str:
    return f"`{json.dumps(value)}`"


def _values(field: FieldInfo) -> str:
    return _described(TypeAdapter(Annotated[field.annotation, field]).json_schema())


def _described(schema: dict[str, Any]) -> str:
    """The values that a JSON schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(map(_described, schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        return ", ".join(map(_json, schema.get("enum", [schema.get("const")])))
    if schema.get("type") == "array":
        length = f" {schema['minItems']}" if "minItems" in schema else ""
        return f"list of{length} [{_described(schema['items'])}]"
    if "$ref" in schema or schema["type"] == "object":
        values = schema.get("additionalProperties")  # false in a class of settings
        return f"object of [{_described(values)}]" if values else "object"
    limits = [f"{words} {schema[key]:g}" for key, words in _LIMITS.items() if schema.get(key, _LARGE) < _LARGE]
    return f"{_TYPES[schema['type']]} {', '.join(limits)}".rstrip()


_TYPES = {
    "boolean": "`true`, `false`",
    "string": "text",
    "null": "`null`",
    "integer": "whole number",
    "number": "number",
}
_LIMITS = {
    "exclusiveMinimum": ">",
    "minimum": "≥",
    "exclusiveMaximum": "<",
    "maximum": "≤",
    "multipleOf": "divisible by",
}

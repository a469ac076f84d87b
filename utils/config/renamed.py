"""Old names of config keys, which go on working in every JSON file, checkpoint and study."""

from __future__ import annotations

from typing import Any

from utils.base.errors import UserError

# Old name -> the name now.
RENAMED = {"eval.gate_threshold": "eval.threshold"}


def renamed(values: dict[str, Any], source: str) -> dict[str, Any]:
    """The sections of a config with the keys' names of now.

    `eval.gate_threshold` also chose the localization rule: given alone, that of the gate. Raises UserError, which
    names `source`, where a key stands there under both names, or an old one contradicts what stands beside it.
    """
    for old, new in RENAMED.items():
        section, old_key = old.split(".")
        new_key = new.split(".")[1]
        own = values.get(section)
        if not isinstance(own, dict) or old_key not in own:
            continue
        if new_key in own:
            raise UserError(f"{source}: {old!r} is the old name of {new!r}, and both are there; remove one")
        own = {key: value for key, value in own.items() if key != old_key} | {new_key: own[old_key]}
        if old == "eval.gate_threshold" and own[new_key] is not None:
            if own.get("localize", "authors") not in ("authors", "gate"):
                raise UserError(f"{source}: {old!r} is not for 'eval.localize' {own['localize']!r}; remove one")
            own["localize"] = "gate"
        values = {**values, section: own}
    return values

"""Old names of config keys and files, which go on working in every JSON file, checkpoint and study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from utils.base.errors import UserError

# Old name of a key -> the name now.
RENAMED = {
    "data.features": "data.placement",
    "eval.gate_threshold": "eval.threshold",
    "train.gate_loss": "train.loss_weights.gate",
    "train.av_category_loss": "train.loss_weights.av_category",
    "readings": "localizations",  # of a study
}
# Keys that are gone, and what to do instead where they were true. False, their default, means nothing any more.
REMOVED = {
    "train.skip_nonfinite": "a clip whose loss isn't finite stops the run and is named; mend its features, or leave it "
    "out of the split's order file",
}
# Old file in configs/ -> the file now.
MOVED = {
    "study.json": "studies/main.json",
    "study_generated.json": "studies/generated.json",
    "study_precision_demo.json": "studies/precision_demo.json",
    "study_weak.json": "studies/weak.json",
    "study_weak_generated.json": "studies/weak_generated.json",
    **{
        f"ablation/weak_reading_{rule}.json": f"localization/{rule}.json"
        for rule in ("activation", "background", "combined", "gate", "relative")
    },
}


def renamed(values: dict[str, Any], source: str) -> dict[str, Any]:
    """The sections of a config, or a study, with the keys' present names.

    `eval.gate_threshold` also chose the localization rule: given alone, that of the gate. Raises UserError, which
    names `source`, where a key stands there under both names, or an old one contradicts what stands beside it.
    """
    values = _copied(values)
    if isinstance(values.get("set"), dict):  # a study's changes to its configs
        values["set"] = renamed(values["set"], source)
    for old, new in RENAMED.items():
        owner, key = _owner(values, old)
        if owner is None or key not in owner:
            continue
        value = owner.pop(key)
        *path, new_key = new.split(".")
        new_owner = values
        for part in path:
            new_owner = new_owner.setdefault(part, {})
        if not isinstance(new_owner, dict) or new_key in new_owner:
            raise UserError(f"{source}: {old!r} is the old name of {new!r}, and both are there; remove one")
        new_owner[new_key] = value
        if old == "eval.gate_threshold" and value is not None:
            if new_owner.get("localize", "authors") not in ("authors", "gate"):
                raise UserError(f"{source}: {old!r} is not for 'eval.localize' {new_owner['localize']!r}; remove one")
            new_owner["localize"] = "gate"
    return values


def without_removed(values: dict[str, Any], source: str | None) -> dict[str, Any]:
    """The sections of a config without the keys that are gone.

    Raises UserError, which names `source`, where such a key asks for what isn't there any more; no `source`: the config
    is of a finished run, which did it.
    """
    values = _copied(values)
    for name, instead in REMOVED.items():
        owner, key = _owner(values, name)
        if owner is not None and owner.pop(key, False) is not False and source is not None:
            raise UserError(f"{source}: {name!r} is no more: {instead}; remove the key")
    return values


def moved(path: Path) -> Path:
    """The present path of a config that was moved within `configs`; `path` itself for any other."""
    for old, new in MOVED.items():
        parts = Path(old).parts
        folder = Path(*path.parts[: -len(parts)])
        if path.parts[-len(parts) :] == parts and not path.exists() and (folder / new).exists():
            return folder / new
    return path


def with_old_name(folder: Path) -> Path:
    """The folder of a study's row; where it doesn't exist, the folder of the row's old name if that does."""
    old = folder.with_name(folder.name.replace("localization-", "reading-", 1))
    return old if old.exists() and not folder.exists() else folder


def _copied(values: dict[str, Any], levels: int = 3) -> dict[str, Any]:
    """A copy of nested objects of JSON, as many levels deep as keys are renamed at."""
    return {
        key: _copied(value, levels - 1) if isinstance(value, dict) and levels > 1 else value
        for key, value in values.items()
    }


def _owner(values: dict[str, Any], name: str) -> tuple[dict[str, Any] | None, str]:
    """The object of JSON that would hold the key of a dotted name, None where there is none, and the key."""
    *path, key = name.split(".")
    owner: Any = values
    for part in path:
        owner = owner.get(part) if isinstance(owner, dict) else None
    return (owner if isinstance(owner, dict) else None), key

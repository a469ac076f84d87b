"""The folder of a released network: weights, config and card, and the sums by which a changed byte is found.

| file | what |
| --- | --- |
| `model.safetensors` | the weights, by this project's names |
| `config.json` | every setting of the run that made them |
| `release.json` | what a checkpoint holds besides: epoch, localization, categories, data; and the numbers of the card |
| `README.md` | the card |
| `SHA256SUMS` | of all of these, as `sha256sum -c` reads them |

Other files may lie beside them: a model hub's own, and evaluations.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.base.atomic import new_folder
from utils.base.errors import UserError
from utils.base.text import parse_json, reading, require_file, require_text_file

WEIGHTS, CONFIG, ABOUT, CARD, SUMS = "model.safetensors", "config.json", "release.json", "README.md", "SHA256SUMS"
_SUMMED = (WEIGHTS, CONFIG, ABOUT, CARD)


def is_release(path: str | os.PathLike) -> bool:
    """Whether there is a folder of a released network at `path`, whole or not."""
    return any((Path(path) / name).exists() for name in (WEIGHTS, SUMS))


def write(folder: Path, content: Mapping[str, Any], card: str) -> None:
    """Write a released network into a new folder, whole or not at all.

    Args:
        content: what a checkpoint holds: "network" and "config", and what JSON can hold besides.

    Raises UserError where `folder` holds anything already, or can't be written.
    """
    from safetensors.torch import save

    # A tensor that is a view of another one, or not contiguous, is refused by `save`.
    weights = {name: tensor.detach().clone().contiguous() for name, tensor in content["network"].items()}
    about = {name: value for name, value in content.items() if name not in ("network", "config")}
    files = {
        WEIGHTS: save(weights, {"format": "pt"}),
        CONFIG: _json(content["config"]),
        ABOUT: _json(about),
        CARD: card.encode(errors="backslashreplace"),
    }
    sums = "".join(f"{_sum(files[name])}  {name}\n" for name in _SUMMED)
    new_folder(folder, files | {SUMS: sums.encode()})


def read(folder: Path) -> dict[str, Any]:
    """The content that `write` was given, each byte checked. Raises UserError that names a missing or changed file."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    sums = _sums(folder)
    files = {name: _bytes(folder / name) for name in _SUMMED}
    for name, content in files.items():
        if _sum(content) != sums[name]:
            raise UserError(
                f"{folder / name}: was changed since it was released (its SHA-256 is not the one in {SUMS}); fetch the "
                f"release again or, if the change is yours, put its new sum there"
            )
    config, about = (_object(files[name], folder / name) for name in (CONFIG, ABOUT))
    try:
        weights = dict(sorted(load(files[WEIGHTS]).items()))  # else in another order each time
    except SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS}: is no safetensors file ({error}); fetch the release again") from error
    return {**about, "network": weights, "config": config}


def _sums(folder: Path) -> dict[str, str]:
    lines = _bytes(folder / SUMS).decode("utf-8", errors="replace").splitlines()
    found = [re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in lines]
    sums = {match[2]: match[1] for match in found if match}
    if None in found or set(sums) != set(_SUMMED):
        raise UserError(f"{folder / SUMS}: is damaged: not a SHA-256 each of {', '.join(_SUMMED)}; fetch it again")
    return sums


def _bytes(path: Path) -> bytes:
    require = require_file if path.name == WEIGHTS else require_text_file
    require(path, advice=f"{path.parent} is no whole release; fetch it again")
    with reading(path):
        return path.read_bytes()


def _object(content: bytes, path: Path) -> dict[str, Any]:
    value = parse_json(content.decode("utf-8", errors="replace"), path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no JSON object; fetch the release again")
    return value


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()

"""The weights of the feature networks: published files, fetched once and verified, or random ones for trying."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from utils.base.atomic import atomic_path, make_folder
from utils.base.errors import UserError
from utils.base.text import require_file


class Published(NamedTuple):
    """A file of weights as its authors published it; `digest` is that of its content, by `algorithm`."""

    name: str
    url: str
    algorithm: str
    digest: str


def fetched(file: Published, folder: Path) -> Path:
    """The published file in `folder`, fetched if it isn't there, and verified. Raises UserError."""
    path = folder / file.name
    if not path.exists():
        make_folder(folder)
        with atomic_path(path) as part:
            try:
                torch.hub.download_url_to_file(file.url, str(part))
            except OSError as error:  # no network, no space
                raise UserError(
                    f"the weights {file.name} could not be fetched ({error}); fetch {file.url} on a machine with "
                    f"internet access and put it into {folder}"
                ) from error
            require_published(part, file)
    else:
        require_published(path, file)
    return path


def require_published(path: Path, published: Published) -> None:
    """Raise UserError unless a file is the published one."""
    require_file(path, advice=f"fetch it from {published.url}")
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, published.algorithm).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); fetch it from {published.url}") from error
    if found != published.digest:
        raise UserError(
            f"{path}: isn't the published {published.name} ({published.algorithm} {found[:16]}..., not "
            f"{published.digest[:16]}...); remove it and fetch {published.url}"
        )


def generate(network: nn.Module, seed: int) -> None:
    """Random weights, the same on every machine, that keep the scale of what flows through (He et al., 2015)."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, 0, math.sqrt(2 / layer.weight[0].numel()), generator)
            nn.init.zeros_(layer.bias)


def sha256_of(network: nn.Module) -> str:
    """A hash of a network's weights, whatever file they came from: of each tensor's name and bytes."""
    found = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()

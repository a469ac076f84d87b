"""The authors' checkpoint formats, in and out; a file for each of their code bases.

A released checkpoint is the state_dict of the network inside nn.DataParallel (hence "module."). It also holds tensors
that the network never uses, which are not part of our networks. Loading skips exactly those; exporting writes neutral
values (norm weights 1, all else 0) instead of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from model.official import avel, cace, cmbs, cmran, psp
from model.official.format import PREFIX, Format, misfits

__all__ = ["PREFIX", "load_official", "misfits", "released_files", "to_official"]

FORMATS: dict[type[nn.Module], Format] = {
    **cmbs.FORMATS,
    **cmran.FORMATS,
    **cace.FORMATS,
    **avel.FORMATS,
    **psp.FORMATS,
}


def load_official(network: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load an authors' state_dict into `network`, keeping the network's own precision.

    Args:
        state_dict: the authors' keys, each with or without the prefix "module.", float64 or float32.

    Raises:
        ValueError: names every tensor that is missing, extra (unused ones are expected) or misshapen, or what the
            settings leave out of the authors' network; the network is unchanged then.
    """
    FORMATS[type(network)].load(network, state_dict)


def to_official(network: nn.Module) -> dict[str, Tensor]:
    """The authors' state_dict of `network`, complete: a strict load of theirs inside nn.DataParallel accepts it.

    Keys begin with "module."; tensors are copies on the CPU in the network's precision. Raises ValueError where the
    settings leave a part of the authors' network out.
    """
    return FORMATS[type(network)].export(network)


def released_files(network: nn.Module) -> tuple[str, ...]:
    """Patterns of the names that files with this network's weights by its authors go by."""
    return FORMATS[type(network)].files

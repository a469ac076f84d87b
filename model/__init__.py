"""The networks, their losses, and the authors' checkpoint formats.

    network = build_model({"name": "supv_main_model"})
    output, explanation = network.explain(visual, audio)
    prediction = network.predict(output, explanation)

What every network gives stands in `model.interface`, what its settings may say in `model.settings`. This package knows
torch and pydantic, and nothing else of the project.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from model.settings import NetworkSettings
from model.validation import network_settings

if TYPE_CHECKING:
    from torch import nn

    from model.interface import Network

    NETWORKS: dict[str, Network]  # by the names that a config may say

# The files of networks; each one's own NETWORKS, at its end, names those that it holds.
_FILES = ("cmbs", "cmran", "cace", "avel", "psp", "cpsp")


@functools.cache
def _networks() -> dict[str, Network]:
    return {name: network for file in _FILES for name, network in import_module(f"model.{file}").NETWORKS.items()}


def __getattr__(name: str) -> Any:
    # NETWORKS is made when it is first asked for: importing torch takes seconds, and what reads a config needs none.
    if name == "NETWORKS":
        return _networks()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def build_model(settings: Mapping[str, Any] | NetworkSettings) -> nn.Module:
    """The network that the section `model` of a config describes, freshly initialised.

    Only `name` is required, a name of NETWORKS; the authors' defaults fill the rest. Raises ValueError for an unknown
    key or a bad value.
    """
    settings = network_settings(settings)
    return _networks()[settings.name].network(settings)


def build_loss(settings: Mapping[str, Any] | NetworkSettings, weights: Mapping[str, float] | None = None) -> nn.Module:
    """The loss of the network that the section `model` of a config describes.

    Args:
        weights: of loss terms by name, such as {"gate": 0}; those that it doesn't name have the network's own (see
            `loss_terms` in `model.settings`), mostly 1. A part that the settings leave out has no term, whatever its
            weight.

    Raises ValueError for bad settings, and for a term that the network's loss doesn't have.
    """
    settings = network_settings(settings)
    return _networks()[settings.name].loss(settings, weights or {})

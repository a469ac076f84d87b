"""The networks, their losses, and the authors' checkpoint formats.

    network = build_model({"name": "supv_main_model"})
    output, explanation = network.explain(visual, audio)
    prediction = network.predict(output, explanation)

What every network gives stands in `model.interface`, what its settings may say in `model.settings`. This package knows
torch and pydantic, and nothing else of the project.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError
from torch import nn

from model.interface import Network
from model.settings import NetworkSettings, first_problem

# The files of networks; each one's own NETWORKS, at its end, names those that it holds.
_FILES = ("cmbs", "cmran", "cace", "avel", "psp", "cpsp")

NETWORKS: dict[str, Network] = {
    name: network for file in _FILES for name, network in import_module(f"model.{file}").NETWORKS.items()
}


def build_model(settings: Mapping[str, Any] | NetworkSettings) -> nn.Module:
    """The network that the section `model` of a config describes, freshly initialised.

    Only `name` is required, a name of NETWORKS; the authors' defaults fill the rest. Raises ValueError for an unknown
    key or a bad value.
    """
    settings = network_settings(settings)
    return NETWORKS[settings.name].network(settings)


def build_loss(settings: Mapping[str, Any] | NetworkSettings, weights: Mapping[str, float] | None = None) -> nn.Module:
    """The loss of the network that the section `model` of a config describes.

    Args:
        weights: of loss terms by name, such as {"gate": 0}; those that it doesn't name have the weight 1. A part that
            the settings leave out has no term, whatever its weight.

    Raises ValueError for bad settings, and for a term that the network's loss doesn't have.
    """
    settings = network_settings(settings)
    return NETWORKS[settings.name].loss(settings, weights or {})


def network_settings(values: Mapping[str, Any] | NetworkSettings) -> NetworkSettings:
    """The section `model` of a config, checked and completed. Raises ValueError that names the key in a line."""
    try:
        return validated_settings(values)
    except ValidationError as error:
        raise ValueError(f"model settings: {first_problem(error, settings_class(values))}") from error


def validated_settings(values: Any) -> NetworkSettings:
    """The same for a larger config that the section is a part of: raises pydantic's ValidationError."""
    if isinstance(values, NetworkSettings):
        return values
    kind = settings_class(values)
    name = values.get("name") if kind is NetworkSettings and isinstance(values, Mapping) else None
    if name is not None:
        close = difflib.get_close_matches(name, NETWORKS, n=1) if isinstance(name, str) else []
        hint = f"did you mean {close[0]!r}?" if close else f"the networks are {', '.join(NETWORKS)}"
        problem = PydanticCustomError("no_such_network", f"no such network; {hint}")
        raise ValidationError.from_exception_data("model", [InitErrorDetails(type=problem, loc=("name",), input=name)])
    return kind.model_validate(dict(values) if isinstance(values, Mapping) else values)


def settings_class(values: Any) -> type[NetworkSettings]:
    """The settings class of the network that the section `model` names; the base class where it names none."""
    if isinstance(values, NetworkSettings):
        return type(values)
    name = values.get("name") if isinstance(values, Mapping) else None
    return NETWORKS[name].settings if isinstance(name, str) and name in NETWORKS else NetworkSettings

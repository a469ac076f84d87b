"""The CMBS networks (Xia & Zhao, CVPR 2022), their losses, and the authors' checkpoint format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.cmbs import SupervisedCMBS, WeaklySupervisedCMBS
from utils.config.settings import SUPERVISED, ModelSettings, model_settings


def build_model(settings: Mapping[str, Any] | ModelSettings) -> SupervisedCMBS | WeaklySupervisedCMBS:
    """The network that the `model` section of a config describes, freshly initialised.

    Only `name` ("supv_main_model" or "weak_main_model") is required; the authors' defaults fill the rest.
    Raises UserError for an unknown key or a bad value.
    """
    settings = model_settings(settings)
    return (SupervisedCMBS if settings.name == SUPERVISED else WeaklySupervisedCMBS)(settings)

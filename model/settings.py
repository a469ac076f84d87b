"""What the section `model` of a config may say: a class a network, each key with its default, range and meaning.

Also the base and the number types that all settings of this project are made of. Imports no torch, so that a config is
read, and a wrong one told, at once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

# Bounds far above anything of use: a number that torch or HDF5 can't even take is named here, with its key.
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
Width = Annotated[int, Field(gt=0, le=2**14)]
Strength = Annotated[float, Field(ge=0, le=1e6)]

# The localization rules, and the least and the greatest threshold of each: beyond them one means no more than at them.
# What they compute stands in `model.localization`; "authors", the network's own, has no threshold.
RULE_THRESHOLDS = {
    "authors": None,
    "gate": (0.0, 1.0),
    "activation": (-math.inf, math.inf),
    "background": (-math.inf, math.inf),
    "relative": (-math.inf, 0.0),
    "combined": (-math.inf, 0.0),
    "contiguous": (0.0, 1.0),
    "contiguous_fused": (0.0, 1.0),
}
RuleName = Literal[tuple(RULE_THRESHOLDS)]


class Settings(BaseModel):
    """Base of all settings. The string below a field is its description."""

    # Strict: a quoted number or a true in place of 1 is a mistake to hear about, not to guess at.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class NetworkSettings(Settings):
    """What every network has: its name in `model.NETWORKS`, the sizes of the data, its labels and its loss's terms."""

    supervision: ClassVar[Literal["full", "weak"]]
    """Which labels it learns from: those of segments, or of clips."""
    loss_terms: ClassVar[dict[str, float]]
    """The terms of its loss, and the weight of each in the total where a config names none."""

    name: str
    """Which network: a name of `model.NETWORKS`."""
    video_inputdim: Width = 512
    """Dv: channels of a visual grid cell."""
    audio_inputdim: Width = 128
    """Da: length of a segment's audio feature."""
    categories: Width = 28
    """C: event categories, background not counted."""

    @property
    def variant(self) -> str:
        """Which variant of the network these settings make, in words that follow its name; "" if there is one only."""
        return ""

    @property
    def absent_terms(self) -> Collection[str]:
        """Terms of the loss that belong to parts which these settings leave out: their weight is always 0."""
        return ()

    def loss_weights(self, weights: Mapping[str, float]) -> dict[str, float]:
        """The weight of each term of the loss: as `weights` names it, else the network's own.

        Raises ValueError where `weights` names another term, or leaves nothing to train by.
        """
        unknown = [name for name in weights if name not in self.loss_terms]
        if unknown:
            terms = ", ".join(self.loss_terms)
            raise ValueError(f"the network's loss has no term {unknown[0]!r} to weight; its terms are {terms}")
        complete = {**self.loss_terms, **weights, **dict.fromkeys(self.absent_terms, 0.0)}
        if not any(complete.values()):
            raise ValueError("every term of the network's loss has weight 0, so there is nothing to train by")
        return complete


class Quirks(Settings):
    """Where CMBS's code contradicts its paper: each true as its authors coded it, false as they wrote it."""

    scale_input: bool = True
    """Channel attention scales the attention's input X; false: the self-attention's output Y."""

    def __str__(self) -> str:
        off = [name for name, coded in self if not coded]
        if off and len(off) == len(type(self).model_fields):
            return "as its paper has it (all model.quirks off)"
        return f"as its authors' code has it{' but for ' + ', '.join(off) if off else ''}"


class CMBSSettings(NetworkSettings):
    """What both CMBS networks have. The sizes, `alpha`, `gamma` and `beta` are the keys of the authors' JSON files."""

    video_inputdim: Annotated[Width, Field(multiple_of=4)] = 512
    d_model: Annotated[Width, Field(multiple_of=4)] = 256
    """Width of everything after the attention."""
    self_attention: bool = True
    """Self-attention over the grid's cells; false leaves it and its weights out."""
    time_level: bool = True
    """Time-level suppression; false: no segment gates, nothing is suppressed in time (the gate is 1 everywhere)."""
    event_level: bool = True
    """Event-level suppression; false: no class activation sequence of a single modality, nor what depends on it."""
    modalities: Literal["both", "audio", "visual"] = "both"
    """Which modalities the network is given; of one only: the other's features are zero."""
    alpha: Fraction
    """Strength of time-level suppression."""
    gamma: Strength
    """Strength of event-level suppression."""
    beta: Strength
    """Strength of the global visual gate in the attention; 0 leaves the global vector and its weights out."""
    quirks: Quirks
    """What the authors' code does otherwise than their paper says."""

    @property
    def variant(self) -> str:
        return f", {self.quirks}"


class SupervisedQuirks(Quirks):
    """Those of the supervised network."""

    gate_as_logit: bool = True
    """The loss takes the gate, a probability, for a logit; false: binary cross-entropy on the probability."""


class WeakQuirks(Quirks):
    """Those of the weak network."""

    own_gate: bool = True
    """Each modality is gated by its own gate; false: by the other modality's."""
    probs_as_logits: bool = True
    """The loss takes the categories' probabilities for logits; false: it takes the logits behind them."""


class SupervisedCMBSSettings(CMBSSettings):
    """The fully supervised CMBS network."""

    supervision = "full"
    loss_terms = dict.fromkeys(("event", "gate", "category", "av_category"), 1.0)
    name: Literal["supv_main_model"]
    alpha: Fraction = 0.1
    gamma: Strength = 0.3
    beta: Strength = 0.4
    quirks: SupervisedQuirks = SupervisedQuirks()

    @property
    def absent_terms(self) -> list[str]:
        """The gate's belongs to time-level suppression, "av_category" to event-level suppression."""
        parts = {"gate": self.time_level, "av_category": self.event_level}
        return [term for term, is_there in parts.items() if not is_there]


class CACESettings(SupervisedCMBSSettings):
    """CACE-Net, fully supervised: what CMBS has, and its own."""

    loss_terms = {**SupervisedCMBSSettings.loss_terms, "contrast": 1.0}
    name: Literal["cace_supv"]
    self_attention: Literal[True] = True
    """Self-attention over the grid's cells; always there: the audio's guidance has the same LayerNorm."""
    audio_guidance: Strength = 0.3
    """psi: strength of the audio's guidance by the image; 0 leaves it and its weights out."""
    event_encoding: Strength = 0.6
    """lambda: strength of the contrasted encoding of a segment in its event logit."""
    contrast_noise: Strength = 0.1
    """Standard deviation of the noise by which a segment's second encoding differs; 0: it is the first one."""


class WeakCMBSSettings(CMBSSettings):
    """The weakly supervised CMBS network."""

    supervision = "weak"
    loss_terms = {"category": 1.0}
    name: Literal["weak_main_model"]
    alpha: Fraction = 0.2
    gamma: Strength = 0.5
    beta: Strength = 0.5
    quirks: WeakQuirks = WeakQuirks()


class CMRANSettings(NetworkSettings):
    """The supervised CMRAN network."""

    supervision = "full"
    loss_terms = {"event": 1.0, "category": 1.0}
    name: Literal["cmran_supv"]
    video_inputdim: Annotated[Width, Field(multiple_of=2)] = 512
    d_model: Annotated[Width, Field(multiple_of=4)] = 256
    """Width of everything after the attention."""


class WeakCMRANSettings(CMRANSettings):
    """The weakly supervised CMRAN network."""

    supervision = "weak"
    loss_terms = {"category": 1.0}
    name: Literal["cmran_weak"]


class OneSizeSettings(NetworkSettings):
    """What the AVEL and PSP networks have, which are made for one size of clips."""

    d_model: Annotated[Width, Field(multiple_of=4)] = 256
    """Width of everything after the attention."""
    grid: list[PositiveInt] = Field([7, 7], min_length=2, max_length=2)
    """H and W: cells of the visual features' grid; the attention has weights for each cell."""
    segments: PositiveInt = 10
    """T: segments of a clip."""


class AVELSettings(OneSizeSettings):
    """The supervised AVEL networks."""

    supervision = "full"
    loss_terms = {"segment": 1.0}
    name: Literal["avel_supv", "avel_dmrn"]


class WeakAVELSettings(OneSizeSettings):
    """The weakly supervised AVEL network."""

    supervision = "weak"
    loss_terms = {"category": 1.0}
    name: Literal["avel_weak"]


class PSPSettings(OneSizeSettings):
    """The supervised PSP network."""

    supervision = "full"
    loss_terms = {"segment": 1.0, "similarity": 100.0}
    name: Literal["psp_supv"]


class WeakPSPSettings(OneSizeSettings):
    """The weakly supervised PSP network."""

    supervision = "weak"
    loss_terms = {"category": 1.0}
    name: Literal["psp_weak"]


class CPSPSettings(OneSizeSettings):
    """The supervised CPSP network."""

    supervision = "full"
    loss_terms = {"event": 1.0, "category": 1.0, "similarity": 100.0, "segment_contrast": 0.01, "video_contrast": 1.0}
    name: Literal["cpsp_supv"]
    segment_contrast: Literal["as_coded", "rows"] = "as_coded"
    """The contrast of a clip's segments: as the authors' code sums it, a constant without gradient, or over rows."""


def settings_classes(base: type[NetworkSettings] = NetworkSettings) -> dict[str, type[NetworkSettings]]:
    """The settings classes by the names of their networks."""
    found = dict.fromkeys(get_args(base.model_fields["name"].annotation), base)
    for kind in base.__subclasses__():
        found |= settings_classes(kind)
    return found


def check_rule(localize: str, threshold: float | None) -> None:
    """Raise ValueError for an unknown localization rule, and for a threshold that the rule can't have."""
    if localize not in RULE_THRESHOLDS:
        raise ValueError(f"{localize!r} is no localization rule; the rules are {', '.join(RULE_THRESHOLDS)}")
    if threshold is None:
        return
    if RULE_THRESHOLDS[localize] is None:
        raise ValueError(f"the localization rule {localize!r} has no threshold ({threshold} is given)")
    low, high = RULE_THRESHOLDS[localize]
    if not low <= threshold <= high:
        raise ValueError(
            f"a threshold of {threshold} means nothing to the localization rule {localize!r}: its scores lie between "
            f"{low:g} and {high:g}"
        )

"""What the section `model` of a config may say: a class a network, each key with its default, range and meaning.

Also the base and the number types that all settings of this project are made of, and the words for what is wrong with
a setting. Imports no torch, so that a wrong config is told at once.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

# Bounds far above anything of use: a number that torch or HDF5 can't even take is named here, with its key.
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
Width = Annotated[int, Field(gt=0, le=2**14)]
Strength = Annotated[float, Field(ge=0, le=1e6)]

# The localization rules; what they compute stands in `model.localization`.
RuleName = Literal[
    "authors", "gate", "activation", "background", "relative", "combined", "contiguous", "contiguous_fused"
]


class Settings(BaseModel):
    """Base of all settings. The string below a field is its description."""

    # Strict: a quoted number or a true in place of 1 is a mistake to hear about, not to guess at.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class NetworkSettings(Settings):
    """What every network has: its name in `model.NETWORKS`, and the sizes of the data."""

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

    name: Literal["supv_main_model"]
    alpha: Fraction = 0.1
    gamma: Strength = 0.3
    beta: Strength = 0.4
    quirks: SupervisedQuirks = SupervisedQuirks()


class CACESettings(SupervisedCMBSSettings):
    """CACE-Net, fully supervised: what CMBS has, and its own."""

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

    name: Literal["weak_main_model"]
    alpha: Fraction = 0.2
    gamma: Strength = 0.5
    beta: Strength = 0.5
    quirks: WeakQuirks = WeakQuirks()


class CMRANSettings(NetworkSettings):
    """The CMRAN networks, of either supervision."""

    name: Literal["cmran_supv", "cmran_weak"]
    video_inputdim: Annotated[Width, Field(multiple_of=2)] = 512
    d_model: Annotated[Width, Field(multiple_of=4)] = 256
    """Width of everything after the attention."""


class OneSizeSettings(NetworkSettings):
    """The AVEL and PSP networks, of either supervision, which are made for one size of clips."""

    name: Literal["avel_supv", "avel_dmrn", "avel_weak", "psp_supv", "psp_weak"]
    d_model: Annotated[Width, Field(multiple_of=4)] = 256
    """Width of everything after the attention."""
    grid: list[PositiveInt] = Field([7, 7], min_length=2, max_length=2)
    """H and W: cells of the visual features' grid; the attention has weights for each cell."""
    segments: PositiveInt = 10
    """T: segments of a clip."""


class CPSPSettings(OneSizeSettings):
    """The supervised CPSP network."""

    name: Literal["cpsp_supv"]
    segment_contrast: Literal["as_coded", "rows"] = "as_coded"
    """The contrast of a clip's segments: as the authors' code sums it, a constant without gradient, or over rows."""


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
        known = _classes()
        close = difflib.get_close_matches(name, known, n=1) if isinstance(name, str) else []
        hint = f"did you mean {close[0]!r}?" if close else f"the networks are {', '.join(known)}"
        problem = PydanticCustomError("no_such_network", f"no such network; {hint}")
        raise ValidationError.from_exception_data("model", [InitErrorDetails(type=problem, loc=("name",), input=name)])
    return kind.model_validate(dict(values) if isinstance(values, Mapping) else values)


def settings_class(values: Any) -> type[NetworkSettings]:
    """The settings class of the network that the section `model` names; the base class where it names none."""
    if isinstance(values, NetworkSettings):
        return type(values)
    name = values.get("name") if isinstance(values, Mapping) else None
    return _classes().get(name, NetworkSettings) if isinstance(name, str) else NetworkSettings


def _classes(base: type[NetworkSettings] = NetworkSettings) -> dict[str, type[NetworkSettings]]:
    """The settings classes by the names of their networks."""
    found = dict.fromkeys(get_args(base.model_fields["name"].annotation), base)
    for kind in base.__subclasses__():
        found |= _classes(kind)
    return found


def first_problem(error: ValidationError, root: type[BaseModel], **narrower: type[BaseModel]) -> str:
    """The first problem that pydantic found, in a line: which key, what is wrong with it, which key was meant.

    Args:
        root: the class that was to be made.
        narrower: for fields of `root` that are declared as a base class, the class that was meant.
    """
    problem = error.errors(include_url=False)[0]
    where = [str(part) for part in problem["loc"]]
    key = ".".join(where)
    if problem["type"] == "value_error" and not where:
        return str(problem["ctx"]["error"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}; {_nearest_key(where, _sections(root, narrower))}"
    if problem["type"] == "missing":
        return f"{key!r} is missing"
    if problem["type"] in ("model_type", "model_attributes_type"):
        return f"{key or 'the config'!r} must be a JSON object, not {short(problem['input'])}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key!r} is {short(problem['input'])}: {message[:1].lower()}{message[1:]}" if where else message


def _nearest_key(where: list[str], sections: dict[str, type[BaseModel]]) -> str:
    """The valid key that an unknown one may stand for, or the section it belongs in, or all keys of its own section."""
    *path, key = where
    known = sections[".".join(path)].model_fields
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.7)
    if close:
        return f"did you mean {'.'.join([*path, close[0]])!r}?"
    for name in sorted(sections, key=lambda name: name.count(".")):
        if name and key in sections[name].model_fields:
            return f"{key!r} belongs in the section {name!r}"
    owner = f"section {'.'.join(path)!r}" if path else "this object"
    for name, section in sections.items():
        if issubclass(section, NetworkSettings) and ".".join(path).startswith(name):
            owner += f" of {' or '.join(get_args(section.model_fields['name'].annotation)) or 'a network'}"
    return f"{owner} has {', '.join(known)}"


def _sections(
    root: type[BaseModel], narrower: dict[str, type[BaseModel]], path: str = ""
) -> dict[str, type[BaseModel]]:
    """A settings class and those within it, by their dotted names: {"": root, "model": ..., "model.quirks": ...}."""
    found = {path: root}
    for name, field in root.model_fields.items():
        section = narrower.get(name) or settings_class_in(field.annotation)
        if section is not None:
            found |= _sections(section, {}, f"{path}.{name}" if path else name)
    return found


def settings_class_in(annotation: Any) -> type[BaseModel] | None:
    """The settings class that a field holds, also where it may be null."""
    options = (annotation, *getattr(annotation, "__args__", ()))
    return next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None)


def short(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."

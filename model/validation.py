"""Values into settings, and the words for what is wrong with them. Imports no torch, as `model.settings`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from model.settings import NetworkSettings, settings_classes


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
        known = settings_classes()
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
    return settings_classes().get(name, NetworkSettings) if isinstance(name, str) else NetworkSettings


def first_problem(error: ValidationError, root: type[BaseModel], **narrower: type[BaseModel]) -> str:
    """The first problem that pydantic found, in a line: which key, what is wrong with it, which key was meant.

    Args:
        root: the class that was to be made.
        narrower: for fields of `root` that are declared as a base class, the class that was meant.
    """
    problem, *others = error.errors(include_url=False)
    if problem["type"] == "missing":  # perhaps it is there, mistyped
        *section, name = problem["loc"]
        unknown = {str(other["loc"][-1]): other for other in others if [*other["loc"][:-1]] == section}
        for close in difflib.get_close_matches(name, unknown, n=1):
            problem = unknown[close]
    where = [str(part) for part in problem["loc"]]
    key = ".".join(where)
    if problem["type"] == "value_error" and not where:
        return str(problem["ctx"]["error"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}; {_nearest_key(where, _sections(root, narrower))}"
    if problem["type"] == "missing":
        return f"{key!r} is missing"
    if problem["type"] in ("model_type", "model_attributes_type"):
        wanted = f"{key!r} must be a JSON object" if where else 'these must be a mapping such as {"name": ...}'
        return f"{wanted}, not {short(problem['input'])}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key!r} is {short(problem['input'])}: {message[:1].lower()}{message[1:]}" if where else message


def _nearest_key(where: list[str], sections: dict[str, type[BaseModel]]) -> str:
    """The valid key that an unknown one may stand for, or the section it belongs in, or all keys of its own section."""
    *path, key = where
    section = ".".join(path)
    known = sections[section if section in sections else ".".join([*path[:-1], "*"])].model_fields
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.7)
    if close:
        return f"did you mean {'.'.join([*path, close[0]])!r}?"
    for name in sorted(sections, key=lambda name: name.count(".")):
        if name and key in sections[name].model_fields:
            return f"{key!r} belongs in the section {name!r}"
    owner = f"section {section!r}" if path else "this object"
    for name, kind in sections.items():
        if issubclass(kind, NetworkSettings) and section.startswith(name):
            owner += f" of {' or '.join(get_args(kind.model_fields['name'].annotation)) or 'a network'}"
    return f"{owner} has {', '.join(known)}"


def _sections(
    root: type[BaseModel], narrower: dict[str, type[BaseModel]], path: str = ""
) -> dict[str, type[BaseModel]]:
    """A settings class and those within it, by their dotted names: {"": root, "model": ..., "model.quirks": ...}.

    The class of a field that holds several by name has "*" in the place of the names.
    """
    found = {path: root}
    for name, field in root.model_fields.items():
        section = narrower.get(name) or settings_class_in(field.annotation)
        if section is not None:
            several = ".*" if get_origin(field.annotation) is dict else ""
            found |= _sections(section, {}, (f"{path}.{name}" if path else name) + several)
    return found


def settings_class_in(annotation: Any) -> type[BaseModel] | None:
    """The settings class that a field holds, also where it may be null, or where there are several by name."""
    options = [getattr(option, "__origin__", option) for option in (annotation, *getattr(annotation, "__args__", ()))]
    return next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None)


def short(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."

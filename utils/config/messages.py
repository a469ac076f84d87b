"""What is wrong with a config, in one line: pydantic's errors in this project's words."""

from __future__ import annotations

import difflib
import json
from typing import Any

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """The first problem that pydantic found, in this project's words."""
    problem = error.errors(include_url=False)[0]
    where = [str(part) for part in problem["loc"]]
    key = ".".join(where) or "the config"
    if problem["type"] == "value_error" and not where:
        return str(problem["ctx"]["error"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}; {_nearest_key(where, root)}"
    if problem["type"] == "missing":
        return f"{key!r} is missing"
    if problem["type"] == "model_type" or problem["type"] == "model_attributes_type":
        return f"{key!r} must be a JSON object, not {short(problem['input'])}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key!r} is {short(problem['input'])}: {_lower_first(message)}" if where else message


def _nearest_key(where: list[str], root: type[BaseModel]) -> str:
    section: Any = root
    for part in where[:-1]:
        section = _field_model(section, part)
    known = list(section.model_fields)
    close = difflib.get_close_matches(where[-1], known, n=1)
    if close:
        return f"did you mean {'.'.join([*where[:-1], close[0]])!r}?"
    for name in root.model_fields:
        section_class = _field_model(root, name)
        if section_class is not None and where[-1] in section_class.model_fields:
            return f"{where[-1]!r} belongs in the section {name!r}"
    place = f"section {'.'.join(where[:-1])!r}" if where[:-1] else "this object"
    return f"{place} has {', '.join(known)}"


def _field_model(section: Any, name: str) -> Any:
    """The settings class of a field, also where the field may be null; None where it holds no section."""
    annotation = section.model_fields[name].annotation
    options = getattr(annotation, "__args__", (annotation,))
    return next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None)


def short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]

"""What is wrong with a config, in one line."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from model.settings import first_problem, settings_class
from utils.config.renamed import RENAMED
from utils.config.settings import Config


def explain(error: ValidationError, values: dict[str, Any]) -> str:
    """The first problem that pydantic found in the sections of a config, with the old name of its key."""
    problem = first_problem(error, Config, model=settings_class(values.get("model")))
    old = [f"({old!r} is its old name)" for old, new in RENAMED.items() if f"'{new}'" in problem]
    return " ".join([problem, *old])

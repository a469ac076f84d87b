"""Declarations of config keys: their options besides type, range, default and description, and how to find them.

A key is declared once, as a field of a section's class in `utils.config.settings` or `model.settings`. Its flag, the
lists of keys that may differ between runs, and `configs/README.md` come from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from model.validation import settings_class_in

# Whether two runs may differ in a key:
# - "no": another value makes another run.
# - "going on": a run that goes on may have another value, but its numbers are not those of a run that always had it.
# - "always": it doesn't change a run's numbers.
MayDiffer = Literal["no", "going on", "always"]


@dataclass(frozen=True)
class Key:
    """Options of a config key, in its field's `Annotated`; a key without one has that of the key that holds it."""

    flags: tuple[str, ...] = ()  # of the two mains; the last is its name in messages
    may_differ: MayDiffer = "no"
    weak: Any = None  # the default under weak supervision, where it is another one
    training_only: bool = False  # an evaluation has no use for it


class Declared(NamedTuple):
    """A key, its field, and the `Key` of its declaration."""

    name: str  # "train.lr"
    field: FieldInfo
    key: Key


def declared(section: type[BaseModel], prefix: str = "", owner: Key = Key()) -> Iterator[Declared]:
    """The keys of a settings class; those of a nested class come after the key that holds it, their `owner`."""
    for name, field in section.model_fields.items():
        key = next((item for item in field.metadata if isinstance(item, Key)), replace(owner, flags=(), weak=None))
        yield Declared(prefix + name, field, key)
        nested = settings_class_in(field.annotation)
        if nested is not None:
            yield from declared(nested, f"{prefix}{name}.", key)

"""The flags of the two mains: the authors' names, and some more. A flag overrides the JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from utils.base.errors import UserError
from utils.base.flags import Parser
from utils.base.nested import flat
from utils.base.paths import config_path, project_path
from utils.config import files as config_files
from utils.config.renamed import renamed, without_removed
from utils.config.settings import KEYS, MAINS, PATHS, Config, declaration, file_name


class Options(NamedTuple):
    """The part of a command line that isn't settings."""

    gpu: str | None  # "cpu", a GPU's number, several with commas; None: the first GPU if there is one
    resume: str | None  # a checkpoint, or "last"
    evaluate: bool
    output: str | None  # where an evaluation writes
    named: frozenset[str]  # the keys that flags gave, as "train.lr"
    command: list[str]  # the command line itself


class _Once(argparse.Action):
    """Store a value; the same flag again, with another value, is an error."""

    given: str | None = None

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, value: Any, flag: str | None = None) -> None:
        if self.given not in (None, value):
            raise argparse.ArgumentError(self, f"stands there twice, with {self.given} and {value}; leave one out")
        self.given = value
        setattr(namespace, self.dest, value)


def parse(
    argv: Sequence[str] | None, description: str, config: str, supervision: Literal["full", "weak"]
) -> tuple[Config, Options]:
    """Read the command line and the JSON that it names.

    Args:
        config: the JSON to read without --config, relative to the project's folder.
        supervision: of the networks that this main trains.

    Raises UserError for unknown or contradictory flags and whatever `utils.config` finds.
    """
    parser = _parser(description, config)
    values = vars(parser.parse_args(argv))
    for flag in ("config", "resume", "output"):
        try:
            if values[flag] is not None:
                file_name(values[flag])
        except ValueError as error:
            raise UserError(f"--{flag} {values[flag]!r} {error}") from error

    source = values["config"] or str(project_path(config))
    sections = config_files.read_json(source)
    changes = _changes(values)
    if "eval.localize" in changes and "eval.threshold" not in changes:
        sections = _without_other_rules_threshold(sections, changes["eval.localize"].value)
    for key, change in changes.items():
        sections = config_files.merge(sections, _nested(key, change.value))
    settings = config_files.build(sections, source, {key: change.flag for key, change in changes.items()})
    if settings.supervision != supervision:
        raise UserError(
            f"{source}: describes {settings.model.name}, which {MAINS[settings.supervision]} trains; this is "
            f"{MAINS[supervision]}"
        )
    return settings, Options(
        **{name: values[name] for name in ("gpu", "resume", "evaluate", "output")},
        named=frozenset(changes),
        command=["python", parser.prog, *(sys.argv[1:] if argv is None else argv)],
    )


def _parser(description: str, config: str) -> Parser:
    parser = Parser(description=description, epilog="A key that no flag gives has the value of the JSON.")
    parser.register("action", None, _Once)
    parser.add_argument("--config", metavar="JSON", help=f"settings (default: {config})")
    parser.add_argument("--gpu", help="GPU number, several with commas, or cpu (default: the first GPU, if any)")
    parser.add_argument(
        "--checkpoint", "--resume", dest="resume", metavar="FILE",
        help='checkpoint to start from or evaluate, the folder of a release, or "last": go on with the run',
    )  # fmt: skip
    parser.add_argument("--evaluate", action="store_true", help="evaluate a checkpoint instead of training")
    parser.add_argument(
        "--output", metavar="DIR", help="for an evaluation's files (default: eval-SPLIT/ by the checkpoint)"
    )
    for name, field, key in KEYS.values():
        if key.flags:
            what = " ".join(field.description.split()).replace("%", "%%")
            parser.add_argument(*key.flags, dest=name, metavar="VALUE", help=f"{what} ({name})")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="any key of the config (all keys: configs/README.md), such as model.alpha=0.2; may stand there often",
    )  # fmt: skip
    return parser


class _Change(NamedTuple):
    """The value that the command line gives to a key, and the flag that gives it, as it was typed."""

    value: Any
    flag: str


def _changes(values: dict[str, Any]) -> dict[str, _Change]:
    """What the command line changes in the config, by key.

    Raises UserError where two flags contradict each other, and for one that an evaluation has no use for.
    """
    given = {f"{key.key.flags[-1]} {values[name]}": (name, values[name])
             for name, key in KEYS.items() if values.get(name) is not None}  # fmt: skip
    given |= {f"--set {text}": _key_and_value(text) for text in values["set"]}
    changes: dict[str, _Change] = {}
    for flag, (name, text) in given.items():
        for key, value in _keys_and_values(flag, name, text).items():
            if key in changes and changes[key].value != value:
                raise UserError(f"{changes[key].flag} and {flag} contradict each other; leave one out")
            changes[key] = _Change(value, flag)
            if values["evaluate"] and declaration(key).training_only:
                more = " (its batches are --test_batch_size)" if key == "train.batch_size" else ""
                raise UserError(f"--evaluate trains nothing, so {flag} contradicts it{more}; leave one of the two out")
    return changes


def _without_other_rules_threshold(sections: dict[str, Any], rule: Any) -> dict[str, Any]:
    """A config without the threshold of its own localization rule, where the command line chooses another one."""
    own = sections.get("eval")
    if not isinstance(own, dict) or own.get("localize", rule) == rule:
        return sections
    return {**sections, "eval": {key: value for key, value in own.items() if key != "threshold"}}


def _key_and_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set {text}: is not KEY=VALUE, such as --set train.lr=0.001")
    return key, value


def _keys_and_values(flag: str, name: str, text: str) -> dict[str, Any]:
    """The config keys that a flag sets, by their present names, and their values."""
    changes = flat(without_removed(renamed(_nested(name, _value(name, text)), flag), flag))
    return {key: _in_config(value) if key in PATHS else value for key, value in changes.items()}


def _value(name: str, text: str) -> Any:
    """The value that a flag gives to a key: a number or other JSON, else text. A path is always text."""
    if name in PATHS and not text.startswith('"'):
        return text
    for parse in (int, float, json.loads):  # JSON knows neither .5 nor 007
        try:
            return parse(text)
        except (ValueError, RecursionError):
            continue
    return text


def _in_config(path: Any) -> Any:
    """A path that was typed, as a config holds it. What can't be a path stays, to be refused with its key."""
    try:
        return config_path(file_name(path))
    except (ValueError, TypeError):
        return path


def _nested(name: str, value: Any) -> dict[str, Any]:
    """{"train": {"lr": 0.1}} for "train.lr" and 0.1."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return value

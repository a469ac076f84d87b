"""The flags of the two mains: the authors' names, and some more. A flag overrides the JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from model.localization import RULES
from utils.base.errors import UserError
from utils.base.flags import Parser
from utils.config import files as config_files
from utils.config.settings import MAINS, SUPERVISED, WEAK, Config, file_name

# Flag -> (section, key, type, help). Their defaults are the JSON's.
_SETTINGS: dict[str, tuple[str, str, type, str]] = {
    "--n_epoch": ("train", "n_epoch", int, "epochs to train"),
    "--batch_size": ("train", "batch_size", int, "clips per training step"),
    "--test_batch_size": ("eval", "test_batch_size", int, "clips per evaluation step"),
    "--lr": ("train", "lr", float, "learning rate"),
    "--clip_gradient": ("train", "clip_gradient", float, "largest global gradient norm"),
    "--weight_decay": ("train", "weight_decay", float, "Adam's L2 penalty"),
    "--snapshot_pref": ("train", "snapshot_pref", str, "run folder"),
    "--print_freq": (
        "train",
        "print_freq",
        int,
        "steps between TensorBoard points (GPU: and looks at the loss)",
    ),
    "--eval_freq": ("train", "eval_freq", int, "epochs between two evaluations"),
    "--seed": ("train", "seed", int, "seed of every random generator"),
    "--precision": ("train", "precision", str, "float32, float64 (the authors' arithmetic) or bfloat16"),
    "--data_root": ("data", "root", str, "folder of the feature files"),
    "--localize": ("eval", "localize", str, f"weak only: {', '.join(RULES)}"),
    "--split": ("eval", "split", str, "split to evaluate: train, val or test"),
}


# Flags that say how to train, which an evaluation has no use for. (--print_freq stands in the authors' test scripts.)
_TRAINING_ONLY = ("--n_epoch", "--batch_size", "--lr", "--clip_gradient", "--weight_decay", "--eval_freq")


class Options(NamedTuple):
    """What a command line says besides settings."""

    config: str  # the JSON file
    gpu: str | None  # "cpu", a GPU's number, several with commas; None: the first GPU if there is one
    resume: str | None  # a checkpoint, or "last"
    evaluate: bool
    output: str | None  # where an evaluation writes
    named: frozenset[str]  # the settings that flags gave, as "train.lr"
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
        config: the JSON to read without --config.
        supervision: of the networks that this main trains.

    Raises UserError for unknown or contradictory flags and whatever `utils.config` finds.
    """
    parser = Parser(description=description, epilog="A setting that no flag names has the value of the JSON.")
    parser.register("action", None, _Once)
    parser.add_argument("--config", default=config, metavar="JSON", help=f"settings (default: {config})")
    parser.add_argument("--gpu", help="GPU number, several with commas, or cpu (default: the first GPU, if any)")
    parser.add_argument("--resume", metavar="FILE", help='checkpoint to start from, or "last": go on with the run')
    parser.add_argument("--evaluate", action="store_true", help="evaluate a checkpoint instead of training")
    parser.add_argument(
        "--output", metavar="DIR", help="for an evaluation's files (default: eval-SPLIT/ by the checkpoint)"
    )
    for flag, (_, key, kind, text) in _SETTINGS.items():
        names = ("-b", flag) if flag == "--batch_size" else (flag,)
        parser.add_argument(*names, dest=key, type=kind, default=None, metavar=kind.__name__.upper(), help=text)
    values = vars(parser.parse_args(argv))
    for flag in _TRAINING_ONLY:
        if values["evaluate"] and values[_SETTINGS[flag][1]] is not None:
            more = " (its batches are --test_batch_size)" if flag == "--batch_size" else ""
            raise UserError(f"--evaluate trains nothing, so {flag} contradicts it{more}; leave one of the two out")
    for flag in ("config", "resume", "output"):
        _check_path(f"--{flag}", values[flag])

    sections = config_files.read_json(values["config"])
    named: set[str] = set()
    for flag, (section, key, _, _) in _SETTINGS.items():
        if values[key] is not None:
            sections = config_files.merge(sections, {section: {key: values[key]}})
            named.add(f"{section}.{key}")
            _check_flag(flag, section, key, values[key], SUPERVISED if supervision == "full" else WEAK)
    settings = config_files.build(sections, source=values["config"])
    if settings.supervision != supervision:
        raise UserError(
            f"{values['config']}: describes {settings.model.name}, which {MAINS[settings.supervision]} trains; this is "
            f"{MAINS[supervision]}"
        )
    return settings, Options(
        **{name: values[name] for name in ("config", "gpu", "resume", "evaluate", "output")},
        named=frozenset(named),
        command=["python", parser.prog, *(sys.argv[1:] if argv is None else argv)],
    )


def _check_path(flag: str, path: str | None) -> None:
    if path is not None:
        try:
            file_name(path)
        except ValueError as error:
            raise UserError(f"{flag} {path!r} {error}") from error


def _check_flag(flag: str, section: str, key: str, value: Any, model: str) -> None:
    """Validate a flag's value by itself, so that the error names the flag and not the JSON file."""
    config_files.build({"model": {"name": model}, section: {key: value}}, source=f"{flag} {value}")

"""The flags of the two mains: the authors' names, and some more. A flag overrides the JSON."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from utils import config as configs
from utils.config import Config
from utils.errors import UserError

# Flag -> (section, key, type, help). Their defaults are the JSON's.
_SETTINGS: dict[str, tuple[str, str, type, str]] = {
    "--n_epoch": ("train", "n_epoch", int, "epochs to train"),
    "--batch_size": ("train", "batch_size", int, "clips a training step"),
    "--test_batch_size": ("eval", "test_batch_size", int, "clips an evaluation step"),
    "--lr": ("train", "lr", float, "learning rate"),
    "--clip_gradient": ("train", "clip_gradient", float, "largest global gradient norm"),
    "--weight_decay": ("train", "weight_decay", float, "Adam's L2 penalty"),
    "--snapshot_pref": ("train", "snapshot_pref", str, "run folder"),
    "--print_freq": ("train", "print_freq", int, "steps between two looks at the loss on a GPU"),
    "--eval_freq": ("train", "eval_freq", int, "epochs between two evaluations"),
    "--seed": ("train", "seed", int, "seed of every random generator"),
    "--precision": ("train", "precision", str, "float32, float64 (the authors' arithmetic) or bfloat16"),
    "--data_root": ("data", "root", str, "folder of the feature files"),
    "--split": ("eval", "split", str, "split to evaluate: train, val or test"),
}


class Options(NamedTuple):
    """What a command line says besides settings."""

    config: str  # the JSON file
    gpu: str | None  # "cpu", a GPU's number, several with commas; None: the first GPU if there is one
    resume: str | None  # a checkpoint, or "last"
    evaluate: bool
    output: str | None  # where an evaluation writes
    named: frozenset[str]  # the settings that flags gave, as "train.lr"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()
        if unknown != message.split() and unknown[0].startswith("-"):
            flags = [flag for action in self._actions for flag in action.option_strings]
            close = difflib.get_close_matches(unknown[0], flags, n=1)
            message = f"unknown flag {unknown[0]}" + (f"; did you mean {close[0]}?" if close else "")
        raise UserError(f"{message} (all flags: python {self.prog} --help)")


def parse(argv: Sequence[str] | None, description: str, config: str, model: str) -> tuple[Config, Options]:
    """Read the command line and the JSON that it names.

    Args:
        config: the JSON to read without --config.
        model: `model.name` that this main trains.

    Raises UserError for unknown or contradictory flags and whatever `utils.config` finds.
    """
    parser = _Parser(description=description, allow_abbrev=False)
    parser.add_argument("--config", default=config, metavar="JSON", help=f"settings (default: {config})")
    parser.add_argument("--gpu", help="GPU number, several with commas, or cpu (default: the first GPU, if any)")
    parser.add_argument("--resume", metavar="FILE", help='checkpoint to start from, or "last": go on with the run')
    parser.add_argument("--evaluate", action="store_true", help="evaluate a checkpoint instead of training")
    parser.add_argument("--output", metavar="DIR", help="where an evaluation writes (default: beside the checkpoint)")
    for flag, (_, key, kind, text) in _SETTINGS.items():
        names = ("-b", flag) if flag == "--batch_size" else (flag,)
        parser.add_argument(*names, dest=key, type=kind, default=None, metavar=kind.__name__.upper(), help=text)
    values = vars(parser.parse_args(argv))

    sections = configs.read_json(values["config"])
    named: set[str] = set()
    for flag, (section, key, _, _) in _SETTINGS.items():
        if values[key] is not None:
            sections = configs.merge(sections, {section: {key: values[key]}})
            named.add(f"{section}.{key}")
            _check_flag(flag, section, key, values[key])
    settings = configs.build(sections, source=values["config"])
    if settings.model.name != model:
        other = "weak_main.py" if model == configs.SUPERVISED else "supv_main.py"
        raise UserError(
            f"{values['config']}: describes {settings.model.name}, which {other} trains; this is for {model}"
        )
    return settings, Options(
        values["config"], values["gpu"], values["resume"], values["evaluate"], values["output"], frozenset(named)
    )


def _check_flag(flag: str, section: str, key: str, value: Any) -> None:
    """Validate a flag's value by itself, so that the error names the flag and not the JSON file."""
    configs.build({"model": {"name": configs.SUPERVISED}, section: {key: value}}, source=f"{flag} {value}")

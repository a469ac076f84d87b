"""The flags that say which feature networks to use and where, of `dataset.extract` and `utils.predict`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from utils.base.errors import UserError
from utils.base.flags import Parser

GENERATED, PRETRAINED = "generated", "pretrained"


def add_feature_flags(parser: Parser) -> None:
    """The flags that say which feature networks to use and where; `recipe_settings` reads the first four."""
    parser.add_argument(
        "--weights",
        choices=[PRETRAINED, GENERATED],
        default=PRETRAINED,
        help="generated: random weights, to try the commands without a download; such features mean nothing",
    )
    parser.add_argument("--vgg19", type=Path, metavar="FILE", help="VGG-19 weights, Keras' file (default: fetched)")
    parser.add_argument("--vggish", type=Path, metavar="FILE", help="VGGish weights (default: fetched)")
    parser.add_argument(
        "--precision",
        choices=["float32", "bfloat16"],
        help="of the visual backbone (default: float32, or as the checkpoint's features)",
    )
    parser.add_argument("--gpu", help="GPU number, or cpu (default: the first GPU, if any)")
    parser.add_argument(
        "-b", "--batch_size", type=int, help="frames at a time (default: 8; on a GPU as many of a clip as fit)"
    )


def recipe_settings(args: argparse.Namespace, visual: str, precision: str) -> dict[str, Any]:
    """The fields of `dataset.extract.features.Recipe` for a backbone, from the command line. Raises UserError.

    Args:
        precision: where --precision doesn't say it.
    """
    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"--batch_size {args.batch_size}: give at least 1 frame")
    vgg19, vggish = (str(file or args.weights) for file in (args.vgg19, args.vggish))
    if GENERATED in (vgg19, vggish):
        print("random weights: these features are for trying the commands, they say nothing about a video")
    return {"visual": visual, "visual_weights": vgg19, "vggish": vggish, "precision": args.precision or precision}

"""The flags that say which feature networks to use and where, of `dataset.extract` and `utils.predict`."""

from __future__ import annotations

import argparse
from pathlib import Path

from utils.base.errors import UserError
from utils.base.flags import Parser

GENERATED = "generated"


def add_feature_flags(parser: Parser) -> None:
    """The flags that say which feature networks to use and where; `names_of_weights` reads the first three."""
    parser.add_argument(
        "--weights",
        choices=["pretrained", GENERATED],
        default="pretrained",
        help="generated: random weights, to try the commands without a download; such features mean nothing",
    )
    parser.add_argument("--vgg19", type=Path, metavar="FILE", help="VGG-19 weights (default: fetched by Keras)")
    parser.add_argument("--vggish", type=Path, metavar="FILE", help="VGGish weights (default: fetched)")
    parser.add_argument("--gpu", help="GPU number, or cpu (default: the first GPU, if any)")
    parser.add_argument("-b", "--batch_size", type=int, default=32, help="frames at a time (default: %(default)s)")


def names_of_weights(args: argparse.Namespace) -> tuple[str, str]:
    """What `FeatureExtractor` takes as `vgg19` and `vggish`, from the command line. Raises UserError."""
    if args.batch_size < 1:
        raise UserError(f"--batch_size {args.batch_size}: give at least 1 frame")
    generated = args.weights == GENERATED
    vgg19 = args.vgg19 or (GENERATED if generated else "imagenet")
    vggish = args.vggish or (GENERATED if generated else "pretrained")
    if GENERATED in (vgg19, vggish):
        print("random weights: these features are for trying the commands, they say nothing about a video")
    return str(vgg19), str(vggish)

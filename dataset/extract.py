"""From video files to a data folder: `python -m dataset.extract VIDEOS... --to DIR [--annotations FILE]`.

A row of the folder is a video or, with annotations, a line of the annotation file whose id is a video's name
without its ending. `dataset.extraction` does the work; this file is what one types.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dataset.folder import MINIMUM_SEGMENTS
from dataset.labels import SEGMENTS
from utils.errors import UserError, command
from utils.flags import Parser

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


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m dataset.extract", description="Video files -> a data folder.")
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO", help="a video, or a folder of videos")
    parser.add_argument("--to", required=True, type=Path, metavar="DIR", help="the data folder to make or go on with")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="lines of category&id&quality&start&end")
    parser.add_argument("--seconds", type=int, default=SEGMENTS, help="segments of a clip (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="videos decoded ahead at once (default: %(default)s)")
    add_feature_flags(parser)
    args = parser.parse_args(argv)
    if args.seconds < MINIMUM_SEGMENTS:
        raise UserError(f"--seconds {args.seconds}: the networks need clips of at least {MINIMUM_SEGMENTS} segments")
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: give at least 1")
    # Only now: a package of requirements-video.txt that is missing becomes a one-line error, and --help is quick.
    from dataset import extraction

    vgg19, vggish = names_of_weights(args)
    extraction.extract(
        args.videos,
        args.to,
        args.annotations,
        extraction.Making(args.seconds, vgg19, vggish),
        gpu=args.gpu,
        batch=args.batch_size,
        workers=args.workers,
    )


if __name__ == "__main__":
    sys.exit(main())

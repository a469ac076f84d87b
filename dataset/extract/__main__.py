"""From video files to a data folder: `python -m dataset.extract VIDEOS... --to DIR [--annotations FILE]`.

A row of the folder is a video or, with annotations, a line of the annotation file whose id is a video's name
without its ending. Videos without an event become the background-only clips of weakly supervised training.
`dataset.extract.data_folder` does the work.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dataset.extract.flags import add_feature_flags, recipe_settings
from dataset.labels import MINIMUM_SEGMENTS, SEGMENTS
from utils.base.errors import UserError, command
from utils.base.flags import Parser


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m dataset.extract", description="Video files -> a data folder.")
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO", help="a video, or a folder of videos")
    parser.add_argument(
        "--data_root", "--to", dest="to", required=True, type=Path, metavar="DIR",
        help="the data folder to make or go on with",
    )  # fmt: skip
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="lines of category&id&quality&start&end")
    parser.add_argument(
        "--background", nargs="+", type=Path, default=[], metavar="VIDEO",
        help="videos, or folders of them, without an event: the background-only clips of weakly supervised training "
        "(or lines of the category Background)",
    )  # fmt: skip
    parser.add_argument("--seconds", type=int, default=SEGMENTS, help="segments of a clip (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="videos decoded ahead at once (default: %(default)s)")
    parser.add_argument(
        "--visual", default="vgg19", metavar="BACKBONE",
        help="the network that reads the frames: vgg19, AVE's, or timm/NAME, any of the package timm (default: vgg19)",
    )  # fmt: skip
    add_feature_flags(parser)
    args = parser.parse_args(argv)
    if args.seconds < MINIMUM_SEGMENTS:
        raise UserError(f"--seconds {args.seconds}: the networks need clips of at least {MINIMUM_SEGMENTS} segments")
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: give at least 1")
    # Only now: a package of requirements-video.txt that is missing becomes a one-line error, and --help is quick.
    from dataset.extract import data_folder
    from dataset.extract.features import Recipe

    data_folder.extract(
        args.videos,
        args.background,
        args.to,
        args.annotations,
        args.seconds,
        Recipe(**recipe_settings(args, args.visual, "float32")),
        gpu=args.gpu,
        batch=args.batch_size,
        workers=args.workers,
    )


if __name__ == "__main__":
    sys.exit(main())

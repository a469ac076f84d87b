"""From video files to event timelines: `python -m utils.predict VIDEO... --checkpoint FILE [--html OUT]`.

Prints each video's events, writes a JSON file a video and, with --html, a page that plays the videos with their
timelines and the network's attention over the picture.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dataset import labels, made_with
from dataset.extract.flags import add_feature_flags, recipe_settings
from utils.base.atomic import make_folder
from utils.base.checkpoint import folder_of
from utils.base.devices import choose_device
from utils.base.errors import UserError, command
from utils.base.flags import Parser
from utils.predict.network import category_names, load_network

HOP = 5  # seconds between the starts of two clips: each segment but the outermost is in two


@command
def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    if not 1 <= args.hop <= labels.SEGMENTS:
        raise UserError(f"--hop {args.hop}: clips of {labels.SEGMENTS} s must start 1 to {labels.SEGMENTS} s apart")
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise UserError(f"--threshold {args.threshold}: a probability lies between 0 and 1")
    loaded = load_network(args.checkpoint, args.localization)
    names = category_names(loaded, args.annotations, args.data_root)
    # Only now: a package of requirements-video.txt that is missing becomes a one-line error, and --help is quick.
    from dataset.extract.features import FeatureExtractor, Recipe
    from dataset.extract.find import find_videos
    from utils.predict.page import write_page
    from utils.predict.videos import predict

    videos = find_videos(args.videos)
    trained_on = loaded.features or {}
    visual = {"backbone": "vgg19", "precision": "float32"} | trained_on.get("visual", {})
    recipe = Recipe(**recipe_settings(args, visual["backbone"], visual["precision"]))
    device, where = choose_device(args.gpu)
    print(f"{where}; {loaded.localization.description}")
    extractor = FeatureExtractor(recipe, device, args.batch_size)
    if loaded.generated:
        print(f"warning: {args.checkpoint} learned from generated clips, so what it finds in a video means nothing")
    else:
        _check_features(args.checkpoint, loaded.features, extractor.made_with)
    loaded.network.to(device)
    folder = make_folder(args.output or folder_of(args.checkpoint) / "predict")
    threshold = loaded.localization.event_threshold if args.threshold is None else args.threshold
    made_with = {
        "checkpoint": str(args.checkpoint),
        "localization": loaded.localization.description,
        "features": extractor.made_with,
        "threshold": threshold,
    }
    made = predict(videos, loaded, names, extractor, folder, args.hop, threshold, made_with)
    print(f"written: {folder}/*.json")
    if args.html is not None:
        write_page(args.html, made)
        print(f"written: {args.html}, to be opened in a browser")


def _check_features(checkpoint: Path, trained_on: made_with.MadeWith | None, here: made_with.MadeWith) -> None:
    """Refuse features of another kind than those that the network learned from, and say where they may differ."""
    if trained_on is None:
        print(f"{checkpoint} doesn't say what made the features that it learned from: they are taken to be AVE's kind")
        return
    others, last_digits = made_with.differences(trained_on, here)
    if others:
        raise UserError(
            f"{checkpoint}: learned from other features than are made here: {'; '.join(others)}; use the weights and "
            f"packages that made those (--weights, --vgg19, --vggish)"
        )
    for line in last_digits:
        print(f"warning: the features may differ in their last digits from those of the training: {line}")


def _parser() -> Parser:
    parser = Parser(prog="python -m utils.predict", description="Video files -> event timelines.")
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO", help="a video, or a folder of videos")
    parser.add_argument(
        "--checkpoint",
        "--resume",
        required=True,
        type=Path,
        metavar="FILE",
        help="of any network, this project's or its authors'; or the folder of a release",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="for the JSON files (default: predict/ beside FILE)")
    parser.add_argument("--html", type=Path, metavar="OUT", help="write a page that plays the videos")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="names the categories by first appearance")
    parser.add_argument(
        "--data_root", type=Path, metavar="DIR", help="the data folder that names them (default: the checkpoint's)"
    )
    parser.add_argument("--hop", type=int, default=HOP, help="seconds between two clips (default: %(default)s)")
    parser.add_argument(
        "--threshold", type=float, help="event where its probability is above (default: the localization rule's)"
    )
    parser.add_argument(
        "--localization",
        type=Path,
        metavar="DIR",
        help="find the events as this evaluation of the checkpoint did, by weak_test.sh --localize for example "
        "(default: as the checkpoint's run did)",
    )
    parser.add_argument("--reading", dest="localization", type=Path, help=argparse.SUPPRESS)  # its name until 2026
    add_feature_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())

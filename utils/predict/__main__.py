"""From video files to event timelines: `python -m utils.predict VIDEO... --resume CKPT [--html OUT]`.

Prints each video's events, writes a JSON file a video and, with --html, a page that plays the videos with their
timelines and the network's attention over the picture.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tqdm import tqdm

from dataset import labels
from dataset.extract.flags import add_feature_flags, names_of_weights
from utils.base.atomic import make_folder, write_text
from utils.base.devices import choose_device
from utils.base.errors import UserError, command
from utils.base.flags import Parser
from utils.predict.network import as_json, category_names, load_network, localization_of_evaluation

HOP = 5  # seconds between the starts of two clips: each segment but the outermost is in two


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m utils.predict", description="Video files -> event timelines.")
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO", help="a video, or a folder of videos")
    parser.add_argument("--resume", required=True, type=Path, metavar="CKPT", help="checkpoint, ours or the authors'")
    parser.add_argument("--output", type=Path, metavar="DIR", help="for the JSON files (default: predict/ beside CKPT)")
    parser.add_argument("--html", type=Path, metavar="OUT", help="write a page that plays the videos")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="names the categories by first appearance")
    parser.add_argument("--hop", type=int, default=HOP, help="seconds between two clips (default: %(default)s)")
    parser.add_argument(
        "--threshold", type=float, help="event where its probability is above (default: as the network is read)"
    )
    parser.add_argument(
        "--reading",
        type=Path,
        metavar="DIR",
        help="read the weak network as this evaluation of weak_test.sh --localize did (default: as CKPT's run did)",
    )
    add_feature_flags(parser)
    args = parser.parse_args(argv)
    if not 1 <= args.hop <= labels.SEGMENTS:
        raise UserError(f"--hop {args.hop}: clips of {labels.SEGMENTS} s must start 1 to {labels.SEGMENTS} s apart")
    network, localization, supervision, root, categories = load_network(args.resume)
    if args.reading is not None:
        if supervision == "full":
            raise UserError("--reading is for the weakly supervised network; the supervised one has a single reading")
        localization = localization_of_evaluation(network, args.reading)
    threshold = localization.event_threshold if args.threshold is None else args.threshold
    # Only now: a package of requirements-video.txt that is missing becomes a one-line error, and --help is quick.
    from dataset.extract.data_folder import find_videos
    from dataset.extract.decoding import BrokenVideo
    from dataset.extract.features import FeatureExtractor
    from utils.predict.page import write_page
    from utils.predict.timeline import clock, timeline_of

    videos = find_videos(args.videos)
    names = category_names(args.annotations, root, categories)
    vgg19, vggish = names_of_weights(args)
    device, where = choose_device(args.gpu)
    print(f"{where}; {localization.description}")
    extractor = FeatureExtractor(vgg19, vggish, device, args.batch_size)
    network.to(device)
    folder = make_folder(args.output or args.resume.parent / "predict")
    made_with = {
        "checkpoint": str(args.resume),
        "reading": localization.description,
        "vgg19": vgg19,
        "vggish": vggish,
        "threshold": threshold,
    }

    made = []
    for id, path in tqdm(videos.items(), "predicting", unit="video", disable=None):
        try:
            timeline = timeline_of(path, network, localization, extractor, categories, args.hop, threshold)
        except BrokenVideo as error:
            tqdm.write(f"left out: {error}")
            continue
        made.append((path, as_json(timeline, names, made_with)))
        write_text(folder / f"{id}.json", json.dumps(made[-1][1], ensure_ascii=False) + "\n")
        tqdm.write(f"{path} ({clock(timeline.length)})")
        for note in timeline.notes:
            tqdm.write(f"  note: {note}")
        for event in timeline.events:
            times = f"{clock(event.start)}-{clock(event.end)}"
            tqdm.write(f"  {times} {names[event.category]} {event.probability:.2f}")
        if not timeline.events:
            tqdm.write("  no event")
    if not made:
        raise UserError(f"none of the {len(videos)} videos can be read; the reasons are listed above")
    print(f"written: {folder}/*.json")
    if args.html is not None:
        write_page(args.html, made)
        print(f"written: {args.html}, to be opened in a browser")


if __name__ == "__main__":
    sys.exit(main())

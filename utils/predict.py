"""From video files to event timelines: `python -m utils.predict VIDEO... --resume CKPT [--html OUT]`.

Prints each video's events, writes a JSON file a video and, with --html, a page that plays the videos with their
timelines and the network's attention over the picture.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn
from tqdm import tqdm

from dataset import files, labels
from dataset.extract import add_feature_flags, names_of_weights
from model import build_model
from model.official import PREFIX, load_official
from model.prediction import SUPERVISED_READING, Reading, WeakReading
from utils import checkpoint, results
from utils import config as configs
from utils.atomic import make_folder, write_text
from utils.errors import UserError, command
from utils.flags import Parser
from utils.runtime import choose_device

if TYPE_CHECKING:
    from utils.timeline import Timeline

HOP = 5  # seconds between the starts of two clips: each segment but the outermost is in two


class Loaded(NamedTuple):
    """A checkpoint's network in evaluation mode on the CPU, and what belongs to it."""

    network: nn.Module
    reading: Reading  # how its output becomes segments
    root: Path  # the data folder it was trained on, for the names of its categories
    categories: int


def load_network(path: Path) -> Loaded:
    """The network of a checkpoint, ours or the authors'. Raises UserError when the file is none or doesn't fit."""
    content = checkpoint.load(path)
    if checkpoint.is_ours(content):
        config = configs.build(content["config"], source=f"{path}, its config")
        network, root = build_model(config.model), Path(config.data.root)
        try:
            network.load_state_dict(content["network"])
        except (RuntimeError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: its weights are damaged ({error}); use another checkpoint of the run") from error
        reading = _reading_of(network, config.model.name, content.get("reading", {}), path)
        return Loaded(network.eval(), reading, root, config.model.categories)
    # Only the supervised network has LSTMs.
    supervised = any(key.removeprefix(PREFIX).startswith("audio_visual_rnn_layer.") for key in content)
    settings = configs.model_settings({"name": configs.SUPERVISED if supervised else configs.WEAK})
    network = build_model(settings)
    try:
        load_official(network, content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    root = Path(configs.DataSettings().root)
    return Loaded(network.eval(), _reading_of(network, settings.name, {}, path), root, settings.categories)


def _reading_of(network: nn.Module, setting: str, state: dict[str, Any], source: Path) -> Reading:
    return Reading(network.predict, SUPERVISED_READING) if setting == configs.SUPERVISED else _weak(state, source)


def _weak(state: dict[str, Any], source: Path) -> WeakReading:
    try:
        return WeakReading.of_state(state)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None


def reading_of_evaluation(folder: Path) -> WeakReading:
    """The reading of the weak network that an evaluation's folder records. Raises UserError for another one."""
    metrics = results.read(folder).metrics
    if "localize" not in metrics:
        raise UserError(f"{folder}: is an evaluation of the supervised network, which has a single reading")
    return _weak(metrics, folder / results.METRICS)


def category_names(annotations: Path | None, root: Path, categories: int) -> list[str]:
    """Names of a network's categories: from `annotations`, else from the data folder that it was trained on."""
    if annotations is None:
        if not (root / files.ANNOTATIONS).exists():
            print(f"{root / files.ANNOTATIONS} isn't there: categories are numbered; --annotations FILE names them")
        return labels.clip_names(root, categories).categories
    names = labels.category_names(labels.read_annotations(annotations))
    if len(names) != categories:
        raise UserError(f"{annotations}: names {len(names)} categories, but the network has {categories}")
    return names


def as_json(timeline: Timeline, names: list[str], made_with: dict[str, Any]) -> dict[str, Any]:
    """A timeline as it is written to a file and handed to the page."""
    names = [*names, "background"]
    return {
        "video": str(timeline.video),
        "length": round(timeline.length, 3),
        "first_frame": round(timeline.first_frame, 3),
        **made_with,
        "notes": timeline.notes,
        "events": [
            {"start": e.start, "end": e.end, "category": names[e.category], "probability": round(e.probability, 4)}
            for e in timeline.events
        ],
        "segments": [names[category] for category in timeline.segments],
        "event_probability": timeline.event.round(4).tolist(),
        "attention": timeline.attention.round(5).tolist(),
    }


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
    network, reading, root, categories = load_network(args.resume)
    if args.reading is not None:
        if not isinstance(reading, WeakReading):
            raise UserError("--reading is for the weakly supervised network; the supervised one has a single reading")
        reading = reading_of_evaluation(args.reading)
    threshold = reading.event_threshold if args.threshold is None else args.threshold
    # Only now: a package of requirements-video.txt that is missing becomes a one-line error, and --help is quick.
    from dataset.decoding import BrokenVideo
    from dataset.extraction import find_videos
    from dataset.features import FeatureExtractor
    from utils.page import write_page
    from utils.timeline import clock, timeline_of

    videos = find_videos(args.videos)
    names = category_names(args.annotations, root, categories)
    vgg19, vggish = names_of_weights(args)
    device, where = choose_device(args.gpu)
    print(f"{where}; {reading.description}")
    extractor = FeatureExtractor(vgg19, vggish, device, args.batch_size)
    network.to(device)
    folder = make_folder(args.output or args.resume.parent / "predict")
    made_with = {
        "checkpoint": str(args.resume),
        "reading": reading.description,
        "vgg19": vgg19,
        "vggish": vggish,
        "threshold": threshold,
    }

    made = []
    for id, path in tqdm(videos.items(), "predicting", unit="video", disable=None):
        try:
            timeline = timeline_of(path, network, reading, extractor, categories, args.hop, threshold)
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

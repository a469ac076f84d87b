"""Videos through a network: each one's events printed, its timeline written as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dataset.extract.decoding import BrokenVideo
from dataset.extract.features import FeatureExtractor
from dataset.extract.find import as_text
from utils.base.atomic import inside, write_text
from utils.base.errors import UserError
from utils.predict.network import Loaded
from utils.predict.timeline import Timeline, clock, timeline_of


def predict(
    videos: Mapping[str, Path],
    loaded: Loaded,
    names: list[str],
    extractor: FeatureExtractor,
    folder: Path,
    hop: int,
    threshold: float,
    made_with: dict[str, Any],
) -> list[tuple[Path, dict[str, Any]]]:
    """Print the events of videos, and write a JSON file for each into `folder`.

    Args:
        videos: by the names of their JSON files.
        names: of the categories.
        hop, threshold: see `timeline_of`.
        made_with: what each file also says.

    Returns each video with what its file holds; those that can't be read are named and left out. Raises UserError where
    none can be.
    """
    made = []
    for name, path in tqdm(videos.items(), "predicting", unit="video", disable=None):
        try:
            timeline = timeline_of(
                path, loaded.network, loaded.localization, extractor, loaded.categories, hop, threshold
            )
        except BrokenVideo as error:
            tqdm.write(f"left out: {error}")
            continue
        made.append((path, as_json(timeline, names, made_with)))
        write_text(inside(folder, f"{name}.json"), json.dumps(made[-1][1], ensure_ascii=False) + "\n")
        _say(timeline, names)
    if not made:
        raise UserError(f"none of the {len(videos)} videos can be read; the reasons are listed above")
    return made


def _say(timeline: Timeline, names: list[str]) -> None:
    tqdm.write(f"{timeline.video} ({clock(timeline.length)})")
    for note in timeline.notes:
        tqdm.write(f"  note: {note}")
    for event in timeline.events:
        tqdm.write(f"  {clock(event.start)}-{clock(event.end)} {names[event.category]} {event.probability:.2f}")
    if not timeline.events:
        tqdm.write("  no event")


def as_json(timeline: Timeline, names: list[str], made_with: dict[str, Any]) -> dict[str, Any]:
    """A timeline as it is written to a file and handed to the page."""
    names = [*names, "background"]
    return {
        "video": as_text(timeline.video),
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
        "attention": None if timeline.attention is None else timeline.attention.round(5).tolist(),
    }

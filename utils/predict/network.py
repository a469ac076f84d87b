"""The network of a checkpoint, how its output becomes segments, and its categories' names, for `utils.predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from dataset import files, labels
from model import build_model
from model.official import PREFIX, load_official
from model.prediction import SUPERVISED_READING, Reading, WeakReading
from utils.base import checkpoint
from utils.base.errors import UserError
from utils.config import files as config_files
from utils.config import settings as config_settings
from utils.evaluation import results

if TYPE_CHECKING:
    from utils.predict.timeline import Timeline


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
        config = config_files.build(content["config"], source=f"{path}, its config")
        network, root = build_model(config.model), Path(config.data.root)
        try:
            network.load_state_dict(content["network"])
        except (RuntimeError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: its weights are damaged ({error}); use another checkpoint of the run") from error
        reading = _reading_of(network, config.model.name, content.get("reading", {}), path)
        return Loaded(network.eval(), reading, root, config.model.categories)
    # Only the supervised network has LSTMs.
    supervised = any(key.removeprefix(PREFIX).startswith("audio_visual_rnn_layer.") for key in content)
    settings = config_settings.model_settings(
        {"name": config_settings.SUPERVISED if supervised else config_settings.WEAK}
    )
    network = build_model(settings)
    try:
        load_official(network, content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    root = Path(config_settings.DataSettings().root)
    return Loaded(network.eval(), _reading_of(network, settings.name, {}, path), root, settings.categories)


def _reading_of(network: nn.Module, setting: str, state: dict[str, Any], source: Path) -> Reading:
    return (
        Reading(network.predict, SUPERVISED_READING) if setting == config_settings.SUPERVISED else _weak(state, source)
    )


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

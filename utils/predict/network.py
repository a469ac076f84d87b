"""The network of a checkpoint, how its output becomes segments, and its categories' names, for `utils.predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from dataset import files, labels
from model import NETWORKS, build_model
from model.interface import begin_epoch
from model.localization import Localization
from model.official import PREFIX, load_official
from utils.base import checkpoint
from utils.base.errors import UserError
from utils.config import files as config_files
from utils.config.settings import SUPERVISED, WEAK, DataSettings
from utils.evaluation import results

if TYPE_CHECKING:
    from utils.predict.timeline import Timeline


class Loaded(NamedTuple):
    """A checkpoint's network in evaluation mode on the CPU, and what belongs to it."""

    network: nn.Module
    localization: Localization  # how its output becomes segments
    supervision: str  # full or weak
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
        begin_epoch(network, max(content["epoch"], 1), config.train.n_epoch)
        localization = _localization(network, content.get("localization", {}), path)
        return Loaded(network.eval(), localization, config.supervision, root, config.model.categories)
    # Only the supervised network has LSTMs.
    supervised = any(key.removeprefix(PREFIX).startswith("audio_visual_rnn_layer.") for key in content)
    name = SUPERVISED if supervised else WEAK
    network = build_model({"name": name})
    try:
        load_official(network, content)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    categories, supervision = NETWORKS[name].settings.model_fields["categories"].default, NETWORKS[name].supervision
    return Loaded(network.eval(), Localization(network), supervision, Path(DataSettings().root), categories)


def localization_of_evaluation(network: nn.Module, folder: Path) -> Localization:
    """The localization that an evaluation's folder records. Raises UserError for that of a supervised network."""
    metrics = results.read_metrics(folder)
    if "localize" not in metrics or metrics.get("supervision") == "full":
        raise UserError(f"{folder}: is an evaluation of the supervised network, which has a single reading")
    return _localization(network, metrics, folder / results.METRICS)


def _localization(network: nn.Module, state: dict[str, Any], source: Path) -> Localization:
    try:
        return Localization.of_state(network, state)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None


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

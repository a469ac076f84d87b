"""The facts of a release: the weights that a protocol chose, their numbers, and how they were made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dataset import files
from utils.base.checkpoint import Checkpoint
from utils.base.errors import UserError
from utils.base.paths import CHOSEN_BY
from utils.base.text import require_file
from utils.config.settings import Config
from utils.evaluation.intervals import mean_interval
from utils.evaluation.protocols import PROTOCOLS, protocols
from utils.evaluation.results import evaluations_of, how_to_evaluate
from utils.evaluation.stored import read
from utils.evaluation.weights import config_of, learned_from_generated, network_of
from utils.predict.network import load_network
from utils.training import provenance, result


def facts_of(run: Path, protocol: str, license: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a checkpoint of a run holds, and all that its card says.

    Args:
        run: the run folder.
        protocol: which weights, a name of PROTOCOLS.
        license: of the weights, as model hubs call it.

    Raises UserError where the run has no such weights, these are damaged, or no evaluation of them is there.
    """
    name = CHOSEN_BY[PROTOCOLS[protocol].split]
    require_file(run / name, "checkpoint", f"{run} holds no run whose weights this protocol has chosen")
    checkpoint = Checkpoint.load(run / name)
    if not checkpoint.ours:
        raise UserError(f"{run / name}: is not a checkpoint of a run of this project, so nothing is known of it")
    network, _ = network_of(checkpoint)  # its weights are whole, and those of the network that the config names
    config = config_of(checkpoint)
    folders = evaluations_of(run, name, checkpoint.epoch)
    if not folders:
        raise UserError(
            f"{run}: holds no evaluation of its {name}, so there are no numbers to hand on; make one with "
            f"`{how_to_evaluate(run, name, config.supervision)}`"
        )
    results = [_result(folder) for folder in folders]
    starts = provenance.read(run).get("starts", [])
    facts = {
        "model": config.model.name,
        "parameters": sum(p.numel() for p in network.parameters()),
        "supervision": config.supervision,
        "label_regime": config.label_regime,
        "epoch": checkpoint.epoch,
        "n_epoch": config.train.n_epoch,
        "seed": config.train.seed,
        "precision": config.train.precision,
        "protocol": protocol,
        "protocols": protocols(run),
        "results": results,
        "data": _data(config, checkpoint),
        "generated": _is_generated(checkpoint, config, results, result.read(run)),
        "fits_videos": _fits_videos(run / name),
        "starts": len(starts),
        "start": starts[-1] if starts else None,
        "license": license,
    }
    content = checkpoint.content() | {"config": config.model_dump()}
    content.pop("training", None)
    return content, facts


def _fits_videos(checkpoint: Path) -> bool:
    """Whether `utils.predict` takes a checkpoint: its network can read features that are made of videos."""
    try:
        load_network(checkpoint)
    except UserError:
        return False
    return True


def _result(folder: Path) -> dict[str, Any]:
    """An evaluation's numbers, each score as [value, lower end, upper end] in percent."""
    stored = read(folder)
    kept = ("split", "clips", "segments", "localization", "data_root", "generated")
    scores = {name: mean_interval(values[None]) for name, values in stored.clip_scores().items()}
    return {key: stored.metrics.get(key, False) for key in kept} | {"scores": scores}


def _data(config: Config, checkpoint: Checkpoint) -> dict[str, Any]:
    """The data that the network was trained on: their folder, and how many clips, segments and categories they have."""
    known = {"root": config.data.root, "categories": config.model.categories}
    prints = checkpoint.data or {}
    for key, name, axis in (("clips", files.AUDIO, 0), ("segments", files.AUDIO, 1), ("train", files.ORDERS[0], 0)):
        shape = prints.get(name, {}).get("shape")
        known[key] = shape[axis] if shape else None
    return known


def _is_generated(
    checkpoint: Checkpoint, config: Config, results: list[dict[str, Any]], whole: result.RunResult | None
) -> bool:
    """Whether the run was trained on generated clips: by its result, config, data folder, or evaluations."""
    return any(
        [
            whole is not None and whole.generated,
            learned_from_generated(checkpoint),
            *(found["generated"] for found in results if found["data_root"] == config.data.root),
        ]
    )

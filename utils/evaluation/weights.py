"""Weights into a network: which file holds them, and whether they are this network's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from dataset import fingerprint
from model import NETWORKS, build_model
from model.interface import begin_epoch
from model.official import load_official, misfits, released_files
from model.settings import NetworkSettings
from utils.base import processes
from utils.base.checkpoint import Checkpoint
from utils.base.errors import UserError
from utils.base.nested import differences
from utils.base.paths import BEST, LAST, project_path
from utils.config import files as config_files
from utils.config.settings import MAINS, Config

_log = logging.getLogger(__name__)


def named_checkpoint(name: str | None, run_folder: Path) -> Path | None:
    """The checkpoint that --resume names, if any; "last" is the run folder's own."""
    if name != "last":
        return None if name is None else Path(name)

    def last() -> Path:
        path = run_folder / LAST
        if not path.exists():
            raise UserError(f"{path}: no such checkpoint, so no run to go on with; start one without --resume last")
        return path

    return processes.from_first(last)  # only its machine may have the files


def find_checkpoint(name: str | None, run_folder: Path, network: nn.Module, supervision: str) -> Path:
    """What to evaluate: what --resume names, else the run's best, else the authors' file there, or right in Exps/."""

    def found() -> Path:
        candidates = [run_folder / BEST] if (run_folder / BEST).exists() else []
        for folder in (run_folder, project_path("Exps")):
            for pattern in released_files(network):
                candidates += sorted(folder.glob(pattern))
        if not candidates:
            script = MAINS[supervision].replace("main.py", "train.sh")
            raise UserError(
                f"{run_folder}: no checkpoint to evaluate; train one with `bash {script}`, fetch the authors' with "
                f"`python -m dataset.download --checkpoints`, or name one with --resume FILE"
            )
        return candidates[0]

    return named_checkpoint(name, run_folder) or processes.from_first(found)


def load_weights(network: nn.Module, path: Path, settings: NetworkSettings) -> Checkpoint:
    """Read a checkpoint, ours or anybody's, into a network, which then computes as in the checkpoint's epoch.

    Process 0 reads the file, since only its machine may have it.

    Args:
        settings: of the network.

    Raises UserError when the file is none, or not of this network.
    """
    checkpoint = processes.from_first(lambda: Checkpoint.load(path))
    if checkpoint.ours:
        config = config_of(checkpoint)
        _check_same_network(config.model, settings, path)
    _load(network, checkpoint)
    return checkpoint


def network_of(checkpoint: Checkpoint) -> tuple[nn.Module, NetworkSettings]:
    """The network that a checkpoint is of, with its weights, and its settings.

    Anybody else's file doesn't say which network it is of: each one is tried with its default settings. Raises
    UserError when it is of none.
    """
    if checkpoint.ours:
        settings = config_of(checkpoint).model
        network = build_model(settings)
        _load(network, checkpoint)
        return network, settings
    fitting, reasons = [], []
    for name, kind in NETWORKS.items():
        settings = kind.settings(name=name)
        network = build_model(settings)
        try:
            load_state(network, checkpoint.network)
            fitting.append((network, settings))
        except ValueError as error:
            reasons.append(str(error))
    path = checkpoint.path
    if not fitting:  # the network that is nearest has the least to say
        raise UserError(f"{path}: is of none of the networks {', '.join(NETWORKS)}; {min(reasons, key=len)}")
    if len(fitting) > 1:
        names = [settings.name for _, settings in fitting]
        _log.warning(f"{path}: has the weights of {' or '.join(names)}, which are named alike; taken for {names[0]}")
    _check_finite(fitting[0][0], path)
    return fitting[0]


def config_of(checkpoint: Checkpoint) -> Config:
    """The config that a checkpoint of ours was trained with. Raises UserError where it isn't a valid one."""
    return config_files.build_stored(checkpoint.config, source=f"{checkpoint.path}, its config")


def learned_from_generated(checkpoint: Checkpoint) -> bool:
    """Whether the clips of a checkpoint of ours are known to be generated: its config says so, or its data folder does.

    What the folder says counts while it holds what the network learned from: other data may have come there since.
    """
    config = config_of(checkpoint)
    if config.data.generate is not None or not config.data.are_generated or checkpoint.data is None:
        return config.data.are_generated
    try:
        here = fingerprint.fingerprint(config.data.folder, config.label_regime)
    except UserError:  # a file there is damaged, and so not what the network learned from
        return False
    return not fingerprint.differences(here, fingerprint.of_files_read(checkpoint.data, config.label_regime))


def load_state(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights by our names, or by the network's authors'.

    Raises ValueError that names every tensor that is missing, extra or misshapen; the network is unchanged then.
    """
    own = network.state_dict()
    if own.keys() != weights.keys():
        try:
            load_official(network, weights)
        except ValueError:
            if len(own.keys() & weights.keys()) <= len(own) / 2:
                raise
        else:
            return
    if problems := misfits(weights, {name: tensor.shape for name, tensor in own.items()}):
        raise ValueError(f"not weights of {type(network).__name__} with these settings; tensors {problems}")
    network.load_state_dict(weights)


def _check_same_network(theirs: NetworkSettings, ours: NetworkSettings, path: Path) -> None:
    supervision = NETWORKS[theirs.name].supervision
    if supervision != NETWORKS[ours.name].supervision:
        raise UserError(f"{path}: is a checkpoint of {theirs.name}, which {MAINS[supervision]} reads")
    differing = [
        f"model.{key} ({here} here, {there} there)"
        for key, here, there in differences(ours.model_dump(), theirs.model_dump())
    ]
    if differing:
        raise UserError(
            f"{path}: holds another network than the config describes: {'; '.join(differing)}; "
            f"name the config it was trained with by --config"
        )


def _load(network: nn.Module, checkpoint: Checkpoint) -> None:
    try:
        load_state(network, checkpoint.network)
    except ValueError as error:
        damaged = "its weights are damaged: " if checkpoint.ours else ""
        raise UserError(f"{checkpoint.path}: {damaged}{error}") from error
    _check_finite(network, checkpoint.path)
    if checkpoint.ours:
        begin_epoch(network, max(checkpoint.epoch, 1), config_of(checkpoint).train.n_epoch)


def _check_finite(network: nn.Module, path: Path | None) -> None:
    for name, tensor in network.state_dict().items():
        if not tensor.isfinite().all():
            raise UserError(f"{path}: its weights are not finite numbers in {name}; use another checkpoint")

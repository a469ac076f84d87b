"""What both mains do around their network: begin, find a checkpoint, train, evaluate, say where the results are."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from dataset import files, synthetic
from dataset.ave import AVEDataset
from dataset.labels import clip_names
from dataset.loading import place
from model.prediction import Reading
from utils import checkpoint, results
from utils import config as configs
from utils.cli import Options
from utils.config import Config, DataSettings
from utils.engine import Training, choose_threshold, evaluate, fit, protocol_lines
from utils.errors import UserError
from utils.metrics import right_category_everywhere
from utils.recorder import Recorder, log_to_terminal
from utils.runtime import choose_device, dtype_of, keep_freed_memory, seed_everything

# A resumed run may differ from the one before in these; in anything else it would be another run.
_MAY_CHANGE = ("data.root", "data.features", "data.workers", "data.generate", "train.n_epoch", "train.print_freq",
               "train.save_every_minutes", "train.skip_nonfinite", "train.snapshot_pref", "eval.split",
               "eval.test_batch_size", "eval.exclude_leaked")  # fmt: skip

_log = logging.getLogger(__name__)


class Experiment(NamedTuple):
    """What a main hands over: a network and its loss, and how its setting reads data, outputs and checkpoints."""

    network: nn.Module
    loss: nn.Module
    dataset: type[AVEDataset]
    reading: Reading  # how an output becomes segments
    load_official: Callable  # loads an authors' state_dict into the network
    official_files: tuple[str, ...]  # names that the authors' checkpoint of this setting goes by


def begin(config: Config, options: Options) -> torch.device:
    """Set up messages, memory, seeds and the device, and generate the demo's data if that is what is configured."""
    log_to_terminal()
    keep_freed_memory()
    device, story = choose_device(options.gpu)
    _log.info(story)
    generate_once(config.data)
    seed_everything(config.train.seed)
    return device


def run(experiment: Experiment, config: Config, options: Options, device: torch.device) -> None:
    """Train, or with --evaluate evaluate, and say where the results are."""
    experiment.network.to(device, dtype_of(config.train.precision))
    if options.evaluate:
        path = _named_checkpoint(config, options) or _find_checkpoint(experiment, config)
        _test(experiment, config, options, device, path)
    else:
        _train(experiment, config, options, device)


def _train(experiment: Experiment, config: Config, options: Options, device: torch.device) -> None:
    network, dtype = experiment.network, dtype_of(config.train.precision)
    path = _named_checkpoint(config, options)
    folder, state, epochs_done = Path(config.train.snapshot_pref), None, None
    if path is not None:
        content = _load_weights(experiment, config, path)
        state = content.get("training")
        if state is not None:
            _check_same_run(config, content, path)
            if "train.snapshot_pref" in options.named and folder.resolve() != path.parent.resolve():
                raise UserError(
                    f"--resume {path} goes on in its own folder, but --snapshot_pref names {folder}; leave one out"
                )
            folder, epochs_done = path.parent, content["epoch"]
    datasets = {split: experiment.dataset(config.data.root, split, dtype) for split in files.SPLITS}
    _check_fits(datasets["train"], config)
    recorder = Recorder(folder, config, epochs_done)
    try:
        sizes = {split: config.eval.test_batch_size for split in datasets} | {"train": config.train.batch_size}
        batches = place(datasets, config.data, sizes, device, dtype, config.train.seed)
        training = Training(network, experiment.loss, experiment.reading, batches, config, recorder)
        if state is not None:
            training.restore(state)
            _log.info(f"going on after epoch {training.position.epoch} of {path}")
        _log.info(
            f"training {type(network).__name__} ({sum(p.numel() for p in network.parameters()):,} parameters) on "
            f"{len(datasets['train'])} clips; everything is recorded in {folder}"
        )
        best = fit(training)
        for line in protocol_lines(best):
            _log.info(line)
    finally:
        recorder.close()
    _test(experiment, config, options, device, folder / checkpoint.BEST)


def _test(experiment: Experiment, config: Config, options: Options, device: torch.device, path: Path) -> None:
    content = _load_weights(experiment, config, path)
    _settle(experiment, config, content, device)
    split = config.eval.split
    dataset = AVEDataset(config.data.root, split, dtype_of(config.train.precision))
    _check_fits(dataset, config)
    sizes = {split: config.eval.test_batch_size}
    batches = place({split: dataset}, config.data, sizes, device, dataset.dtype, seed=None)
    result = evaluate(experiment.network, batches[split], experiment.reading, config.train.precision)
    ceiling = right_category_everywhere(result.target, background=dataset.categories)
    metrics: dict[str, Any] = {
        "accuracy": result.accuracy,
        "clips": result.target.shape[0],
        "segments": result.target.numel(),
        "split": split,
        "right_category_everywhere": ceiling,
        "reading": experiment.reading.description,
        "checkpoint": str(path),
        "epoch": content.get("epoch"),
    }
    folder = Path(options.output or path.parent / f"eval-{split}")
    results.write(folder, metrics, result, dataset.rows, clip_names(config.data.root, dataset.categories))
    chosen = f", epoch {content['epoch']}" if checkpoint.is_ours(content) else ""
    _log.info(f"{path}{chosen}: {split} accuracy {result.accuracy:.2f} % over {metrics['clips']} clips "
              f"({metrics['segments']} segments); {experiment.reading.description}")  # fmt: skip
    _log.info(f"naming the right category in every segment would give {ceiling:.2f} %")
    _log.info(f"results: {folder / results.METRICS}, {folder / results.PREDICTIONS}")


def _settle(experiment: Experiment, config: Config, content: dict[str, Any], device: torch.device) -> None:
    """Give the reading its threshold: the checkpoint's, else one chosen on the training split."""
    reading = experiment.reading
    reading.restore(content.get("reading", {}) if checkpoint.is_ours(content) else {})
    if reading.chooses and reading.threshold is None:
        _log.info("the checkpoint holds no threshold for this reading: choosing one on the training split")
        dataset = experiment.dataset(config.data.root, "train", dtype_of(config.train.precision))
        _check_fits(dataset, config)
        sizes = {"train": config.eval.test_batch_size}
        # Streamed: a part of the split is enough.
        data = config.data.model_copy(update={"features": "stream"})
        batches = place({"train": dataset}, data, sizes, device, dataset.dtype, config.train.seed)
        choose_threshold(experiment.network, batches["train"], reading, config.train.precision)


def generate_once(settings: DataSettings) -> None:
    """Generate the data set that a config describes, unless it is there already."""
    if settings.generate is not None:
        synthetic.generate(settings.root, synthetic.Settings(**settings.generate.model_dump()))


def _named_checkpoint(config: Config, options: Options) -> Path | None:
    """The checkpoint that --resume names, if any; "last" is the run folder's own."""
    if options.resume is None:
        return None
    return Path(config.train.snapshot_pref) / checkpoint.LAST if options.resume == "last" else Path(options.resume)


def _find_checkpoint(experiment: Experiment, config: Config) -> Path:
    """What to evaluate when nothing is named: the run's best, else the authors' file there, or right in Exps/."""
    run_folder = Path(config.train.snapshot_pref)
    if (run_folder / checkpoint.BEST).exists():
        return run_folder / checkpoint.BEST
    for folder in (run_folder, Path("Exps")):
        for pattern in experiment.official_files:
            found = sorted(folder.glob(pattern))
            if found:
                return found[0]
    main = "supv" if config.model.name == configs.SUPERVISED else "weak"
    raise UserError(
        f"{run_folder}: no checkpoint to evaluate; train one with `bash {main}_train.sh`, fetch the authors' with "
        f"`python -m dataset.download --checkpoints`, or name one with --resume FILE"
    )


def _load_weights(experiment: Experiment, config: Config, path: Path) -> dict[str, Any]:
    """Load a checkpoint of either kind into the network; returns its content."""
    content = checkpoint.load(path)
    if not checkpoint.is_ours(content):
        try:
            experiment.load_official(experiment.network, content)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        return content
    theirs = configs.build(content["config"], source=f"{path}, its config")
    differing = [line for line in configs.difference(config, theirs) if line.startswith("model.")]
    if differing:
        raise UserError(
            f"{path}: holds another network than {options_name(config)} describes: {'; '.join(differing)}; "
            f"use the config it was trained with"
        )
    try:
        experiment.network.load_state_dict(content["network"])
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: its weights are damaged ({error}); use another checkpoint of the run") from error
    return content


def options_name(config: Config) -> str:
    """How an error calls the config at hand."""
    return f"the config of {config.model.name}"


def _check_same_run(config: Config, content: dict[str, Any], path: Path) -> None:
    theirs = configs.build(content["config"], source=f"{path}, its config")
    differing = [line for line in configs.difference(config, theirs) if not line.startswith(_MAY_CHANGE)]
    if differing:
        raise UserError(
            f"{path}: was trained with other settings, so going on would be another run: {'; '.join(differing)}; "
            f"use its own ({path.parent / 'config.json'}), or start a new run from its weights"
        )


def _check_fits(dataset: AVEDataset, config: Config) -> None:
    """Raise UserError when the files have other sizes than the config's network."""
    root = dataset.root
    for name, size, key, wanted in (
        (files.VISUAL, dataset.sources[0].visual_shape[-1], "video_inputdim", config.model.video_inputdim),
        (files.AUDIO, dataset.sources[0].audio_shape[-1], "audio_inputdim", config.model.audio_inputdim),
        ("labels", dataset.categories, "categories", config.model.categories),
    ):
        if size != wanted:
            raise UserError(
                f"{root / name}: has {size} where the config says model.{key} = {wanted}; change one of them"
            )

"""The training loop, for any network and loss with the shape of this project's.

What a network and a loss give stands in `model.interface`; a localization (see `model.localization`) turns an output
into segments, by a threshold that it may choose on training clips.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from tqdm import tqdm

from model.interface import begin_epoch
from utils.base import processes
from utils.base.devices import naming_batch_size
from utils.base.errors import Interrupted
from utils.base.paths import LAST
from utils.evaluation import protocols
from utils.evaluation.evaluate import evaluate, no_bar
from utils.evaluation.metrics import naming_and_timing, separation
from utils.evaluation.threshold import choose_threshold
from utils.training.meter import Meter
from utils.training.state import Training
from utils.training.stopping import StopRequest

_log = logging.getLogger(__name__)


def fit(training: Training) -> dict[str, dict[str, float]]:
    """Train to the last epoch, evaluating, recording and saving after each.

    Returns, for each protocol's choosing split ("test": the authors' protocol, "val": the validation protocol), the
    numbers of the epoch that it chose. Raises Interrupted when asked to stop; the state is saved then.
    """
    settings, batches = training.config.train, training.batches
    network, localization = training.network, training.localization
    if training.position.step == 0:
        training.save_best(mend=True)
    with StopRequest().listening() as stop:
        for epoch in range(training.position.epoch + 1, settings.n_epoch + 1):
            training.started = time.monotonic()
            begin_epoch(network, epoch, settings.n_epoch)
            means = train_one_epoch(training, epoch, stop)
            metrics: dict[str, Any] = {"epoch": epoch, **means, "learning_rate": training.scheduler.get_last_lr()[0]}
            if epoch % settings.eval_freq == 0 or epoch == settings.n_epoch:
                if localization.chooses:
                    choose_threshold(network, batches["train"], localization, settings.precision)
                for split in ("val", "test"):
                    if split not in batches:
                        continue
                    if processes.any_process(stop):
                        training.save({"epoch": training.position.epoch})
                        _stop(training)
                    metrics |= _evaluated(training, epoch, split)
                if not protocols.choose(training.position.best, metrics):
                    del metrics[protocols.CLIP_ACCURACIES]  # no protocol will choose this epoch
            metrics["seconds"] = training.seconds()
            training.scheduler.step()
            training.begin_after(epoch)
            # The order matters to a run that is killed in between: going on from `last.pth.tar` drops a line that
            # was written too early, and makes up for best checkpoints that were not written yet.
            training.recorder.epoch(metrics, epoch * len(batches["train"]))
            training.save(metrics)
            training.save_best()
            _log.info(_epoch_line(metrics, settings.n_epoch, training.position.best))
            if processes.any_process(stop):
                _stop(training)
    return training.position.best


def _evaluated(training: Training, epoch: int, split: str) -> dict[str, Any]:
    """Evaluate a split: its accuracy, and the AUC of each of the network's scores against its segment labels, if any.

    Of the test split also the accuracy of each clip, and naming and timing apart. Records how each score is
    distributed.
    """
    batches = training.batches[split]
    result = evaluate(training.network, batches, training.localization, training.config.train.precision)
    step = epoch * len(training.batches["train"])
    training.recorder.histograms({f"{split}/{name}": score for name, score in result.scores.items()}, step)
    background = batches.dataset.categories
    is_event = (result.target != background).numpy()
    auc = {name: separation(score.numpy(), is_event)["auc"] for name, score in result.scores.items()}
    metrics = {f"{split}_accuracy": result.accuracy, **({f"{split}_auc": auc} if auc else {})}
    if split == "test":
        metrics[protocols.NAMING_AND_TIMING] = naming_and_timing(result, background)
        metrics[protocols.CLIP_ACCURACIES] = result.clip_accuracy.tolist()
    return metrics


def train_one_epoch(training: Training, epoch: int, stop: StopRequest) -> dict[str, Any]:
    """One pass over the training clips, from where `training.position` stands.

    Returns the epoch's mean loss terms, training accuracy in percent, and mean gradient norm before clipping.
    """
    batches, position = training.batches["train"], training.position
    meter = Meter(training, epoch)
    training.network.train()
    steps = enumerate(batches.epoch(epoch, first_step=position.step), position.step + 1)
    bar = tqdm(steps, f"epoch {epoch}", len(batches), initial=position.step, leave=False, disable=no_bar())
    for step, batch in bar:
        with naming_batch_size("--batch_size", batches.batch_size):
            meter.add(step, batch, *training.gradients(batch))
            training.optimizer.step()
        position.step = step
        stopping = processes.any_process(stop)
        if stopping or (step < len(batches) and training.save_due()):
            meter.collect()
            training.save({"epoch": position.epoch})
            if stopping:
                _stop(training)
    meter.collect()
    return meter.means()


def _stop(training: Training) -> None:
    path = training.recorder.folder / LAST
    raise Interrupted(f"stopped after {training.position}; saved in {path}; go on with --resume last")


def _epoch_line(metrics: dict[str, Any], n_epoch: int, best: dict[str, dict[str, float]]) -> str:
    terms = "  ".join(f"{name} {value:.4f}" for name, value in metrics["loss"].items() if name != "total")
    parts = [
        f"epoch {metrics['epoch']}/{n_epoch}",
        f"loss {metrics['loss']['total']:.4f} ({terms})",
        f"train {metrics['train_accuracy']:.2f} %",
        *(f"{s} {metrics[f'{s}_accuracy']:.2f} %" for s in ("val", "test") if f"{s}_accuracy" in metrics),
        f"best test {best['test']['test_accuracy']:.2f} % (epoch {best['test']['epoch']})" if best else "",
        f"{metrics['seconds']:.1f} s",
    ]
    return "  ".join(part for part in parts if part)

"""The training loop and the evaluation, for any network and loss with the shape of this project's.

A network has `forward(visual, audio)`, `explain` (the output and what led to it), `predict` (an output as
segments) and `hits` (a training batch's right answers); a loss turns an output and labels into named terms.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dataset.loading import Batch, Batches
from utils import checkpoint
from utils.config import Config
from utils.errors import Interrupted, UserError
from utils.metrics import accuracy
from utils.recorder import Recorder
from utils.runtime import StopRequest, autocast, random_state, restore_random_state

_log = logging.getLogger(__name__)


class Evaluation(NamedTuple):
    """Every clip of a split, in its order; on the CPU."""

    segments: Tensor  # [n, T] int64: predicted category indices, background is C
    target: Tensor  # [n, T] int64
    category: Tensor  # [n] int64: predicted category of the clip
    event_probability: Tensor  # [n, T] float32

    @property
    def accuracy(self) -> float:
        """Percent of segments that are right."""
        return accuracy(self.segments, self.target)


@torch.inference_mode()
def evaluate(network: nn.Module, batches: Batches, predict: Callable, precision: str) -> Evaluation:
    """Predict every clip of a split once.

    Args:
        predict: (output, explanation) -> Prediction, such as the network's own `predict`.
        precision: float32, float64 or bfloat16.
    """
    network.eval()
    parts = []
    for batch in tqdm(batches.epoch(0), "evaluating", len(batches), leave=False, disable=None):
        with autocast(batches.device, precision):
            prediction = predict(*network.explain(batch.visual, batch.audio))
        target = batch.labels.argmax(-1)
        parts.append((prediction.segments, target, prediction.category, prediction.event_probability.float()))
    return Evaluation(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


@dataclass
class Position:
    """How far a run has come: what a checkpoint needs besides weights, optimiser and random generators."""

    epoch: int = 0  # epochs that are complete
    step: int = 0  # steps of the next epoch that are complete
    sums: dict[str, float] = field(default_factory=dict)  # over those steps' clips, for the epoch's means
    best: dict[str, dict[str, float]] = field(default_factory=dict)  # split that chose it -> that epoch's numbers


class Training:
    """One training run: everything that changes while it goes on, and how it is saved and restored."""

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        batches: dict[str, Batches],
        config: Config,
        recorder: Recorder,
    ) -> None:
        settings = config.train
        self.network, self.loss, self.batches, self.config, self.recorder = network, loss, batches, config, recorder
        self.device = batches["train"].device
        # One fused kernel for all parameters: the same mathematics as the authors' Adam.
        self.optimizer = torch.optim.Adam(
            network.parameters(), settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(
            self.optimizer, settings.milestones, gamma=settings.lr_decay
        )
        self.position = Position()
        self.saved_at = time.monotonic()

    def state(self) -> dict[str, Any]:
        """All that going on needs, besides the weights."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "random": random_state(),
            "position": vars(self.position),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned. Raises UserError when it belongs to another network."""
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            self.position = Position(**state["position"])
            restore_random_state(state["random"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(f"the checkpoint's training state is damaged ({error}); use another one") from error

    def save(self, name: str, metrics: dict[str, Any], with_state: bool = True) -> None:
        """Write a checkpoint into the run folder."""
        content = {
            "config": self.config.model_dump(),
            "network": self.network.state_dict(),
            "epoch": self.position.epoch,
            "metrics": metrics,
        }
        if with_state:
            content["training"] = self.state()
            self.saved_at = time.monotonic()
        checkpoint.save(self.recorder.folder / name, content)

    def save_due(self) -> bool:
        """Whether `save_every_minutes` have passed since the last save."""
        minutes = self.config.train.save_every_minutes
        return minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes


def fit(training: Training, predict: Callable) -> dict[str, dict[str, float]]:
    """Train to the last epoch, evaluating, recording and saving after each.

    Returns, for each protocol's choosing split ("test": the authors' protocol, "val": the validation protocol), the
    numbers of the epoch that it chose. Raises Interrupted when asked to stop; the state is saved then.
    """
    settings, position, batches = training.config.train, training.position, training.batches
    with StopRequest().listening() as stop:
        for epoch in range(position.epoch + 1, settings.n_epoch + 1):
            start = time.monotonic()
            learning_rate = training.scheduler.get_last_lr()[0]
            means = train_one_epoch(training, epoch, stop)
            training.scheduler.step()
            position.epoch, position.step, position.sums = epoch, 0, {}
            metrics: dict[str, Any] = {"epoch": epoch, **means, "learning_rate": learning_rate}
            if epoch % settings.eval_freq == 0 or epoch == settings.n_epoch:
                for split in ("val", "test"):
                    result = evaluate(training.network, batches[split], predict, settings.precision)
                    metrics[f"{split}_accuracy"] = result.accuracy
                _keep_best(training, metrics)
            metrics["seconds"] = time.monotonic() - start
            training.recorder.epoch(metrics)
            training.save(checkpoint.LAST, metrics)
            _log.info(_epoch_line(metrics, settings.n_epoch, position.best))
            if stop:
                _stop(training)
    return position.best


def train_one_epoch(training: Training, epoch: int, stop: StopRequest) -> dict[str, Any]:
    """One pass over the training clips, from where `training.position` stands.

    Returns the epoch's mean loss terms, training accuracy in percent, and mean gradient norm before clipping.
    """
    network, optimizer, batches = training.network, training.optimizer, training.batches["train"]
    settings, position = training.config.train, training.position
    meter = _Meter(training, epoch)
    network.train()
    steps = enumerate(batches.epoch(epoch, first_step=position.step), position.step + 1)
    bar = tqdm(steps, f"epoch {epoch}", len(batches), initial=position.step, leave=False, disable=None)
    for step, batch in bar:
        optimizer.zero_grad(set_to_none=True)
        with autocast(training.device, settings.precision):
            output = network(batch.visual, batch.audio)
            terms = training.loss(output, batch.labels)
        terms["total"].backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), settings.clip_gradient or float("inf"))
        if meter.add(step, batch, terms, norm, network.hits(output, batch.labels)):
            optimizer.step()
        position.step = step
        if (stop or training.save_due()) and step < len(batches):
            meter.look()
            training.save(checkpoint.LAST, {"epoch": epoch - 1})
            if stop:
                _stop(training)
    meter.look()
    return meter.means()


class _Meter:
    """Adds up an epoch's numbers, on the device; looks at them on the host only now and then.

    Waiting for a GPU's numbers every step would leave it idle between steps. So steps are looked at together,
    every `print_freq` of them; on a CPU, and for `skip_nonfinite`, each at once.
    """

    def __init__(self, training: Training, epoch: int) -> None:
        self.training, self.epoch, self.sums = training, epoch, training.position.sums
        settings = training.config.train
        self.every = 1 if training.device.type == "cpu" or settings.skip_nonfinite else settings.print_freq
        self.waiting: list[tuple[int, Tensor, Tensor]] = []  # step, its clips, its numbers
        self.names: list[str] = []

    def add(self, step: int, batch: Batch, terms: dict[str, Tensor], norm: Tensor, hits: Tensor) -> bool:
        """Take in a step's numbers. Returns whether its update may be made."""
        self.names = [*terms, "gradient_norm"]
        numbers = torch.stack([*(term.detach().double() for term in terms.values()), norm.double(), *hits])
        self.waiting.append((step, batch.clips, numbers))
        return self.look() if len(self.waiting) >= self.every else True

    def look(self) -> bool:
        """Bring the waiting steps' numbers to the host, check and add them up."""
        fine = True
        if not self.waiting:
            return fine
        rows = torch.stack([numbers for _, _, numbers in self.waiting]).tolist()
        for (step, clips, _), (*values, right, counted) in zip(self.waiting, rows, strict=True):
            named = dict(zip(self.names, values, strict=True))
            if not all(torch.isfinite(torch.tensor(values))):
                fine = False
                self._nonfinite(step, clips, named)
                continue
            for name, value in named.items():
                self._sum(name, value * len(clips))
            self._sum("clips", len(clips))
            self._sum("right", right)
            self._sum("counted", counted)
            global_step = (self.epoch - 1) * len(self.training.batches["train"]) + step
            if global_step % self.training.config.train.print_freq == 0:
                self.training.recorder.step(named, global_step)
        self.waiting.clear()
        return fine

    def _sum(self, name: str, value: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value

    def _nonfinite(self, step: int, clips: Tensor, named: dict[str, float]) -> None:
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in named.items())
        where = f"epoch {self.epoch}, step {step}: loss or gradient is not finite ({numbers}); clips {clips.tolist()}"
        if not self.training.config.train.skip_nonfinite:
            raise UserError(
                f"{where} of the training split. The checkpoints are from before; look for bad features with "
                f"`python -m dataset.check`, try a lower --lr, or leave such steps out with train.skip_nonfinite"
            )
        self._sum("skipped", 1)
        _log.warning(f"{where}: step left out")

    def means(self) -> dict[str, Any]:
        """The epoch's means over clips."""
        if "clips" not in self.sums:
            raise UserError(f"epoch {self.epoch}: every step was left out because its loss was not finite")
        mean = {name: self.sums[name] / self.sums["clips"] for name in self.names}
        norm = mean.pop("gradient_norm")
        skipped = {"skipped_steps": int(self.sums["skipped"])} if "skipped" in self.sums else {}
        accuracy_percent = 100 * self.sums["right"] / self.sums["counted"]
        return {"loss": mean, "train_accuracy": accuracy_percent, "gradient_norm": norm, **skipped}


def _keep_best(training: Training, metrics: dict[str, Any]) -> None:
    """Keep the weights of the best epoch so far, by each protocol; the earlier of two equal epochs stays."""
    for split, name in (("test", checkpoint.BEST), ("val", checkpoint.BEST_VAL)):
        best = training.position.best.get(split)
        if best is None or metrics[f"{split}_accuracy"] > best[f"{split}_accuracy"]:
            numbers = {key: metrics[key] for key in ("epoch", "val_accuracy", "test_accuracy")}
            training.position.best[split] = numbers
            training.save(name, numbers, with_state=False)


def _stop(training: Training) -> None:
    position = training.position
    raise Interrupted(
        f"stopped after epoch {position.epoch}"
        + (f", step {position.step}" if position.step else "")
        + f"; saved in {training.recorder.folder / checkpoint.LAST}; go on with --resume last"
    )


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


def protocol_lines(best: dict[str, dict[str, float]]) -> list[str]:
    """Both protocols of a finished run, named, side by side."""
    return [
        f"authors' protocol (best epoch on the test split): test {best['test']['test_accuracy']:.2f} % "
        f"at epoch {best['test']['epoch']}",
        f"validation protocol (test accuracy at the best epoch on the val split): "
        f"test {best['val']['test_accuracy']:.2f} % at epoch {best['val']['epoch']} "
        f"(val {best['val']['val_accuracy']:.2f} %)",
    ]

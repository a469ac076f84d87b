"""The training loop and the evaluation, for any network and loss with the shape of this project's.

A network has `forward(visual, audio)`, `explain` (the output and what led to it) and `hits` (a training batch's
right answers); a loss turns an output and labels into named terms; a reading (see `model.prediction.Reading`) turns
an output into segments, by a threshold that it may choose on training clips.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import NonNegativeInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from tqdm import tqdm

from dataset.ave import AVEDataset
from dataset.loading import Batch, Batches
from utils import checkpoint, distributed
from utils.compiled import Compiled
from utils.config import Config
from utils.errors import Interrupted, UserError
from utils.metrics import accuracy
from utils.recorder import Recorder
from utils.runtime import StopRequest, autocast, naming_batch_size, random_state, restore_random_state

GATES = ("gate", "audio_gate", "visual_gate")
CHOOSING_CLIPS = 1024  # 10,000 segments fix one threshold well; more would only cost time

_log = logging.getLogger(__name__)


class Evaluation(NamedTuple):
    """Every clip of a split, in its order; on the CPU."""

    segments: Tensor  # [n, T] int64: predicted category indices, background is C
    target: Tensor  # [n, T] int64
    category: Tensor  # [n] int64: predicted category of the clip
    event_probability: Tensor  # [n, T] float32
    gate: Tensor  # [n, T] float32: what time-level suppression makes of the two gates below
    audio_gate: Tensor  # [n, T] float32
    visual_gate: Tensor  # [n, T] float32
    attention: Tensor | None = None  # [n, T, H, W] float16, where asked for: sums to 1 over the grid

    @property
    def accuracy(self) -> float:
        """Percent of segments that are right."""
        return accuracy(self.segments, self.target)


@torch.inference_mode()
def evaluate(
    network: nn.Module, batches: Batches, predict: Callable, precision: str, attention: bool = False
) -> Evaluation:
    """Predict every clip of a split once.

    Args:
        predict: (output, explanation) -> Prediction: a reading, or the network's own `predict`.
        precision: float32, float64 or bfloat16.
        attention: whether to keep the attention maps too.
    """
    network.eval()
    places, parts = [], []
    for batch in tqdm(batches.epoch(0), "evaluating", len(batches), leave=False, disable=_no_bar()):
        with naming_batch_size("--test_batch_size", batches.batch_size), autocast(batches.device, precision):
            output, explanation = network.explain(batch.visual, batch.audio)
            prediction = predict(output, explanation)
        if batch.weight:  # else the clips are another process's
            gates = (output.gate, explanation.audio_gate, explanation.visual_gate)
            columns = [prediction.segments, batch.labels.argmax(-1), prediction.category]
            columns += [probability.float() for probability in (prediction.event_probability, *gates)]
            if attention:
                columns.append(explanation.attention.half())
            places.append(batch.clips)
            parts.append(columns)
    mine = Evaluation(*(torch.cat(column).cpu() for column in zip(*parts, strict=True))) if parts else None
    return _in_order(distributed.everyones((places, mine)))


def _in_order(shares: list[tuple[list[Tensor], Evaluation | None]]) -> Evaluation:
    """The split's evaluation, from each process's places in the split and its evaluation of those."""
    places = torch.cat([place for places, _ in shares for place in places])
    order = places.argsort()
    if not torch.equal(places[order], torch.arange(len(places))):
        raise RuntimeError("a clip was evaluated twice or not at all")
    columns = zip(*(evaluation for _, evaluation in shares if evaluation is not None), strict=True)
    return Evaluation(*(None if column[0] is None else torch.cat(column)[order] for column in columns))


def _no_bar() -> bool | None:
    """tqdm's `disable`: a bar where there is a terminal, and only by the first process."""
    return True if distributed.rank() else None


@dataclass
class Position:
    """How far a run has come: what a checkpoint needs besides weights, optimiser and random generators."""

    epoch: NonNegativeInt = 0  # epochs that are complete
    step: NonNegativeInt = 0  # steps of the next epoch that are complete
    seconds: float = 0.0  # that those steps took
    sums: dict[str, float] = field(default_factory=dict)  # over those steps' clips, for the epoch's means
    best: dict[str, dict[str, int | float]] = field(default_factory=dict)  # split that chose it -> that epoch's numbers

    def __str__(self) -> str:
        return f"epoch {self.epoch}" + (f", step {self.step} of the next" if self.step else "")


@torch.inference_mode()
def choose_threshold(network: nn.Module, batches: Batches, reading: Any, precision: str) -> None:
    """Let a reading that needs a threshold choose it on training clips, at most CHOOSING_CLIPS of them."""
    network.eval()
    parts, clips = [], 0
    for batch in batches.epoch(0):
        with autocast(batches.device, precision):
            output, explanation = network.explain(batch.visual, batch.audio)
        parts.append(reading.scores(output, explanation, batch.labels).float().cpu())
        clips += len(batch.clips)
        if clips >= CHOOSING_CLIPS:
            break
    reading.choose(torch.cat(distributed.everyones(torch.cat(parts))))


class Training:
    """One training run: everything that changes while it goes on, and how it is saved and restored."""

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        reading: Any,
        batches: dict[str, Batches],
        config: Config,
        recorder: Recorder,
    ) -> None:
        settings = config.train
        self.network, self.loss, self.reading, self.batches = network, loss, reading, batches
        self.config, self.recorder = config, recorder
        self.device = next(network.parameters()).device
        self.forward = distributed.parallel(network)
        if settings.compile:
            self.forward = Compiled(self.forward, self.device)
        # One fused kernel for all parameters: the same mathematics as the authors' Adam.
        self.optimizer = torch.optim.Adam(
            network.parameters(), settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(
            self.optimizer, settings.milestones, gamma=settings.lr_decay
        )
        self.position = Position()
        self.started = self.saved_at = time.monotonic()

    def gradients(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Compute a step's gradients and clip them.

        Returns the named loss terms, the gradient norm before clipping, and the right and all predictions [2].
        """
        settings = self.config.train
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, settings.precision):
            output = self.forward(batch.visual, batch.audio)
            terms = self.loss(output, batch.labels)
        # The weight makes the mean of all processes' gradients that of all their clips.
        (terms["total"] * batch.weight).backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip_gradient or float("inf"))
        return terms, norm, self.network.hits(output, batch.labels)

    def state(self) -> dict[str, Any]:
        """All that going on needs, besides the weights."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "random": distributed.everyones(random_state()),
            "position": {**vars(self.position), "seconds": self.seconds()},
        }

    def begin_after(self, epoch: int) -> None:
        """Stand at the beginning of the epoch that follows `epoch`."""
        self.position = Position(epoch, best=self.position.best)
        self.started = time.monotonic()

    def seconds(self) -> float:
        """Time spent on the epoch that the run is in, before a stop and since."""
        return self.position.seconds + time.monotonic() - self.started

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned. Raises UserError when it is damaged or belongs to another network."""
        try:
            _check_optimizer(self.optimizer, state["optimizer"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            self.position = Position(**state["position"])
            if distributed.rank() < len(state["random"]):  # else the run has more processes now than it had
                restore_random_state(state["random"][distributed.rank()])
        except Exception as error:  # any part of it may be anything
            raise UserError(
                f"the checkpoint's training state is damaged ({type(error).__name__}: {error}); use another one"
            ) from error

    def save(self, metrics: dict[str, Any]) -> None:
        """Write `last.pth.tar`. What the run has recorded so far is on the disk before."""
        self.recorder.flush()
        self._write(checkpoint.LAST, metrics, training=self.state())
        self.saved_at = time.monotonic()

    def save_best(self, mend: bool = False) -> None:
        """Write the weights of the epoch just done for each protocol that calls it the best so far.

        This comes after `last.pth.tar`, which names the best epochs. A run that was killed between the two does it
        when it goes on: `mend` writes only what isn't there.
        """
        for split, name in (("test", checkpoint.BEST), ("val", checkpoint.BEST_VAL)):
            best = self.position.best.get(split)
            if best is None or best["epoch"] != self.position.epoch:
                continue
            if not (mend and _epoch_in(self.recorder.folder / name) == self.position.epoch):
                self._write(name, best)

    def _write(self, name: str, metrics: dict[str, Any], **more: Any) -> None:
        content = {
            "config": self.config.model_dump(),
            "network": self.network.state_dict(),
            "epoch": self.position.epoch,
            "metrics": metrics,
            "reading": self.reading.state(),
        }
        if distributed.rank() == 0:
            checkpoint.save(self.recorder.folder / name, content | more)

    def save_due(self) -> bool:
        """Whether `save_every_minutes` have passed since the last save, by any process's clock."""
        minutes = self.config.train.save_every_minutes
        return minutes is not None and distributed.anywhere(time.monotonic() - self.saved_at >= 60 * minutes)


def _epoch_in(path: Path) -> int | None:
    """The epoch of a checkpoint of ours; None where there is no good one."""
    try:
        return checkpoint.load(path).get("epoch")
    except UserError:
        return None


def _check_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Raise ValueError where a saved state's tensors don't have their parameters' shapes: torch doesn't look."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, parameter in enumerate(parameters):
        for name, value in state["state"].get(index, {}).items():
            if name != "step" and value.shape != parameter.shape:
                raise ValueError(f"{name} of parameter {index} has shape {list(value.shape)}")


def fit(training: Training) -> dict[str, dict[str, float]]:
    """Train to the last epoch, evaluating, recording and saving after each.

    Returns, for each protocol's choosing split ("test": the authors' protocol, "val": the validation protocol), the
    numbers of the epoch that it chose. Raises Interrupted when asked to stop; the state is saved then.
    """
    settings, batches = training.config.train, training.batches
    network, reading = training.network, training.reading
    if training.position.step == 0:
        training.save_best(mend=True)
    with StopRequest().listening() as stop:
        for epoch in range(training.position.epoch + 1, settings.n_epoch + 1):
            training.started = time.monotonic()
            means = train_one_epoch(training, epoch, stop)
            metrics: dict[str, Any] = {"epoch": epoch, **means, "learning_rate": training.scheduler.get_last_lr()[0]}
            if epoch % settings.eval_freq == 0 or epoch == settings.n_epoch:
                if reading.chooses:
                    choose_threshold(network, batches["train"], reading, settings.precision)
                for split in ("val", "test"):
                    if distributed.anywhere(stop):
                        training.save({"epoch": training.position.epoch})
                        _stop(training)
                    result = evaluate(network, batches[split], reading, settings.precision)
                    metrics[f"{split}_accuracy"] = result.accuracy
                    gates = {f"{split}/{name}": getattr(result, name) for name in GATES}
                    training.recorder.histograms(gates, epoch * len(batches["train"]))
                _choose_best(training.position.best, metrics)
            metrics["seconds"] = training.seconds()
            training.scheduler.step()
            training.begin_after(epoch)
            # The order matters to a run that is killed in between: going on from `last.pth.tar` drops a line that
            # was written too early, and makes up for best checkpoints that were not written yet.
            training.recorder.epoch(metrics, epoch * len(batches["train"]))
            training.save(metrics)
            training.save_best()
            _log.info(_epoch_line(metrics, settings.n_epoch, training.position.best))
            if distributed.anywhere(stop):
                _stop(training)
    return training.position.best


def train_one_epoch(training: Training, epoch: int, stop: StopRequest) -> dict[str, Any]:
    """One pass over the training clips, from where `training.position` stands.

    Returns the epoch's mean loss terms, training accuracy in percent, and mean gradient norm before clipping.
    """
    batches, position = training.batches["train"], training.position
    meter = _Meter(training, epoch)
    training.network.train()
    steps = enumerate(batches.epoch(epoch, first_step=position.step), position.step + 1)
    bar = tqdm(steps, f"epoch {epoch}", len(batches), initial=position.step, leave=False, disable=_no_bar())
    for step, batch in bar:
        with naming_batch_size("--batch_size", batches.batch_size):
            if meter.add(step, batch, *training.gradients(batch)):
                training.optimizer.step()
        position.step = step
        stopping = distributed.anywhere(stop)
        if stopping or (step < len(batches) and training.save_due()):
            meter.look()
            training.save({"epoch": position.epoch})
            if stopping:
                _stop(training)
    meter.look()
    return meter.means()


_COUNTS = ("clips", "right", "counted", "skipped")  # what a meter adds up besides loss terms and gradient norm


class _Meter:
    """Adds up an epoch's numbers, on the device; looks at them on the host only now and then.

    Waiting for a GPU's numbers every step would leave it idle between steps. So steps are looked at together,
    every `print_freq` of them; on a CPU, and for `skip_nonfinite`, each at once.
    """

    def __init__(self, training: Training, epoch: int) -> None:
        self.training, self.epoch, self.sums = training, epoch, training.position.sums
        settings = training.config.train
        self.every = 1 if training.device.type == "cpu" or settings.skip_nonfinite else settings.print_freq
        self.waiting: list[tuple[int, Tensor, Tensor]] = []  # step, this process's clips in it, their numbers
        # An epoch that goes on after its last step has no step to take them from.
        self.names = [name for name in self.sums if name not in _COUNTS]

    def add(self, step: int, batch: Batch, terms: dict[str, Tensor], norm: Tensor, hits: Tensor) -> bool:
        """Take in a step's numbers. Returns whether its update may be made."""
        self.names = [*terms, "gradient_norm"]
        numbers = torch.stack([*(term.detach().double() for term in terms.values()), norm.double(), *hits])
        self.waiting.append((step, batch.clips if batch.weight else batch.clips[:0], numbers))
        return self.look() if len(self.waiting) >= self.every else True

    def look(self) -> bool:
        """Bring the waiting steps' numbers to the host, check and add them up."""
        fine = True
        if not self.waiting:
            return fine
        rows = torch.stack([numbers for _, _, numbers in self.waiting]).cpu()
        counts = torch.tensor([[len(clips)] for _, clips, _ in self.waiting], dtype=torch.float64)
        means, hits = rows.split([len(self.names), 2], dim=1)
        totals = distributed.total(torch.cat([means * counts, hits * (counts > 0), counts], dim=1)).tolist()
        for (step, clips, _), (*sums, right, counted, count) in zip(self.waiting, totals, strict=True):
            named = {name: value / count for name, value in zip(self.names, sums, strict=True)}
            if not all(map(math.isfinite, sums)):
                fine = False
                self._nonfinite(step, torch.cat(distributed.everyones(clips)), named)
                continue
            for name, value in zip(self.names, sums, strict=True):
                self._sum(name, value)
            self._sum("clips", count)
            self._sum("right", right)
            self._sum("counted", counted)
            global_step = (self.epoch - 1) * len(self.training.batches["train"]) + step
            if global_step % self.training.config.train.print_freq == 0:
                learning_rate = self.training.scheduler.get_last_lr()[0]
                self.training.recorder.step({**named, "learning_rate": learning_rate}, global_step)
        self.waiting.clear()
        return fine

    def _sum(self, name: str, value: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value

    def _nonfinite(self, step: int, clips: Tensor, named: dict[str, float]) -> None:
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in named.items())
        where = (
            f"epoch {self.epoch}, step {step}: loss or gradient is not finite ({numbers}); "
            f"{_rows_of(self.training.batches['train'].dataset, clips)}"
        )
        if not self.training.config.train.skip_nonfinite:
            raise UserError(
                f"{where}. The checkpoints are from before; look for bad features with `python -m dataset.check`, "
                f"try a lower --lr, or leave such steps out with train.skip_nonfinite"
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


def _rows_of(dataset: AVEDataset, clips: Tensor) -> str:
    """Which rows of which feature file some clips of a split are, and which of them hold bad features."""
    rows: dict[str, list[int]] = {}
    bad: list[str] = []
    for clip in clips.tolist():
        source, row = dataset.source(clip)
        rows.setdefault(source.visual_path.name, []).append(row)
        for path, values in zip((source.visual_path, source.audio_path), source[row], strict=True):
            if not np.isfinite(values).all():
                bad.append(f"row {row} of {path}")
    there = " and ".join(f"rows {numbers} of {name}" for name, numbers in rows.items())
    return f"its clips: {there}" + (f"; not finite: {', '.join(bad)}" if bad else "")


def _choose_best(best: dict[str, dict[str, float]], metrics: dict[str, Any]) -> None:
    """Note the best epoch so far by each protocol; the earlier of two equal epochs stays."""
    for split in ("test", "val"):
        if split not in best or metrics[f"{split}_accuracy"] > best[split][f"{split}_accuracy"]:
            best[split] = {key: metrics[key] for key in ("epoch", "val_accuracy", "test_accuracy")}


def _stop(training: Training) -> None:
    path = training.recorder.folder / checkpoint.LAST
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


def protocol_lines(best: dict[str, dict[str, float]]) -> list[str]:
    """Both protocols of a finished run, named, side by side."""
    return [
        f"authors' protocol (best epoch on the test split): test {best['test']['test_accuracy']:.2f} % "
        f"at epoch {best['test']['epoch']}",
        f"validation protocol (test accuracy at the best epoch on the val split): "
        f"test {best['val']['test_accuracy']:.2f} % at epoch {best['val']['epoch']} "
        f"(val {best['val']['val_accuracy']:.2f} %)",
    ]

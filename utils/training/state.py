"""What changes while a run goes on, a step's gradients, and how all of it is saved and restored."""

from __future__ import annotations

import logging
import time
from dataclasses import field
from pathlib import Path
from typing import Any

import torch
from pydantic import NonNegativeInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dataset.loading import Batch, Batches
from model.localization import Localization
from utils.base import processes
from utils.base.checkpoint import Checkpoint
from utils.base.devices import autocast
from utils.base.errors import UserError
from utils.base.paths import CHOSEN_BY, LAST
from utils.config.settings import Config
from utils.training.compiled import Compiled
from utils.training.randomness import random_state, restore_random_state
from utils.training.record import Recorder, SilentRecorder

_log = logging.getLogger(__name__)


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


class Training:
    """One training run: everything that changes while it goes on, and how it is saved and restored."""

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        localization: Localization,
        batches: dict[str, Batches],
        config: Config,
        recorder: Recorder | SilentRecorder,
        categories: list[str] | None = None,
        features: dict[str, Any] | None = None,
    ) -> None:
        settings = config.train
        self.network, self.loss, self.localization, self.batches = network, loss, localization, batches
        self.config, self.recorder, self.categories, self.features = config, recorder, categories, features
        self.device = next(network.parameters()).device
        self.forward = processes.data_parallel(network)
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
        with torch.no_grad():
            correct = self.network.correct(self.network.predict(output), batch.labels)
        return terms, norm, correct

    def state(self) -> dict[str, Any]:
        """All that going on needs, besides the weights."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "random": processes.all_gather(random_state()),
            "position": {**vars(self.position), "seconds": self.seconds()},
            "in_blocks": self.batches["train"].in_blocks,
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
            _check_alike(self.optimizer.state_dict()["param_groups"], state["optimizer"]["param_groups"], "optimizer")
            _check_alike(self.scheduler.state_dict(), state["scheduler"], "scheduler")
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            self.position = Position(**state["position"])
            # Where the features are may change when a run goes on, by itself even; the order of clips must not.
            self.batches["train"].in_blocks = {True: True, False: False}[state["in_blocks"]]
            if len(state["random"]) != processes.world_size():
                _log.warning(
                    f"the run had {len(state['random'])} processes and has {processes.world_size()} now: it goes on, "
                    f"but with other random numbers than it would have had"
                )
            if processes.rank() < len(state["random"]):
                saved = state["random"][processes.rank()]
                _check_alike(random_state(), {**saved, "cuda": saved["cuda"][:0]}, "random")
                restore_random_state(saved)
        except Exception as error:  # any part of it may be anything
            raise UserError(
                f"the checkpoint's training state is damaged ({type(error).__name__}: {error}); use another one"
            ) from error

    def save(self, metrics: dict[str, Any]) -> None:
        """Write `last.pth.tar`. What the run has recorded so far is on the disk before."""
        self.recorder.flush()
        self._write(LAST, metrics, training=self.state())
        self.saved_at = time.monotonic()

    def save_best(self, mend: bool = False) -> None:
        """Write the weights of the epoch just done for each protocol that calls it the best so far.

        This comes after `last.pth.tar`, which names the best epochs. A run that was killed between the two does it
        when it goes on: `mend` writes only what isn't there.
        """
        for split, name in CHOSEN_BY.items():
            best = self.position.best.get(split)
            if best is None or best["epoch"] != self.position.epoch:
                continue
            if not (mend and _epoch_in(self.recorder.folder / name) == self.position.epoch):
                self._write(name, best)

    def _write(self, name: str, metrics: dict[str, Any], training: dict[str, Any] | None = None) -> None:
        if processes.rank() == 0:
            Checkpoint(
                network=self.network.state_dict(),
                config=self.config.model_dump(),
                epoch=self.position.epoch,
                metrics=metrics,
                localization=self.localization.state(),
                data=self.recorder.data,
                categories=self.categories,
                features=self.features,
                training=training,
            ).save(self.recorder.folder / name)

    def save_due(self) -> bool:
        """Whether `save_every_minutes` have passed since the last save, by any process's clock."""
        minutes = self.config.train.save_every_minutes
        return minutes is not None and processes.any_process(time.monotonic() - self.saved_at >= 60 * minutes)


def _epoch_in(path: Path) -> int | None:
    """The epoch of a checkpoint of ours; None where there is no good one."""
    try:
        return Checkpoint.load(path).epoch
    except UserError:
        return None


def _check_alike(own: Any, saved: Any, where: str) -> None:
    """Raise ValueError where a saved state has another type or size than a state of this run: torch doesn't look.

    Entries that only one of them has are another version of torch's, and a list of nothing is like any other.
    """
    if own is None or saved is None:
        return
    if isinstance(own, torch.Tensor):
        alike = isinstance(saved, torch.Tensor) and (saved.shape, saved.dtype) == (own.shape, own.dtype)
    else:
        alike = isinstance(saved, type(own)) and (not isinstance(own, list) or len(saved) in (0, len(own)))
    if not alike:
        raise ValueError(f"{where} is another {type(own).__name__} than it was")
    if isinstance(own, dict):
        for key in own.keys() & saved.keys():
            _check_alike(own[key], saved[key], f"{where} {key}")
    elif isinstance(own, list):
        for index, pair in enumerate(zip(own, saved, strict=False)):
            _check_alike(*pair, f"{where} {index}")


def _check_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Raise ValueError where a saved state's tensors don't have their parameters' shapes: torch doesn't look."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, parameter in enumerate(parameters):
        for name, value in state["state"].get(index, {}).items():
            if name != "step" and value.shape != parameter.shape:
                raise ValueError(f"{name} of parameter {index} has shape {list(value.shape)}")

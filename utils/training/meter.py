"""An epoch's numbers, added up step by step, and the stop where one isn't finite."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dataset.loading import Batch
from utils.base import processes
from utils.base.errors import UserError
from utils.evaluation.evaluate import name_clips
from utils.training.state import Training

_COUNTS = ("clips", "right", "counted")  # what a meter adds up besides loss terms and gradient norm


class Meter:
    """Adds up an epoch's numbers. They stay on the device and are collected, checked and added up only now and then.

    Waiting for a GPU's numbers every step would leave it idle between steps. So those of `print_freq` steps are
    collected together; on a CPU each step's at once.
    """

    def __init__(self, training: Training, epoch: int) -> None:
        self.training, self.epoch, self.sums = training, epoch, training.position.sums
        self.every = 1 if training.device.type == "cpu" else training.config.train.print_freq
        self.waiting: list[tuple[int, Tensor, Tensor]] = []  # step, this process's clips in it, their numbers
        # An epoch that goes on after its last step has no step to take them from.
        self.names = [name for name in self.sums if name not in _COUNTS]

    def add(self, step: int, batch: Batch, terms: dict[str, Tensor], norm: Tensor, correct: Tensor) -> None:
        """Take in a step's numbers. Raises UserError where some that are collected aren't finite."""
        self.names = [*terms, "gradient_norm"]
        numbers = torch.stack([*(term.detach().double() for term in terms.values()), norm.double(), *correct])
        self.waiting.append((step, batch.clips if batch.weight else batch.clips[:0], numbers))
        if len(self.waiting) >= self.every:
            self.collect()

    def collect(self) -> None:
        """Bring the waiting steps' numbers to the host, check and add them up."""
        if not self.waiting:
            return
        rows = torch.stack([numbers for _, _, numbers in self.waiting]).cpu()
        counts = torch.tensor([[len(clips)] for _, clips, _ in self.waiting], dtype=torch.float64)
        means, correct = rows.split([len(self.names), 2], dim=1)
        totals = processes.all_reduce(torch.cat([means * counts, correct * (counts > 0), counts], dim=1)).tolist()
        for (step, clips, _), (*sums, right, counted, count) in zip(self.waiting, totals, strict=True):
            named = {name: value / count for name, value in zip(self.names, sums, strict=True)}
            if not all(map(math.isfinite, sums)):
                raise self._nonfinite(step, torch.cat(processes.all_gather(clips)), named)
            counts = {"clips": count, "right": right, "counted": counted}
            for name, value in {**dict(zip(self.names, sums, strict=True)), **counts}.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            global_step = (self.epoch - 1) * len(self.training.batches["train"]) + step
            if global_step % self.training.config.train.print_freq == 0:
                learning_rate = self.training.scheduler.get_last_lr()[0]
                self.training.recorder.step({**named, "learning_rate": learning_rate}, global_step)
        self.waiting.clear()

    def _nonfinite(self, step: int, clips: Tensor, named: dict[str, float]) -> UserError:
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in named.items())
        return UserError(
            f"epoch {self.epoch}, step {step}: loss or gradient is not finite ({numbers}); "
            f"its clips: {name_clips(self.training.batches['train'].dataset, clips)}. The checkpoints are from before; "
            f"look for features that are far too large, also with `python -m dataset.check`, mend them, or try a lower "
            f"--lr"
        )

    def means(self) -> dict[str, Any]:
        """The epoch's means over clips."""
        mean = {name: self.sums[name] / self.sums["clips"] for name in self.names}
        norm = mean.pop("gradient_norm")
        accuracy_percent = 100 * self.sums["right"] / self.sums["counted"]
        return {"loss": mean, "train_accuracy": accuracy_percent, "gradient_norm": norm}

"""Kill tiny training runs with SIGKILL at random moments, go on each time, and compare the end with a run left alone.

    python tests/crash.py --kills 100

Each run is a process of its own (forked from this one, which has everything imported, so that a life of a fraction of
a second is spent in training). After each kill every checkpoint there must load, and `last.pth.tar` must hold every
epoch that the process had reported as saved. A run that has come to its end, killed or not, must have left the same
weights, optimiser, best checkpoints, numbers, TensorBoard points and predictions, bit for bit. Then another run
starts, until there were enough kills. Exit code 0 when all of it held.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from helpers_runs import difference, outcome

import supv_main
import weak_main
from dataset.synthetic import generate
from utils.base.checkpoint import Checkpoint
from utils.base.paths import LAST
from utils.config.settings import SUPERVISED, WEAK
from utils.report import page as report_page

MAINS = {SUPERVISED: supv_main.main, WEAK: weak_main.main}
KILLS_A_RUN = 20  # then it may come to its end, and a run of the other setting starts
DATA = generate.Settings(
    train=24, val=8, test=8, background_only=6, categories=3, grid=(2, 2), visual_dim=16, audio_dim=8
)


class Soak:
    """Runs and kills within one folder; counts what happened."""

    def __init__(self, folder: Path, epochs: int, seed: int) -> None:
        self.folder, self.epochs, self.random = folder, epochs, random.Random(seed)
        self.data = generate.generate(folder / "data", DATA)
        self.kills = self.runs = self.reported = self.lost = 0
        self.problems: list[str] = []

    def command(self, name: str, run: Path, save_every_minutes: float | None) -> list[str]:
        config = {
            "model": {"name": name, "video_inputdim": 16, "audio_inputdim": 8, "d_model": 16, "categories": 3},
            # Where the features are may change at any time, for good reasons; the order of clips may not.
            "data": {"root": str(self.data), "workers": 1, "features": self._features(run)},
            "train": {
                "n_epoch": self.epochs, "batch_size": 10, "milestones": [2, 5], "eval_freq": 2, "print_freq": 1,
                "save_every_minutes": save_every_minutes, "snapshot_pref": str(run),
            },
        }  # fmt: skip
        path = self.folder / "config.json"
        path.write_text(json.dumps(config))
        resume = ["--resume", "last"] if (run / LAST).exists() else []
        return ["--config", str(path), "--gpu", "cpu", *resume]

    def _features(self, run: Path) -> str:
        return self.random.choice(["host", "stream"]) if (run / LAST).exists() else "host"

    def life(self, name: str, run: Path, seconds: float | None, save_every_minutes: float | None) -> int | None:
        """A process that goes on with `run` and is killed after `seconds`; its exit code, None if it was killed."""
        command = self.command(name, run, save_every_minutes)
        output = self.folder / "output.txt"
        process = os.fork()
        if process == 0:
            with open(output, "w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                os._exit(MAINS[name](command))
        end = time.monotonic() + seconds if seconds is not None else float("inf")
        while time.monotonic() < end:
            done, status = os.waitpid(process, os.WNOHANG)
            if done:
                self._count_reported(run, output)
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        self.kills += 1
        self._count_reported(run, output)
        return None

    def _count_reported(self, run: Path, output: Path) -> None:
        """Hold the epochs that a process said it had saved, and the checkpoints there, against what can be loaded."""
        epochs = [
            int(number) for number in re.findall(rf"^epoch (\d+)/{self.epochs} ", output.read_text(), re.MULTILINE)
        ]
        self.reported += len(epochs)
        held = {path.name: Checkpoint.load(path).epoch for path in run.glob("*.pth.tar")}
        missing = max(epochs, default=0) - held.get(LAST, 0)
        if missing > 0:
            self.lost += missing
            self.problems.append(f"{run}: {missing} epochs reported as saved are gone")

    def until(self, kills: int) -> None:
        """Start, kill, go on and compare until there were `kills` kills."""
        whole = {}
        while self.kills < kills:
            name = (SUPERVISED, WEAK)[self.runs % 2]
            if name not in whole:
                alone = self.folder / f"alone-{name}"
                start = time.monotonic()
                assert self.life(name, alone, None, None) == 0, (self.folder / "output.txt").read_text()
                # A life lasts up to a fifth of an undisturbed run: several kills a run, and progress between them.
                whole[name] = (outcome(alone), (time.monotonic() - start) / 5)
            expected, longest = whole[name]
            run = self.folder / "run"
            shutil.rmtree(run, ignore_errors=True)
            code, last_kill = None, min(kills, self.kills + KILLS_A_RUN)
            while code is None:
                seconds = self.random.uniform(0, longest) if self.kills < last_kill else None
                code = self.life(name, run, seconds, self.random.choice([None, 1e-9]))
            self.runs += 1
            if code != 0:
                raise SystemExit(f"{name}: exit code {code}\n{(self.folder / 'output.txt').read_text()}")
            found = difference(outcome(run), expected)
            if found:
                self.problems.append(f"{name}: differs from the run left alone in {found}")
            print(f"{name}: {self.kills} kills, {self.runs} runs; differs in: {found or 'nothing'}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill training runs at random moments and go on with them.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=12, help="of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments; the machine's speed matters too")
    options = parser.parse_args()
    report_page.write = lambda folder: None  # drawing figures would take most of the time
    torch.set_num_threads(1)  # and no threads of torch's to be lost in a fork
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), options.epochs, options.seed)
        soak.until(options.kills)
    print(
        f"{soak.kills} kills in {soak.runs} runs; {soak.reported} epochs reported as saved, {soak.lost} of them lost; "
        f"{len(soak.problems)} problems"
    )
    for problem in soak.problems:
        print(problem)
    return 1 if soak.problems else 0


if __name__ == "__main__":
    sys.exit(main())

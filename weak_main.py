"""Weakly supervised CMBS: train on clip labels, or evaluate a checkpoint."""

import sys

from dataset.ave import WeakAVEDataset
from model import build_model
from model.losses import WeakLoss
from model.official import load_official
from model.prediction import WeakReading
from utils.base.errors import command
from utils.config.command_line import parse
from utils.config.settings import WEAK
from utils.training.run import Experiment, begin, run


@command
def main(argv: list[str] | None = None) -> None:
    config, options = parse(argv, __doc__, config="configs/weak.json", model=WEAK)
    device = begin(config, options)
    network = build_model(config.model)
    by_gate = config.eval.gate_threshold is not None
    experiment = Experiment(
        network,
        WeakLoss(),
        WeakAVEDataset,
        WeakReading("gate" if by_gate else config.eval.localize, config.eval.gate_threshold),
        load_official=load_official,
        official_files=("WeaklySupervised_model.pth.tar", "*task_WeaklySupervised_best_model.pth.tar"),
    )
    run(experiment, config, options, device)


if __name__ == "__main__":
    sys.exit(main())

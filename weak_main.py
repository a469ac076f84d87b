"""Weakly supervised CMBS: train on clip labels, or evaluate a checkpoint."""

import sys
from functools import partial

from dataset.ave import WeakAVEDataset
from model import build_loss, build_model
from model.localization import Localization
from utils.base.errors import command
from utils.config.command_line import parse
from utils.training.run import Experiment, begin, run


@command
def main(argv: list[str] | None = None) -> None:
    config, options = parse(argv, __doc__, config="configs/weak.json", supervision="weak")
    device = begin(config, options)
    network = build_model(config.model)
    experiment = Experiment(
        network,
        build_loss(config.model, config.train.loss_weights),
        partial(WeakAVEDataset, label_regime=config.data.label_regime),
        Localization(network, config.eval.localize, config.eval.threshold),
    )
    run(experiment, config, options, device)


if __name__ == "__main__":
    sys.exit(main())

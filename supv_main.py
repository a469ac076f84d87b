"""Fully supervised CMBS: train on segment labels, or evaluate a checkpoint."""

import sys

from utils.base.errors import command
from utils.config.command_line import parse


@command
def main(argv: list[str] | None = None) -> None:
    config, options = parse(argv, __doc__, config="configs/main.json", supervision="full")
    # Only now: torch takes seconds to import, and a wrong command line is told at once.
    from dataset.ave import AVEDataset
    from model import build_loss, build_model
    from model.localization import Localization
    from utils.training.run import Experiment, begin, run

    device = begin(config, options)
    network = build_model(config.model)
    experiment = Experiment(
        network,
        build_loss(config.model, config.train.loss_weights),
        AVEDataset,
        Localization(network),
    )
    run(experiment, config, options, device)


if __name__ == "__main__":
    sys.exit(main())

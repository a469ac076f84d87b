"""Fully supervised CMBS: train on segment labels, or evaluate a checkpoint."""

import sys

from dataset.ave import AVEDataset
from model import build_model
from model.losses import SupervisedLoss
from model.official import load_official
from model.prediction import SUPERVISED_READING, Reading
from utils.base.errors import command
from utils.config.command_line import parse
from utils.config.settings import SUPERVISED, Config
from utils.training.run import Experiment, begin, run


@command
def main(argv: list[str] | None = None) -> None:
    config, options = parse(argv, __doc__, config="configs/main.json", model=SUPERVISED)
    device = begin(config, options)
    network = build_model(config.model)
    experiment = Experiment(
        network,
        loss_of(config),
        AVEDataset,
        Reading(network.predict, SUPERVISED_READING),
        load_official=load_official,
        official_files=("Supervised_model.pth.tar", "*task_Supervised_best_model.pth.tar"),
    )
    run(experiment, config, options, device)


def loss_of(config: Config) -> SupervisedLoss:
    """The loss with the config's weights; a part that the network is built without has nothing to train by its loss."""
    return SupervisedLoss(
        gate_weight=config.train.gate_loss if config.model.time_level else 0,
        av_category_weight=config.train.av_category_loss if config.model.event_level else 0,
    )


if __name__ == "__main__":
    sys.exit(main())

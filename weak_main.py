"""Weakly supervised: train on clip labels, or evaluate a checkpoint."""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # which python -P and PYTHONSAFEPATH leave out

from utils.base.errors import command
from utils.config.command_line import parse


@command
def main(argv: list[str] | None = None) -> None:
    config, options = parse(argv, __doc__, config="configs/weak.json", supervision="weak")
    # Only now: torch takes seconds to import, and a wrong command line is told at once.
    from dataset.ave import WeakAVEDataset
    from model import build_loss, build_model
    from model.localization import Localization
    from utils.base.devices import dtype_of
    from utils.evaluation.run import evaluate_checkpoint
    from utils.evaluation.weights import find_checkpoint
    from utils.report import write_report
    from utils.training.begin import begin
    from utils.training.run import train

    dataset = partial(WeakAVEDataset, label_regime=config.data.label_regime)
    with begin(config, options.gpu) as device:
        network = build_model(config.model).to(device, dtype_of(config.train.precision))
        loss = build_loss(config.model, config.train.loss_weights)
        localization = Localization(network, config.eval.localize, config.eval.threshold)
        if options.evaluate:
            path, batches = find_checkpoint(options.resume, config.train.folder, network, config.supervision), {}
        else:
            path, batches = train(network, loss, localization, dataset, config, options)
        evaluate_checkpoint(path, network, localization, dataset, config, options.output, write_report, batches)


if __name__ == "__main__":
    sys.exit(main())

"""Every network of `model.NETWORKS` trains by the main of its supervision, goes on, and is evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from helpers_bad import refused

import supv_main
import weak_main
from dataset.ave import AVEDataset
from dataset.files import LABEL_REGIMES
from model import NETWORKS, build_loss, build_model
from model.official import to_official
from utils.base.checkpoint import Checkpoint
from utils.base.errors import EXIT_DONE, EXIT_USER_ERROR
from utils.base.paths import LAST
from utils.config import files as config_files

MAINS = {"full": supv_main, "weak": weak_main}
CONFIGS = sorted((ROOT / "configs" / "baselines").glob("*.json"))
BASELINES = [name for name in NETWORKS if not name.endswith("_main_model")]  # CMBS's own tests are all the others
ONE_SIZE = [name for name in NETWORKS if "grid" in NETWORKS[name].settings.model_fields]


def settings_of(name: str) -> dict:
    """What makes a network fit the tiny data."""
    return {"grid": [2, 2]} if name in ONE_SIZE else {}


@pytest.mark.parametrize("name", BASELINES)
def test_trains_goes_on_and_is_evaluated(name, tiny_config, tmp_path):
    """On streamed features and in bfloat16, which the other tests of the networks leave out."""
    main = MAINS[NETWORKS[name].supervision]
    train = {"n_epoch": 1, "precision": "bfloat16"}
    config = tiny_config(name, model=settings_of(name), data={"placement": "stream"}, train=train)
    arguments = ["--config", str(config), "--gpu", "cpu"]
    assert main.main(arguments) == EXIT_DONE
    assert main.main([*arguments, "--n_epoch", "2", "--resume", "last"]) == EXIT_DONE
    run = tmp_path / "run"
    assert Checkpoint.load(run / LAST).epoch == 2
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    terms = {*build_loss({"name": name}).weights, "total"}
    assert set(epochs[1]["loss"]) == terms
    assert set(epochs[0]["loss"]) == terms - ({"contrast"} if name == "cace_supv" else set())  # its early phase
    metrics = json.loads((run / "eval-test" / "metrics.json").read_text())
    assert metrics["accuracy"] == epochs[metrics["epoch"] - 1]["test_accuracy"]
    assert (run / "eval-test" / "report.html").exists()


@pytest.mark.parametrize("name", NETWORKS)
def test_features_without_a_grid(name, tiny_config, gridless_data, tmp_path, monkeypatch):
    """Every network trains on clips of 7 segments, goes on and is evaluated; there is no attention to be shown."""
    monkeypatch.setattr("utils.report.figures.save", lambda metrics, folder: None)
    model = {"grid": [1, 1], "segments": 7} if name in ONE_SIZE else {}
    config = tiny_config(name, model=model, data={"root": str(gridless_data)}, train={"n_epoch": 1})
    main, arguments = MAINS[NETWORKS[name].supervision], ["--config", str(config), "--gpu", "cpu"]
    assert main.main(arguments) == EXIT_DONE
    assert main.main([*arguments, "--n_epoch", "2", "--resume", "last"]) == EXIT_DONE
    evaluation = tmp_path / "run" / "eval-test"
    metrics = json.loads((evaluation / "metrics.json").read_text())
    epochs = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert metrics["accuracy"] == epochs[metrics["epoch"] - 1]["test_accuracy"]
    assert {path.name for path in evaluation.iterdir()} == {"metrics.json", "predictions.jsonl", "report.html"}
    assert '"grid":null' in (evaluation / "report.html").read_text()


@pytest.mark.parametrize(("n_epoch", "early"), [(1, True), (2, False)])
def test_a_checkpoint_of_cace_is_evaluated_in_its_own_phase(n_epoch, early, tiny_config, tmp_path):
    """The first epoch of a run is of the early phase, the second one of two is not."""
    config, run = tiny_config("cace_supv", train={"n_epoch": n_epoch}), tmp_path / "run"
    assert supv_main.main(["--config", str(config), "--gpu", "cpu"]) == EXIT_DONE
    arguments = ["--evaluate", "--resume", str(run / "last.pth.tar"), "--output", str(tmp_path / "eval")]
    assert supv_main.main(["--config", str(config), "--gpu", "cpu", *arguments]) == EXIT_DONE
    clips = [json.loads(line) for line in (tmp_path / "eval" / "predictions.jsonl").read_text().splitlines()]
    evaluated = torch.tensor([clip["event_probability"] for clip in clips])

    content = torch.load(run / "last.pth.tar")
    network = build_model(content["config"]["model"]).eval()
    network.load_state_dict(content["network"])
    dataset = AVEDataset(content["config"]["data"]["root"], "test")
    visual, audio, _ = map(torch.stack, zip(*(dataset[i] for i in range(len(dataset))), strict=True))
    for phase in (True, False):
        network.early = phase
        with torch.inference_mode():
            probability = network(visual, audio).event_logits.sigmoid()
        assert torch.allclose(probability, evaluated, atol=1e-5) == (phase == early)


@pytest.mark.parametrize("regime", LABEL_REGIMES)
def test_a_weak_result_says_what_it_learned_from(regime, tiny_config, tmp_path, capsys):
    def arguments(regime: str) -> list[str]:
        sections = {"model": settings_of("psp_weak"), "train": {"n_epoch": 1}, "data": {"label_regime": regime}}
        return ["--config", str(tiny_config("psp_weak", **sections)), "--gpu", "cpu"]

    assert weak_main.main(arguments(regime)) == EXIT_DONE
    words = LABEL_REGIMES[regime].words
    said = capsys.readouterr().out
    assert f"weak supervision: it learns from {words}\n" in said
    assert f"weak supervision: it learned from {words} ({regime})" in said.splitlines()[-4:]
    embedded = json.dumps({"learned_from": words}, separators=(",", ":"))[1:-1]
    assert embedded in (tmp_path / "run" / "eval-test" / "report.html").read_text()
    # What the run learned from, whatever the evaluation's own config says.
    assert weak_main.main([*arguments("clips"), "--evaluate"]) == EXIT_DONE
    metrics = json.loads((tmp_path / "run" / "eval-test" / "metrics.json").read_text())
    assert metrics["label_regime"] == regime


def test_a_supervised_network_has_no_label_regime(tiny_config, tmp_path, capsys):
    config = tiny_config(data={"label_regime": "clips"})
    assert supv_main.main(["--config", str(config), "--gpu", "cpu"]) == EXIT_USER_ERROR
    assert "'data.label_regime' is 'clips': it is for a weak network" in capsys.readouterr().err
    assert supv_main.main(["--config", str(tiny_config(train={"n_epoch": 1})), "--gpu", "cpu"]) == EXIT_DONE
    assert json.loads((tmp_path / "run" / "eval-test" / "metrics.json").read_text())["label_regime"] is None


@pytest.mark.parametrize("name", ONE_SIZE)
def test_data_of_another_size_is_told_in_a_line(name, tiny_config, capsys):
    config = tiny_config(name, model={"grid": [3, 2]})
    assert "10 segments with a grid of 3x2 cells" in refused(
        capsys, MAINS[NETWORKS[name].supervision].main, "--config", str(config), "--gpu", "cpu"
    )


def test_an_evaluation_tells_it_too(tiny_config, tmp_path, capsys):
    config, weights = tiny_config("psp_supv", model={"grid": [3, 2]}), tmp_path / "weights.pth.tar"
    torch.save(to_official(build_model(config_files.read_json(config)["model"])), weights)
    arguments = ["--config", str(config), "--gpu", "cpu", "--evaluate", "--resume", str(weights)]
    assert supv_main.main(arguments) == EXIT_USER_ERROR
    assert "10 segments with a grid of 3x2 cells" in capsys.readouterr().err


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_for_each(path: Path):
    config = config_files.build(config_files.read_json(path), str(path))
    build_loss(config.model, config.train.loss_weights)
    folder = "Exps/Supv/" if config.supervision == "full" else "Exps/WeaklySupv/"
    assert config.train.snapshot_pref == f"{folder}{path.stem.removesuffix('_weak')}/"


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "features").glob("*.json")), ids=lambda path: path.stem)
def test_a_config_of_other_features(path: Path):
    config = config_files.build(config_files.read_json(path), str(path))
    assert config.train.snapshot_pref.endswith(f"/{path.stem.removesuffix('_weak')}/")
    if made := config.data.generate:
        sizes = (config.model.video_inputdim, config.model.audio_inputdim)
        assert (made.grid, made.visual_dim, made.audio_dim) == ([1, 1], *sizes)


def test_every_network_has_its_recipe_and_its_demo():
    named = {path.stem: config_files.read_json(path)["model"]["name"] for path in CONFIGS}
    assert {name for stem, name in named.items() if not stem.startswith("demo_")} == set(BASELINES)
    assert {name for stem, name in named.items() if stem.startswith("demo_")} == set(BASELINES)

"""A released network is the run's, its card says what it is, and a byte that was changed is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import helpers_bad
import pytest
import yaml
from helpers_bad import MAINS, flip, refused
from helpers_runs import difference
from made_evaluation import write_evaluation

from dataset.fingerprint import fingerprint
from model import NETWORKS, build_model
from utils.base import released
from utils.base.checkpoint import Checkpoint
from utils.base.errors import EXIT_DONE, UserError
from utils.base.paths import BEST, BEST_VAL
from utils.config import files as config_files
from utils.config.settings import SUPERVISED, WEAK
from utils.evaluation import results
from utils.evaluation.weights import network_of
from utils.predict.network import load_network
from utils.release.__main__ import main

NAMES = ["Bark", "Bell", "Cat"]
quick = pytest.fixture(helpers_bad.quick, autouse=True, scope="module")

FILES = (released.WEIGHTS, released.CONFIG, released.ABOUT, released.CARD, released.SUMS)


@pytest.fixture
def make_run(tiny_config, tmp_path):
    """make_run(name, ...) -> the folder of a finished run of a network, whose weights are random."""

    def make(name: str = SUPERVISED, generated: bool = True, **sections: dict) -> Path:
        sizes = {"grid": [2, 2]} if "grid" in NETWORKS[name].settings.model_fields else {}
        sections["model"] = sizes | sections.get("model", {})
        config = config_files.build(json.loads(tiny_config(name, **sections).read_text()), "test")
        run = tmp_path / "run"
        run.mkdir()
        weak = NETWORKS[name].supervision == "weak"
        learned = fingerprint(config.data.folder, config.label_regime)
        learned.get("visual_feature.h5", {}).pop("shape", None)  # whose grid is none that videos give
        checkpoint = Checkpoint(
            build_model(config.model).state_dict(),
            config=config.model_dump(),
            epoch=1,
            metrics={"epoch": 1, "test_accuracy": 50.0},
            localization={"localize": "gate", "threshold": 0.25, "chosen_by": "the test"} if weak else {},
            data=learned or {"train_order.h5": {"shape": [24]}},
            categories=NAMES,
        )
        checkpoint.save(run / BEST)
        checkpoint.save(run / BEST_VAL)
        line = {"epoch": 1, "val_accuracy": 40.0, "test_accuracy": 50.0}
        (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        write_evaluation(run / "eval-test", 12, NAMES, checkpoint=str(run / BEST), epoch=1, generated=generated)
        return run

    return make


def release(run: Path, folder: Path, *flags: str) -> Path:
    assert main([str(run), "--to", str(folder), *flags]) == EXIT_DONE
    return folder


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_read_as_it_was(name, make_run, tmp_path):
    run = make_run(name)
    folder = release(run, tmp_path / "released")
    ours, theirs = (vars(Checkpoint.load(path)) | {"path": None} for path in (folder, run / BEST))
    theirs["network"] = dict(sorted(theirs["network"].items()))
    assert difference(ours, theirs) is None
    network = network_of(Checkpoint.load(folder))[0]
    assert getattr(network, "early", None) == getattr(network_of(Checkpoint.load(run / BEST))[0], "early", None)
    assert f"`{name}`" in (folder / released.CARD).read_text()


@pytest.mark.parametrize("name", [SUPERVISED, WEAK])
def test_the_mains_evaluate_it_and_train_from_it(name, tiny_config, tmp_path, capsys):
    """With a threshold that was chosen while training, where there is one."""
    rule = {"localize": "combined"} if name == WEAK else {}
    config = tiny_config(name, train={"n_epoch": 1}, eval=rule)
    assert MAINS[name](["--config", str(config), "--gpu", "cpu"]) == EXIT_DONE
    run, folder = tmp_path / "run", release(tmp_path / "run", tmp_path / "a" / "new" / "released")
    arguments = ["--config", str(folder / released.CONFIG), "--resume", str(folder), "--gpu", "cpu"]
    capsys.readouterr()
    assert MAINS[name]([*arguments, "--evaluate"]) == EXIT_DONE
    assert "choosing one" not in capsys.readouterr().out
    assert (folder / "eval-test" / results.PREDICTIONS).read_text() == (
        run / "eval-test" / results.PREDICTIONS
    ).read_text()
    again = tmp_path / "again"
    assert MAINS[name]([*arguments, "--snapshot_pref", str(again)]) == EXIT_DONE
    assert f"{folder} holds weights only: a new run starts from them, in {again}" in capsys.readouterr().out
    assert "- **Commit**: " in (folder / released.CARD).read_text()
    assert "--config" in (folder / released.CARD).read_text()


def test_timelines_of_videos_read_it(make_run, tmp_path):
    run = make_run(WEAK, model={"video_inputdim": 512, "audio_inputdim": 128})
    folder = release(run, tmp_path / "released")
    loaded = load_network(folder)
    assert loaded.names == NAMES
    assert loaded.localization.threshold == 0.25
    assert "utils.predict VIDEO" in (folder / released.CARD).read_text()


def test_timelines_are_not_offered_where_the_features_are_none_of_videos(make_run, tmp_path):
    run = make_run(WEAK, model={"video_inputdim": 512, "audio_inputdim": 128})
    checkpoint = Checkpoint.load(run / BEST)
    checkpoint.data["visual_feature.h5"] = {"shape": [40, 10, 1, 1, 512]}  # CLIP's, without a grid
    checkpoint.save(run / BEST)
    assert "utils.predict" not in (release(run, tmp_path / "released") / released.CARD).read_text()


def test_the_card_says_what_it_is(make_run, tmp_path):
    run = make_run()
    card = (release(run, tmp_path / "released", "--license", "cc-by-4.0") / released.CARD).read_text()
    empty, front, body = card.split("---\n", 2)
    assert empty == ""
    about = yaml.safe_load(front)
    assert about["license"] == "cc-by-4.0"
    assert {"audio-visual-event-localization", SUPERVISED, "generated-data"} <= set(about["tags"])
    (result,) = about["model-index"][0]["results"]
    metrics = json.loads((run / "eval-test" / results.METRICS).read_text())
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    expected = {"accuracy": metrics["accuracy"], **metrics["naming_and_timing"]}
    assert values == pytest.approx(expected, abs=0.006)
    assert result["dataset"]["type"] == "generated"
    assert "Trained on generated clips" in body
    assert "24 generated clips" in body
    assert "best epoch **on the test split**" in body
    assert "authors' protocol 50.00 % (epoch 1), validation protocol 50.00 % (epoch 1)" in body
    assert f"{metrics['accuracy']:.2f} (" in body
    assert "Not recorded" in body  # this run has no run.json


def test_data_that_are_not_generated_are_not_called_so(make_run, tmp_path, tiny_data):
    mine = tmp_path / "mine"
    run = make_run(generated=False, data={"root": str(mine)})
    assert "generated" not in (release(run, tmp_path / "released") / released.CARD).read_text().lower()
    mine.symlink_to(tiny_data)  # generated clips, which came there since
    assert "generated" not in (release(run, tmp_path / "other") / released.CARD).read_text().lower()


def test_the_validation_protocols_weights(make_run, tmp_path, capsys):
    run = make_run()
    error = refused(capsys, main, run, "--to", tmp_path / "released", "--protocol", "validation")
    assert f"--resume {run / BEST_VAL} --output " in error
    output = error.partition("--output ")[2].partition("`")[0]
    write_evaluation(Path(output), 12, NAMES, checkpoint=str(run / BEST_VAL), epoch=1)
    card = (release(run, tmp_path / "released", "--protocol", "validation") / released.CARD).read_text()
    assert "chosen by the validation protocol" in card


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_named(name, make_run, tmp_path, capsys):
    run = make_run()
    for number, fraction in enumerate((0, 0.5, 0.999)):
        folder = release(run, tmp_path / f"released{number}")
        flip(folder / name, fraction)
        capsys.readouterr()
        config = str(run.parent / f"{SUPERVISED}.json")
        error = refused(
            capsys, MAINS[SUPERVISED], "--config", config, "--evaluate", "--resume", str(folder), "--gpu", "cpu"
        )
        assert name in error
        assert not (folder / "eval-test").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name, make_run, tmp_path, capsys):
    folder = release(make_run(), tmp_path / "released")
    (folder / name).unlink()
    config = str(tmp_path / f"{SUPERVISED}.json")
    capsys.readouterr()
    assert MAINS[SUPERVISED](["--config", config, "--evaluate", "--resume", str(folder), "--gpu", "cpu"]) == 2
    assert f"{folder / name}: no such file" in capsys.readouterr().err


def test_a_file_too_large_to_be_text_is_not_read(make_run, tmp_path):
    folder = release(make_run(), tmp_path / "released")
    os.truncate(folder / released.CONFIG, 3 * 2**30)
    with pytest.raises(UserError, match=r"config\.json: is 3\.0 GiB"):
        released.read(folder)


def test_other_files_beside_it_are_left_alone(make_run, tmp_path):
    folder = release(make_run(), tmp_path / "released")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    assert Checkpoint.load(folder).ours


@pytest.mark.parametrize("there", ["a file", "somebody's folder", "a release"])
def test_what_is_there_is_not_overwritten(there, make_run, tmp_path, capsys):
    run, folder = make_run(), tmp_path / "released"
    if there == "a file":
        folder.write_text("mine")
    elif there == "a release":
        release(run, folder)
    else:
        folder.mkdir()
        (folder / "README.md").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert "is there already" in refused(capsys, main, run, "--to", folder)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_empty_folder_is_as_good_as_none(make_run, tmp_path):
    (tmp_path / "released").mkdir()
    assert Checkpoint.load(release(make_run(), tmp_path / "released")).ours


def test_a_full_disk_leaves_nothing(make_run, tmp_path, capsys, monkeypatch):
    run = make_run()
    before = sorted(tmp_path.rglob("*"))

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "the disk is full" in refused(capsys, main, run, "--to", tmp_path / "a" / "new" / "folder")
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_no_run_is_refused(make_run, tmp_path, capsys):
    run, to = make_run(), tmp_path / "released"
    assert "no such checkpoint" in refused(capsys, main, tmp_path / "nowhere", "--to", to)
    assert "no such checkpoint" in refused(capsys, main, run / "eval-test", "--to", to)
    metrics = json.loads((run / "eval-test" / results.METRICS).read_text())
    (run / "eval-test" / results.METRICS).write_text(json.dumps(metrics | {"epoch": 2}))
    assert "holds no evaluation of its best.pth.tar" in refused(capsys, main, run, "--to", to)
    (run / BEST).write_bytes(b"not a checkpoint")
    assert "is not a checkpoint" in refused(capsys, main, run, "--to", to)
    assert not to.exists()

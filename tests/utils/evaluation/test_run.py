"""An evaluation's folder is replaced as a whole, and no number comes of data or weights that can't give one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import helpers_bad
import numpy as np
import pytest
import torch
from helpers_bad import MAINS, one_line, refused

from dataset import files, loading
from utils.base.checkpoint import Checkpoint
from utils.base.paths import BEST, LAST
from utils.config.settings import SUPERVISED, WEAK
from utils.evaluation import results
from utils.evaluation.protocols import EPOCHS, read_epochs
from utils.recorder.compare import compare
from utils.report import page

quick = pytest.fixture(helpers_bad.quick, autouse=True, scope="module")


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory) -> dict[str, Path]:
    """A run of one epoch of each supervision."""
    folders = {}
    for name, main in MAINS.items():
        folders[name] = tmp_path_factory.mktemp(name) / "run"
        config = {
            "model": {"name": name, "video_inputdim": 16, "audio_inputdim": 8, "d_model": 16, "categories": 3},
            "data": {"root": str(tiny_data)},
            "train": {"n_epoch": 1, "batch_size": 10, "snapshot_pref": str(folders[name])},
        }
        path = folders[name].with_name("config.json")
        path.write_text(json.dumps(config))
        assert main(["--config", str(path), "--gpu", "cpu"]) == 0
    return folders


@pytest.fixture
def evaluate(trained, tmp_path):
    """evaluate(name, *flags) -> (exit code, metrics or None), the results in tmp_path / "out"."""

    def start(name: str = SUPERVISED, *flags: str, checkpoint: Path | None = None) -> tuple[int, dict | None]:
        config = trained[name].with_name("config.json")
        command = ["--config", str(config), "--gpu", "cpu", "--evaluate", "--output", str(tmp_path / "out")]
        code = MAINS[name]([*command, "--checkpoint", str(checkpoint or trained[name] / BEST), *flags])
        path = tmp_path / "out" / results.METRICS
        return code, json.loads(path.read_text()) if path.exists() else None

    return start


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- The features ---


@pytest.mark.parametrize("name", [SUPERVISED, WEAK])
def test_a_run_reads_each_split_once_and_evaluates_as_later(trained, tmp_path, monkeypatch, name):
    read, real = [], loading.read_clips
    note = lambda data, *args, **kwargs: read.append(data.split) or real(data, *args, **kwargs)  # noqa: E731
    monkeypatch.setattr(loading, "read_clips", note)
    run = tmp_path / "run"
    assert MAINS[name](["--config", str(trained[name].with_name("config.json")), "--snapshot_pref", str(run)]) == 0
    assert sorted(read) == ["test", "train", "val"]
    own = {file: (run / "eval-test" / file).read_text() for file in (results.METRICS, results.PREDICTIONS)}
    assert MAINS[name](["--config", str(run / "config.json"), "--evaluate"]) == 0
    assert own == {file: (run / "eval-test" / file).read_text() for file in own}


# --- The folder ---


def written(report: str, picture: str):
    """What stands for a report: a page, a figure and TensorBoard's file."""

    def write(folder: Path) -> None:
        (folder / results.REPORT).write_text(report)
        (folder / "figures").mkdir()
        (folder / "figures" / picture).write_text(report)
        (folder / "figures" / f"events.out.tfevents.{report}").write_text(report)

    return write


def test_a_new_evaluation_takes_the_place_of_all_of_an_older_one(evaluate, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(page, "write", written("old", "old.png"))
    assert evaluate()[0] == 0
    (out / "notes.txt").write_text("mine")
    (out / "figures" / "drawn.svg").write_text("mine")
    monkeypatch.setattr(page, "write", written("new", "new.png"))
    assert evaluate(SUPERVISED, "--split", "val")[0] == 0
    figures = {"figures/new.png", "figures/events.out.tfevents.new", "figures/drawn.svg"}
    assert contents(out).keys() == {
        results.METRICS, results.PREDICTIONS, results.ATTENTION, results.REPORT, "notes.txt", *figures
    }  # fmt: skip
    assert (out / results.REPORT).read_text() == "new"
    assert json.loads((out / results.METRICS).read_text())["split"] == "val"


@pytest.mark.parametrize("moment", ["predictions", "attention", "report", "exchange"])
@pytest.mark.parametrize("earlier", [True, False])
def test_what_breaks_off_leaves_what_was_there(earlier, moment, evaluate, tmp_path, monkeypatch, capfd):
    out = tmp_path / "out"
    if earlier:
        monkeypatch.setattr(page, "write", written("old", "old.png"))
        assert evaluate()[0] == 0
        (out / "notes.txt").write_text("mine")
    before = contents(tmp_path)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(page, "write", written("new", "new.png"))
        if moment == "predictions":
            patch.setattr(results, "write_text", full)
        elif moment == "attention":
            patch.setattr(results.np, "ascontiguousarray", full)
        elif moment == "report":
            patch.setattr(page, "write", full)
        else:
            calls, rename = [], results.os.rename
            patch.setattr(
                results.os, "rename", lambda *args: full() if calls.append(1) or len(calls) == 6 else rename(*args)
            )
        assert evaluate(SUPERVISED, "--split", "val")[0] == 2
    assert "the disk is full" in one_line(capfd)
    assert contents(tmp_path) == before
    assert out.exists() == earlier


def test_a_killed_evaluation_leaves_the_older_one_and_the_next_cleans_up(evaluate, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    assert evaluate()[0] == 0
    before = contents(tmp_path / "out")

    def killed(folder: Path) -> None:
        # A killed process removes nothing: what it leaves is put there by hand.
        shutil.copytree(folder.parent, folder.parent.with_name(".evaluation.abcd1234.part"))
        raise Killed

    monkeypatch.setattr(page, "write", killed)
    with pytest.raises(Killed):
        evaluate()
    assert {name: content for name, content in contents(tmp_path / "out").items() if ".part" not in name} == before
    monkeypatch.setattr(page, "write", lambda folder: None)
    assert evaluate()[0] == 0
    assert contents(tmp_path / "out").keys() == before.keys()


def test_a_folder_in_the_way_of_a_file_is_named(evaluate, tmp_path, capfd):
    (tmp_path / "out" / results.PREDICTIONS / "mine").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    assert evaluate()[0] == 2
    assert "in the way" in capfd.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


# --- Numbers that aren't any ---


def test_weights_that_are_no_numbers_are_not_evaluated(evaluate, trained, tmp_path, capfd):
    checkpoint = Checkpoint.load(trained[SUPERVISED] / BEST)
    checkpoint.network["event_classifier.bias"][0] = float("nan")
    checkpoint.save(tmp_path / "nan.pth.tar")
    assert evaluate(checkpoint=tmp_path / "nan.pth.tar") == (2, None)
    assert "nan.pth.tar: its weights are not finite numbers in event_classifier.bias" in one_line(capfd)


@pytest.mark.parametrize("name", MAINS)
def test_an_output_that_is_no_number_names_checkpoint_and_clips(name, evaluate, trained, tmp_path, capfd):
    checkpoint = Checkpoint.load(trained[name] / BEST)
    for weight in checkpoint.network.values():
        weight.mul_(1e30)
    checkpoint.save(tmp_path / "huge.pth.tar")
    assert evaluate(name, checkpoint=tmp_path / "huge.pth.tar") == (2, None)
    assert "huge.pth.tar: the network's output is not finite in 8 of 8 clips of the test split, rows " in one_line(
        capfd
    )


# --- Categories ---


@pytest.fixture
def renumbered(tiny_data, tmp_path) -> Path:
    """The tiny data, whose Annotations.txt names the categories in another order, with labels numbered so."""
    folder = tmp_path / "renumbered"
    shutil.copytree(tiny_data, folder)
    lines = (folder / files.ANNOTATIONS).read_text().splitlines()
    names = list(dict.fromkeys(line.split("&")[0] for line in lines))
    swapped = dict(zip(names, [*names[1:], names[0]], strict=True))
    changed = [f"{swapped[line.split('&')[0]]}&{line.partition('&')[2]}" for line in lines]
    (folder / files.ANNOTATIONS).write_text("\n".join(changed) + "\n")
    return folder


@pytest.mark.parametrize("name", MAINS)
def test_other_numbers_of_the_same_categories_are_matched_by_name(
    name, evaluate, tiny_data, renumbered, tmp_path, capsys
):
    """Every clip has another category there, as if each "drum" were a "kettle": the network must be wrong so often."""
    assert evaluate(name)[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / results.PREDICTIONS).read_text().splitlines()]
    assert evaluate(name, "--data_root", str(renumbered))[0] == 0
    assert "they are matched by name" in capsys.readouterr().out
    again = [json.loads(line) for line in (tmp_path / "out" / results.PREDICTIONS).read_text().splitlines()]
    assert [line["prediction"] for line in again] == [line["prediction"] for line in lines]
    assert [line["category"] for line in again] == [line["category"] for line in lines]
    target = np.array([line["target"] for line in lines])
    assert [line["target"] for line in again] == np.where(target < 3, (target + 1) % 3, 3).tolist()


def test_other_categories_are_refused(evaluate, renumbered, capfd):
    text = (renumbered / files.ANNOTATIONS).read_text()
    name = text.partition("&")[0]
    (renumbered / files.ANNOTATIONS).write_text(text.replace(f"{name}&", "Nothing of the kind&"))
    assert evaluate(SUPERVISED, "--data_root", str(renumbered)) == (2, None)
    assert "was trained on other categories" in one_line(capfd)


def test_a_folder_without_names_takes_the_checkpoints(evaluate, trained, tiny_data, tmp_path):
    folder = tmp_path / "nameless"
    shutil.copytree(tiny_data, folder)
    (folder / files.ANNOTATIONS).unlink()
    named = evaluate()[1]
    assert named["categories"] == Checkpoint.load(trained[SUPERVISED] / BEST).categories
    nameless = evaluate(SUPERVISED, "--data_root", str(folder))[1]
    of_folder = dict.fromkeys(("data_root", "data"))
    assert nameless | of_folder == named | of_folder


def test_a_checkpoint_without_names_is_evaluated_as_before(evaluate, trained, renumbered, tmp_path):
    checkpoint = Checkpoint.load(trained[SUPERVISED] / BEST)
    assert len(checkpoint.categories) == 3
    checkpoint.categories = None
    checkpoint.save(tmp_path / "older.pth.tar")
    code, metrics = evaluate(SUPERVISED, "--data_root", str(renumbered), checkpoint=tmp_path / "older.pth.tar")
    assert code == 0
    first = (renumbered / files.ANNOTATIONS).read_text().partition("&")[0]
    assert metrics["categories"][0] == first


# --- Thresholds ---


def test_a_threshold_depends_on_neither_batches_nor_placement(evaluate, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.evaluation.threshold.CLIPS", 20)  # of 30
    found = set()
    for size in ("1", "7", "16", "64"):
        code, metrics = evaluate(WEAK, "--localize", "relative", "--test_batch_size", size)
        assert code == 0
        found.add((metrics["threshold"], metrics["chosen_by"]))
    assert len(found) == 1
    assert "training clips with an event" in found.pop()[1]


def test_the_threshold_of_a_training_is_that_of_its_evaluation(tiny_config, tmp_path):
    """It is chosen in training on resident features, and in the evaluation of other weights on streamed ones."""
    config = str(tiny_config(WEAK, eval={"localize": "gate"}, train={"n_epoch": 1}, data={"placement": "host"}))
    assert MAINS[WEAK](["--config", config, "--gpu", "cpu"]) == 0
    best = tmp_path / "run" / BEST
    checkpoint = Checkpoint.load(best)
    chosen = checkpoint.localization["threshold"]
    checkpoint.localization = {}
    checkpoint.save(best)
    command = ["--config", config, "--gpu", "cpu", "--evaluate", "--test_batch_size", "3"]
    assert MAINS[WEAK](command) == 0
    assert json.loads((tmp_path / "run" / "eval-test" / results.METRICS).read_text())["threshold"] == chosen


def test_a_clip_that_is_no_number_moves_no_threshold(evaluate, tiny_data, tmp_path, capfd):
    folder = tmp_path / "bad"
    shutil.copytree(tiny_data, folder)
    with h5py.File(folder / files.VISUAL, "r+") as file:
        file[files.KEY][0] = 3e38  # finite, but nothing that is made of it is
    assert evaluate(WEAK, "--localize", "relative", "--data_root", str(folder)) == (2, None)
    assert "row" in one_line(capfd)


# --- Scores ---


def test_a_network_without_scores_has_none_in_its_results(tiny_config, tmp_path):
    config = tiny_config(model={"time_level": False}, train={"n_epoch": 1})
    assert MAINS[SUPERVISED](["--config", str(config), "--gpu", "cpu"]) == 0
    out = tmp_path / "run" / "eval-test"
    line = json.loads((out / results.PREDICTIONS).read_text().splitlines()[0])
    assert list(line) == ["index", "id", "prediction", "target", "event_probability", "category"]
    metrics = json.loads((out / results.METRICS).read_text())
    assert list(metrics["calibration"]) == ["event_probability"]
    assert metrics["localization"] == metrics["reading"]


# --- Going on ---


def test_fewer_epochs_than_were_done_are_no_result(trained, tmp_path, capfd):
    run = tmp_path / "run"
    shutil.copytree(trained[SUPERVISED], run)
    config = json.loads(trained[SUPERVISED].with_name("config.json").read_text())
    config["train"] |= {"snapshot_pref": str(run), "n_epoch": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = ["--config", str(tmp_path / "config.json"), "--gpu", "cpu", "--resume", "last"]
    assert MAINS[SUPERVISED](command) == 0
    before = contents(run)
    capfd.readouterr()
    assert "is at epoch 2, and n_epoch is 1" in refused(capfd, MAINS[SUPERVISED], *command, "--n_epoch", "1")
    assert contents(run) == before


def test_an_epoch_that_was_never_saved_is_no_result(trained, evaluate, tmp_path):
    """A run that is killed between the two has a line of an epoch whose weights are gone."""
    run = shutil.copytree(trained[SUPERVISED], tmp_path / "run")
    (saved,) = read_epochs(run)
    with open(run / EPOCHS, "a") as file:
        file.write(json.dumps({**saved, "epoch": 2, "test_accuracy": 99.0, "val_accuracy": 99.0}) + "\n")
    _, metrics = evaluate(SUPERVISED, checkpoint=run / BEST)
    assert {chosen["epoch"] for chosen in metrics["protocols"].values()} == {1}
    assert "epochs: 1 each" in compare(run, trained[SUPERVISED])


@pytest.mark.parametrize("told_by", ["checkpoint", "run.json"])
def test_a_run_on_other_data_does_not_go_on(told_by, trained, tiny_data, tmp_path, capfd):
    run, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(trained[SUPERVISED], run)
    shutil.copytree(tiny_data, data)
    if told_by == "checkpoint":
        (run / "run.json").unlink()
    else:
        content = torch.load(run / LAST, weights_only=True)
        del content["data"]  # as an earlier version wrote it
        torch.save(content, run / LAST)
    config = trained[SUPERVISED].with_name("config.json")
    command = ["--config", str(config), "--gpu", "cpu", "--resume", str(run / LAST), "--n_epoch", "2"]
    with h5py.File(data / files.AUDIO, "r+") as file:
        file[files.KEY][0, 0, 0] += 1
    error = refused(capfd, MAINS[SUPERVISED], *command, "--data_root", str(data))
    assert "was trained on other data" in error
    assert files.AUDIO in error
    assert MAINS[SUPERVISED](command) == 0

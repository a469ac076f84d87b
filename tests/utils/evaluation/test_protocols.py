"""Which epoch each protocol chooses of `metrics.jsonl`, and what a line that a kill cut short means."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import helpers_bad
import pytest
from helpers_bad import MAINS

from dataset import files
from utils.base.errors import UserError
from utils.base.paths import BEST, BEST_VAL
from utils.config.settings import SUPERVISED
from utils.evaluation import protocols, results
from utils.recorder import __main__ as recorder_command

quick = pytest.fixture(helpers_bad.quick, autouse=True, scope="module")

EPOCHS = [
    {"epoch": 1, "val_accuracy": 50.0, "test_accuracy": 60.0},
    {"epoch": 2},  # not evaluated
    {"epoch": 3, "val_accuracy": 50.0, "test_accuracy": 70.0},
    {"epoch": 4, "val_accuracy": 40.0, "test_accuracy": 70.0},
]


def write(folder: Path, epochs: list[dict], rest: str = "") -> None:
    (folder / protocols.EPOCHS).write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs) + rest)


def test_the_earlier_of_equal_epochs_is_chosen(tmp_path):
    write(tmp_path, EPOCHS)
    assert protocols.protocols(tmp_path) == {"authors": EPOCHS[2], "validation": EPOCHS[0]}


def test_nothing_evaluated_is_nothing_to_choose_from(tmp_path):
    assert protocols.protocols(tmp_path) is None
    write(tmp_path, EPOCHS[1:2])
    assert protocols.protocols(tmp_path) is None


def test_without_a_val_split_there_is_no_validation_protocol(tmp_path):
    epochs = [{"epoch": 1, "test_accuracy": 60.0}, {"epoch": 2, "test_accuracy": 59.0}]
    write(tmp_path, epochs)
    assert protocols.protocols(tmp_path) == {"authors": epochs[0], "validation": None}
    assert "not available" in protocols.in_words(protocols.best_epochs(epochs))[1]


AUC = {"sure": 80.0, "low": 45.0, "high": 55.0, "inverse": 44.9, "above": 55.1, "unknown": None, "odd": "50"}


def test_scores_that_separate_nothing_are_named(tmp_path):
    best = protocols.best_epochs(EPOCHS)  # val chose epoch 1, test chose epoch 3
    write(tmp_path, [{**epoch, "val_auc": AUC if epoch["epoch"] == 1 else {"sure": 50.0}} for epoch in EPOCHS])
    said = protocols.useless_scores(tmp_path, best)
    assert said.startswith("warning: no better than chance")
    assert said.endswith(", at epoch 1 on the val split: low (AUC 45.0), high (AUC 55.0)")
    write(tmp_path, [{**epoch, "test_auc": AUC if epoch["epoch"] == 3 else {"sure": 50.0}} for epoch in EPOCHS])
    assert ", at epoch 3 on the test split: low (" in protocols.useless_scores(tmp_path, {"test": best["test"]})


@pytest.mark.parametrize("auc", [{}, {"val_auc": {}}, {"val_auc": {"gate": 80.0}}, {"val_auc": 50.0}])
def test_nothing_is_said_of_scores_that_separate_or_are_not_there(auc, tmp_path):
    write(tmp_path, [{**epoch, **auc} for epoch in EPOCHS])
    assert protocols.useless_scores(tmp_path, protocols.best_epochs(EPOCHS)) is None


@pytest.mark.parametrize("rest", ['{"epoch": 5, "test_accuracy": 9', "{", "\0\0\0", "5"])
def test_a_last_line_without_its_end_does_not_count(rest, tmp_path):
    write(tmp_path, EPOCHS, rest)
    assert protocols.read_epochs(tmp_path) == EPOCHS


def test_a_whole_last_line_that_an_editor_left_without_its_end_counts(tmp_path):
    write(tmp_path, EPOCHS[:1], json.dumps(EPOCHS[2]))
    assert protocols.read_epochs(tmp_path) == [EPOCHS[0], EPOCHS[2]]


@pytest.mark.parametrize(
    "line",
    ["{", "1", "null", '{"epoch": "2"}', '{"epoch": true}', '{"epoch": 2, "test_accuracy": "high"}', "[" * 10**5],
)
def test_any_other_damage_is_named(line, tmp_path):
    (tmp_path / protocols.EPOCHS).write_text(f"{json.dumps(EPOCHS[0])}\n{line}\n{json.dumps(EPOCHS[2])}\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: is damaged"):
        protocols.read_epochs(tmp_path)


def test_a_file_too_large_to_be_text_is_not_read(tmp_path):
    with (tmp_path / protocols.EPOCHS).open("wb") as file:
        file.truncate(3 * 2**30)
    with pytest.raises(UserError, match=r"metrics\.jsonl: is 3\.0 GiB"):
        protocols.read_epochs(tmp_path)


def test_a_run_whose_data_have_no_val_split(tiny_data, tiny_config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(protocols, "CHANCE", (0.0, 100.0))
    folder = tmp_path / "data"
    shutil.copytree(tiny_data, folder)
    (folder / files.order_file("val")).unlink()
    command = ["--config", str(tiny_config()), "--gpu", "cpu", "--data_root", str(folder)]
    assert MAINS[SUPERVISED]([*command, "--n_epoch", "1"]) == 0
    assert MAINS[SUPERVISED]([*command, "--n_epoch", "2", "--resume", "last"]) == 0
    out = capsys.readouterr().out
    assert "no val split" in out
    assert (
        len([line for line in out.splitlines() if line.startswith("warning: no better than chance")]) == 2
    )  # one a run
    assert "validation protocol (test accuracy at the best epoch on the val split): not available" in out
    run = tmp_path / "run"
    assert (run / BEST).exists()
    assert not (run / BEST_VAL).exists()
    chosen = json.loads((run / "eval-test" / results.METRICS).read_text())["protocols"]
    assert chosen["validation"] is None
    assert set(chosen["authors"]) == {"epoch", "test_accuracy"}
    assert recorder_command.main(["compare", str(run), str(run)]) == 0
    assert "best val accuracy: none | none" in capsys.readouterr().out

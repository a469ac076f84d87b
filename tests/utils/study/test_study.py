"""Studies: what is run, what is left alone, what goes on, and the tables."""

from __future__ import annotations

import json
import os
import queue
import re
import statistics
import sys

import pytest

import weak_main
from model import build_model
from utils.base.errors import EXIT_DONE, EXIT_USER_ERROR, UserError
from utils.study import __main__ as study_command
from utils.study import pool, table
from utils.study.runs import Run, Study, result_of
from utils.study.table import latex, markdown


@pytest.fixture
def write_study(tiny_config, tmp_path):
    """Write a study of `tiny_data` and return its path: write_study(seeds=[1], runs={...})."""

    def write(**changes: object) -> str:
        values = {
            "title": "generated data",
            "output": str(tmp_path / "study"),
            "seeds": [1, 2],
            "set": {"train": {"n_epoch": 2}},
            "runs": {"CMBS": tiny_config().name},
        }
        path = tmp_path / f"study{len(list(tmp_path.glob('study*.json')))}.json"
        path.write_text(json.dumps({**values, **changes}))
        return str(path)

    return write


def pretend(run: Run, epochs: list[tuple[float, float]], **train: object) -> None:
    """Leave what a run leaves after epochs of these (val, test) accuracies."""
    run.folder.mkdir(parents=True)
    config = run.config.model_dump()
    config["train"] |= train
    (run.folder / "config.json").write_text(json.dumps(config))
    lines = [
        {"epoch": i, "val_accuracy": val, "test_accuracy": test, "seconds": 2.0 * i}
        for i, (val, test) in enumerate(epochs, 1)
    ]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_study_runs_stops_at_nothing_and_goes_on(write_study, tmp_path, capsys):
    path = write_study(seeds=[1], set={"train": {"n_epoch": 1}})
    assert study_command.main([path, "--gpu", "cpu"]) == EXIT_DONE
    table = (tmp_path / "study" / "table.md").read_text()
    assert "1/1 CMBS, seed 1" in capsys.readouterr().out
    out = tmp_path / "study" / "cmbs" / "seed-1.out"
    once = out.read_text()

    assert study_command.main([path, "--gpu", "cpu"]) == EXIT_DONE
    assert out.read_text() == once  # it is finished: nothing ran
    assert (tmp_path / "study" / "table.md").read_text() == table

    longer = write_study(seeds=[1], set={"train": {"n_epoch": 2}})
    assert study_command.main([longer, "--gpu", "cpu"]) == EXIT_DONE
    assert "going on after epoch 1" in out.read_text().removeprefix(once)
    lines = [json.loads(line) for line in (out.parent / "seed-1" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert f"{max(line['test_accuracy'] for line in lines):.2f}" in (tmp_path / "study" / "table.md").read_text()


def test_a_failed_run_is_named_with_its_reason(write_study, tmp_path, capsys):
    path = write_study(seeds=[1], set={"data": {"root": str(tmp_path / "nowhere")}})
    assert study_command.main([path, "--gpu", "cpu"]) == EXIT_USER_ERROR
    error = capsys.readouterr().err
    assert re.search(r"CMBS, seed 1 ended with exit code 2: error: .*nowhere", error)
    assert error.count("\n") == 1


def test_both_protocols_mean_and_deviation(write_study):
    path = write_study(seeds=[1, 2, 3], published={"CMBS": 79.3})
    runs = Study(path).runs
    pretend(runs[0], [(50.0, 60.0), (40.0, 70.0)])
    pretend(runs[1], [(50.0, 64.0), (50.0, 66.0)])  # of two equal epochs the first counts
    assert result_of(runs[0]) == (70.0, 60.0, 3.0)
    assert result_of(runs[1]) == (66.0, 64.0, 3.0)
    assert result_of(runs[2]) is None
    header, body = table.table([Study(path)])
    deviation = statistics.stdev([70, 66])
    parameters = sum(p.numel() for p in build_model(runs[0].config.model).parameters()) / 1e6
    assert body == [
        [
            "CMBS",
            f"{parameters:.2f} M",
            f"68.00 ± {deviation:.2f} (2 of 3 seeds)",
            "62.00 ± 2.83 (2 of 3 seeds)",
            "3.0",
            "79.3",
        ]
    ]
    assert header[0] == "network"
    assert header[-1] == "published"


def test_an_unfinished_run_has_no_result(write_study):
    run = Study(write_study()).runs[0]
    pretend(run, [(50.0, 60.0)])
    assert result_of(run) is None
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "val')  # killed while writing
    assert result_of(run) is None


def test_results_of_other_settings_are_refused(write_study):
    run = Study(write_study()).runs[0]
    pretend(run, [(50.0, 60.0), (60.0, 60.0)], lr=0.1)
    with pytest.raises(UserError, match=r"train\.lr"):
        result_of(run)


def test_studies_side_by_side(write_study, tiny_config, tmp_path):
    first, second = write_study(), write_study(title="AVE", output=str(tmp_path / "ave"))
    for run in Study(first).runs:
        pretend(run, [(50.0, 60.0), (60.0, 61.0)])
    assert study_command.main([first, second, "--table"]) == EXIT_DONE
    text = (tmp_path / "study" / "table.md").read_text()
    header, rule, line = text.splitlines()
    assert header.count("|") == rule.count("|") == line.count("|")
    assert "61.00 ± 0.00" in line
    assert line.count("not run yet") == 2
    assert "AVE: authors' protocol" in header


def test_runs_side_by_side_share_the_cores(write_study, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    run = Study(write_study()).runs[0]
    run.out.parent.mkdir(parents=True)
    asked = [sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"]
    assert pool._Pool(queue.SimpleQueue(), 1, at_a_time=2)._call(run, asked) == 0
    assert run.out.read_text() == "4\n"


def test_readings_take_the_weights_of_a_run(write_study, tiny_config, tmp_path, monkeypatch):
    def call(pool, run, arguments):  # in this process: starting one costs seconds
        return weak_main.main(arguments[2:])

    monkeypatch.setattr(pool._Pool, "_call", call)
    weak = tiny_config("weak_main_model").name
    relative = tmp_path / "relative.json"
    relative.write_text(json.dumps({"extends": weak, "eval": {"localize": "relative"}}))
    path = write_study(seeds=[1], runs={"weak": weak}, readings={"relative": ["weak", relative.name]})
    trained, read = Study(path).runs
    assert weak_main.main(["--config", str(tmp_path / weak), "--seed", "1", "--n_epoch", "2", "--gpu", "cpu",
                           "--snapshot_pref", str(trained.folder)]) == EXIT_DONE  # fmt: skip
    assert result_of(read) is None
    assert study_command.main([path]) == EXIT_DONE
    for split, accuracy in zip(("best", "best-val"), result_of(read)[:2], strict=True):
        metrics = json.loads((read.folder / split / "metrics.json").read_text())
        assert metrics["localize"] == "relative"
        assert metrics["checkpoint"] == str(trained.folder / f"{split}.pth.tar")
        assert metrics["accuracy"] == accuracy
    written = (tmp_path / "study" / "table.md").read_text()
    parameters = table._cells(table.rows_of(Study(path))["relative"])[0]
    assert f"| relative | {parameters} | {result_of(read).authors:.2f} |" in written

    (trained.folder / "best.pth.tar").touch()  # newer weights: the evaluation is of older ones
    assert result_of(read) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"readings": {"b": ["none", "supv_main_model.json"]}}, "none of its runs"),
        ({"seeds": []}, "'seeds'"),
        ({"sedes": [1]}, "'sedes'"),
        ({"runs": {"a": "none.json"}}, "no such config"),
        ({"runs": {"a b": "supv_main_model.json", "A-B": "supv_main_model.json"}}, "rename one"),
        ({"published": {"other": 1.0}}, "none of its runs"),
        ({"set": {"train": {"epochs": 3}}}, "train.epochs"),
    ],
)
def test_what_is_wrong_in_a_study(changes, message, write_study, capsys):
    assert study_command.main([write_study(**changes), "--table"]) == EXIT_USER_ERROR
    assert message in capsys.readouterr().err


def test_tables_are_well_formed():
    header, body = ["network", "s/epoch_%"], [["a & b", "1.0 ± 0.5"]]
    assert markdown(header, body) == "| network | s/epoch_% |\n| --- | ---: |\n| a & b | 1.0 ± 0.5 |\n"
    text = latex(header, body)
    assert r"network & s/epoch\_\% \\" in text
    assert r"a \& b & 1.0 $\pm$ 0.5 \\" in text
    assert text.startswith(r"\begin{tabular}{lr}")

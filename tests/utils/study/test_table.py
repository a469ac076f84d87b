"""The table of a study: what is counted, what is left out, and what stands beside the numbers."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from helpers_bad import refused
from helpers_runs import pretend, pretend_result

from dataset import files, fingerprint
from model import NETWORKS, build_model
from utils.base.errors import EXIT_DONE, UserError
from utils.evaluation.clip_scores import SCORES
from utils.evaluation.protocols import NAMING_AND_TIMING
from utils.study import __main__ as study_command
from utils.study.results import result_of
from utils.study.runs import Study
from utils.study.table import naming_and_timing, notes_of, rows_of, table
from utils.training import result


@pytest.fixture
def write_study(write_study):
    return partial(write_study, set={"train": {"n_epoch": 1}})


@pytest.fixture
def two_networks(tiny_config) -> dict[str, str]:
    return {"CMBS": tiny_config().name, "CMRAN": tiny_config("cmran_supv").name}


def columns(*paths: str) -> dict[str, list[str]]:
    """The table's cells by their column's header."""
    header, body = table([rows_of(Study(path)) for path in paths])
    return {name: [line[index] for line in body] for index, name in enumerate(header)}


def test_the_result_files_of_runs_are_enough(write_study, tiny_data):
    path = write_study()
    first, second = Study(path).runs
    pretend_result(first, [60.0], [50.0])
    assert result_of(first) == (60.0, 50.0, 2.0)
    assert result_of(second) is None
    pretend_result(second, [70.0], None)
    assert result_of(second) == (70.0, None, 2.0)
    assert columns(path)["generated data: authors' protocol"] == [f"65.00 ± {statistics.stdev([60, 70]):.2f}"]
    assert columns(path)["generated data: validation protocol"] == ["not available"]
    longer = write_study(set={"train": {"n_epoch": 2}})
    assert [result_of(run) for run in Study(longer).runs] == [None, None]


@pytest.mark.parametrize("flag", ["--status", "--table"])
def test_what_finished_runs_have_noted_is_told_without_torch(flag, write_study):
    """Importing it takes seconds."""
    path = write_study()
    for run in Study(path).runs:
        pretend_result(run, [60.0], [50.0], parameters=1_230_000)
    code = (
        f"import sys; from utils.study.__main__ import main; main([{path!r}, {flag!r}]); print('torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ("1.23 M" if flag == "--table" else "seed 2: done") in said
    assert said.endswith("False\n")


def test_a_result_that_does_not_belong_to_its_row_is_refused(write_study, tiny_data):
    path = write_study()
    first, second = Study(path).runs
    pretend_result(first, [60.0], [50.0])
    other = second.config.model_dump()
    other["train"]["lr"] = 0.1
    pretend_result(second, [70.0], [50.0], config=other)
    with pytest.raises(UserError, match=r"train\.lr"):
        table([rows_of(Study(path))])
    data = fingerprint.fingerprint(tiny_data, None)
    data[files.LABELS] = {**data[files.LABELS], "sha256": "0"}
    pretend_result(second, [70.0], [50.0], data=data)
    with pytest.raises(UserError, match=f"was trained on other data than .*: {files.LABELS}"):
        table([rows_of(Study(path))])
    (second.folder / result.FILE).write_text("{")
    with pytest.raises(UserError, match=result.FILE):
        table([rows_of(Study(path))])


def test_both_protocols_mean_and_deviation_of_runs_without_result_files(write_study):
    path = write_study(seeds=[1, 2, 3], published={"CMBS": 79.3}, set={"train": {"n_epoch": 2}})
    runs = Study(path).runs
    pretend(runs[0], [(50.0, 60.0), (40.0, 70.0)])
    pretend(runs[1], [(50.0, 64.0), (50.0, 66.0)])  # of two equal epochs the first counts
    assert result_of(runs[0]) == (70.0, 60.0, 3.0)
    assert result_of(runs[1]) == (66.0, 64.0, 3.0)
    assert result_of(runs[2]) is None
    parameters = sum(p.numel() for p in build_model(runs[0].config.model).parameters()) / 1e6
    assert columns(path) == {
        "network": ["CMBS"],
        "published": ["79.3"],
        "generated data: parameters": [f"{parameters:.2f} M"],
        "generated data: authors' protocol": [f"68.00 ± {statistics.stdev([70, 66]):.2f} (2 of 3 seeds)"],
        "generated data: validation protocol": ["62.00 ± 2.83 (2 of 3 seeds)"],
        "generated data: s/epoch": ["3.0"],
    }


def test_studies_side_by_side(write_study, tmp_path):
    first, second = write_study(), write_study(output=str(tmp_path / "ave"), title="AVE")
    for run in Study(first).runs:
        pretend_result(run, [61.0], [60.0])
    assert study_command.main([first, second, "--table"]) == EXIT_DONE
    text = (tmp_path / "study" / "table.md").read_text()
    header, rule, line = text.splitlines()[:3]
    assert header.count("|") == rule.count("|") == line.count("|")
    assert "61.00 ± 0.00" in line
    assert line.count("not measured") == 2
    assert "AVE: authors' protocol" in header
    notes = text.split("\n\n")[1:]
    assert f"AVE, not measured: `python -m utils.study {second}`\n" in notes[-1]
    assert "generated data: generated clips" in text
    assert "AVE: generated clips" not in text
    tex = (tmp_path / "study" / "table.tex").read_text()
    assert tex.count(r"\\") == 2
    assert tex.rstrip().splitlines()[-1] == f"% {notes[-1].strip()}"


def test_the_interval_of_the_difference_to_the_first_row(write_study, two_networks, tmp_path):
    path = write_study(runs=two_networks)
    cmbs, cmran = Study(path).runs[:2], Study(path).runs[2:]
    rng = np.random.default_rng(0)
    first = rng.choice([40.0, 60.0, 80.0, 100.0], 400)
    for run in cmbs:
        pretend_result(run, list(first), list(first))
    for run in cmran:  # a tenth more right in every clip; and by the other protocol as many as not
        pretend_result(run, list(first - 10), list(first + rng.choice([-10.0, 10.0], 400).clip(-40, 0)))
    cells = columns(path)
    assert cells["generated data: authors' protocol, less CMBS"] == ["", "-10.00 (-10.00 to -10.00)"]
    value, low, high = map(float, re.findall(r"[+-][\d.]+", cells["generated data: validation protocol, less CMBS"][1]))
    assert low < value < high < 0
    assert high - low == pytest.approx(2 * 1.96 * 5 / np.sqrt(400), rel=0.4)


def test_rows_of_other_test_clips_are_not_compared(write_study, two_networks, tiny_data):
    path = write_study(runs=two_networks, set={"train": {"n_epoch": 1}, "data": {"root": "gone"}})
    data = fingerprint.fingerprint(tiny_data, None)
    order = files.order_file("test")
    for other, compared in ((data, True), ({**data, order: {**data[order], "sha256": "0"}}, False)):
        for run in Study(path).runs:
            pretend_result(run, [60.0, 70.0], None, data=data if run.name == "CMBS" else other)
        assert any("less CMBS" in name for name in columns(path)) == compared


def test_naming_and_timing_stand_in_a_table_of_their_own(write_study, two_networks, tmp_path):
    path = write_study(runs=two_networks)
    scores = dict.fromkeys(list(SCORES)[1:], 50.0)
    for number, run in enumerate(Study(path).runs):
        apart = {NAMING_AND_TIMING: scores | {"category_accuracy": 80.0 + number}} if run.name == "CMBS" else {}
        pretend_result(run, [60.0], [50.0], of_epoch=apart)
    header, body = naming_and_timing([rows_of(Study(path))])
    assert [name.rpartition(": ")[2] for name in header] == ["network", *list(SCORES.values())[1:]]
    assert "validation protocol" in header[1]
    assert body == [["CMBS", f"80.50 ± {statistics.stdev([80, 81]):.2f}", *["50.00 ± 0.00"] * 3]]  # an early CMRAN
    assert study_command.main([path, "--table"]) == EXIT_DONE
    assert "80.50" in (tmp_path / "study" / "table.md").read_text().split("\n\n")[1]
    assert (tmp_path / "study" / "table.tex").read_text().count(r"\begin{tabular}") == 2


def test_what_was_published_where_and_how(write_study, two_networks):
    of_cmbs = {"accuracy": 79.3, "source": "CVPR 2022", "protocol": "best epoch on test", "runs": 1}
    cells = columns(write_study(runs=two_networks, published={"CMBS": of_cmbs, "CMRAN": 77.4}))
    assert cells["published"] == ["79.3", "77.4"]
    assert cells["where and how"] == ["CVPR 2022, best epoch on test, 1 run", ""]
    cells = columns(write_study(runs=two_networks, published={"CMRAN": {"accuracy": 77.4, "runs": 5}}))
    assert cells["published"] == ["", "77.4"]
    assert cells["where and how"] == ["", "5 runs"]


@pytest.mark.parametrize("wrong", [{"accuracy": "79"}, {"source": "x"}, {"accuracy": 1.0, "seeds": 3}, 101.0, True])
def test_a_published_number_that_is_none(wrong, write_study, capsys):
    assert "published.CMBS" in refused(capsys, study_command.main, write_study(published={"CMBS": wrong}), "--table")


def test_what_each_network_learns_from_where_they_differ(write_study, tiny_config):
    shares = tiny_config("psp_weak", data={"label_regime": "segment_shares"}).name
    path = write_study(
        runs={"CMBS": tiny_config().name, "weak": tiny_config("weak_main_model").name, "PSP": shares},
    )
    words = [files.LABEL_REGIMES[name].words for name in ("clips_with_background", "segment_shares")]
    assert columns(path)["learns from"] == ["segment labels", *words]


def write_benchmark(path: Path, study: Study, **changes: object) -> None:
    """The benchmark's file for a study: the first row's step takes 3 s, the second's 6 s, on twice the memory."""
    rows = [
        {"timed": "train", "how": how, "model": run.config.model.model_dump(), "clips": 64, "seconds": seconds,
         "host_bytes": int(seconds * 1e9), "device_bytes": None}
        for run, seconds in zip(study.runs[::2], (3.0, 6.0), strict=False) for how in ("authors", "float32")
    ]  # fmt: skip
    rows[0]["seconds"] = 30.0
    path.write_text(json.dumps({"device": "cpu", "rows": [{**row, **changes} for row in rows]}))


def test_costs_relative_to_the_first_row(write_study, two_networks, tmp_path):
    file = tmp_path / "benchmark.json"
    path = write_study(runs=two_networks, benchmark=str(file))
    assert "generated data: train step" not in columns(path)
    command = f"`python -m utils.benchmark --study {path} --batch_size 64 --rows '*/train/float32' --json {file}`"
    assert notes_of([rows_of(Study(path))], [])[-1] == f"generated data, train step and memory not measured: {command}"
    write_benchmark(file, Study(path))
    assert columns(path)["generated data: train step"] == ["1.00", "2.00"]
    assert columns(path)["generated data: memory"] == ["1.00", "2.00"]
    assert notes_of([rows_of(Study(path))], list(columns(path)))[-1].endswith(f"on cpu: {command}")
    write_benchmark(file, Study(path), model=Study(path).runs[0].config.model.model_dump() | {"d_model": 32})
    assert "generated data: train step" not in columns(path), "of another network"
    assert "not measured" in notes_of([rows_of(Study(path))], list(columns(path)))[-1]
    for changes in ({"seconds": 0.0}, {"model": None}, {"host_bytes": "1"}):
        write_benchmark(file, Study(path), **changes)
        with pytest.raises(UserError, match=r"benchmark\.json: is not what `python -m utils\.benchmark"):
            columns(path)


@pytest.mark.parametrize("name", ["zoo", "zoo_generated"])
def test_every_network_has_its_row_in_the_studies_of_all(name):
    study = Study(f"configs/studies/{name}.json")
    first = study.runs[:: len(study.settings.seeds)]
    assert sorted(run.config.model.name for run in first) == sorted(NETWORKS)
    assert len(study.settings.seeds) >= 3
    assert set(study.settings.published) == set(study.settings.runs)

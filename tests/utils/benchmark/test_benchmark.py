"""The benchmark measures what it says, on a tiny network."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from model import NETWORKS
from utils.base.errors import UserError
from utils.benchmark import __main__ as benchmark_command
from utils.benchmark import measure, roofline, rows, table
from utils.config import files as config_files
from utils.study import table as study_table
from utils.study.runs import Study


def _row(name: str, config: Path, data: Path, **more) -> rows.Row:
    (case,) = rows.choose(rows.read_configs([str(config)]), "cpu", [name])
    return measure.measure(measure.Task(case, "cpu", repeats=2, seconds=20, data_root=str(data), **more))


class _Said(NamedTuple):
    """A row that tells how its process was started."""

    authors: bool
    name: str = "said"

    def prepare(self) -> None: ...

    def run(self) -> rows.Row:
        return rows.Row(self.name, clips=1, note=os.environ.get("GLIBC_TUNABLES", ""))


def test_the_authors_rows_have_the_c_library_as_it_comes(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    found, _ = measure.measure_all([_Said(authors=True), _Said(authors=False)])
    assert [row.note for row in found] == ["", "glibc.malloc.tcache_count=0"]
    assert "GLIBC_TUNABLES" not in os.environ


def test_products_of_a_step_are_all_counted():
    layer = torch.nn.Linear(8, 4, device="meta")
    x = torch.empty(3, 5, 8, device="meta", requires_grad=True)

    work = roofline.count(lambda: layer(x).sum().backward())
    # Forward, gradient of the weight, gradient of the input: 2 operations for each of 15 x 8 x 4 pairs.
    assert work.flops == 3 * 2 * 15 * 8 * 4
    assert sum(times * product.flops for product, times in work.products.items()) == work.flops
    # On the device "meta" an LSTM falls apart into its products: 8 gates for 4 + 6 inputs in each of 5 steps.
    lstm = torch.nn.LSTM(4, 6, device="meta", batch_first=True)
    with torch.no_grad():
        work = roofline.count(lambda: lstm(torch.empty(2, 5, 4, device="meta")))
    assert work.flops == 2 * 2 * 5 * (4 + 6) * 4 * 6


def test_a_compiled_row_is_not_measured_where_compiling_fails(tiny_config, tiny_data: Path, monkeypatch):
    def failing(*_: object, **__: object) -> None:
        raise torch._dynamo.exc.TorchDynamoException("no C++ compiler")

    monkeypatch.setattr(torch, "compile", lambda compute, **_: failing)
    with pytest.raises(UserError, match=r"torch\.compile failed"):
        _row("*/train/float32-compiled", tiny_config("weak_main_model"), tiny_data)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_products_of_every_network_are_counted(name: str):
    config = config_files.build({"model": {"name": name}, "train": {"batch_size": 2}}, "test")
    forward, both = measure.evaluation_work(config), measure.training_work(config)
    assert forward.flops > 10**7
    assert 2 * forward.flops < both.flops < 4 * forward.flops


def test_the_roofline_is_a_time_that_the_products_take():
    work = roofline.count(lambda: torch.empty(200, 300, device="meta") @ torch.empty(300, 400, device="meta"))
    alone = roofline.ProductTimer(work, torch.device("cpu"), torch.float32)
    alone.round()
    alone.round()
    least = alone.roofline()
    assert least.seconds == pytest.approx(work.flops / least.rate)
    assert least.rate == pytest.approx(least.fastest_rate)  # there is one product only
    assert 1e8 < least.rate < 1e13


@pytest.mark.parametrize("name", ["supv_main_model", "weak_main_model"])
def test_rows(tiny_config, tiny_data: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]):
    config = tiny_config(name=name)
    setting = "supervised" if name.startswith("supv") else "weak"
    train = _row(f"{setting}/train/float32", config, tiny_data, trace=str(tmp_path / "trace.json"))
    assert not capsys.readouterr().out
    evaluation = _row(f"{setting}/eval/authors", config, tiny_data, profile=True)
    assert "aten::addmm" in capsys.readouterr().out
    assert train.flops > 2 * evaluation.flops > 0
    for row in (train, evaluation):
        assert row.steps == 2
        assert 0 < row.fastest <= row.seconds <= row.slowest
        assert row.clips_per_second == pytest.approx(10 / row.seconds)
        assert row.host_bytes > 2**26
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    clips = 24 if setting == "supervised" else 30
    for way, features in (("host", "ResidentBatches"), ("stream", "StreamedBatches"), ("authors", "LoaderBatches")):
        data = _row(f"{setting}/data/{way}", config, tiny_data)
        assert (data.steps, data.features) == (-(-clips // 10), features)
    epoch = _row(f"{setting}/epoch/bfloat16", config, tiny_data)
    assert epoch.total_seconds > sum(epoch.times)
    lines = list(table.table([evaluation, train, epoch]))
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1


def test_the_rows_of_a_study_measured_in_processes_of_their_own_are_costs_in_its_table(
    tiny_config, tmp_path: Path, capsys: pytest.CaptureFixture
):
    out, study = tmp_path / "numbers.json", tmp_path / "study.json"
    settings = {"title": "tiny", "output": str(tmp_path / "study"), "seeds": [1, 2], "benchmark": str(out)}
    study.write_text(json.dumps({**settings, "runs": {"My network": tiny_config().name}}))
    asked = ["--device", "cpu", "--study", str(study), "--batch_size", "4", "--rows", "*/train/float32"]
    assert benchmark_command.main([*asked, "--repeats", "2", "--json", str(out)]) == 0
    assert "My network/train/float32" in capsys.readouterr().out
    (measured,) = json.loads(out.read_text())["rows"]
    assert (measured["name"], measured["clips"]) == ("My network/train/float32", 4)
    (line,) = study_table.table([study_table.rows_of(Study(str(study)))])[1]
    assert line[-2:] == ["1.00", "1.00"]
    assert benchmark_command.main(["--device", "cpu", "--rows", "nothing"]) == 2


def names(configs: list[Path], *patterns: str) -> list[str]:
    return [case.name for case in rows.choose(rows.read_configs(list(map(str, configs))), "cpu", patterns)]


def test_two_configs_of_one_supervision_both_have_their_rows(tiny_config, tmp_path: Path):
    main, weak = tiny_config(), tiny_config(name="weak_main_model")
    assert names([main, weak], "*/eval/float32") == ["supervised/eval/float32", "weak/eval/float32"]
    wide = tmp_path / "wide.json"
    wide.write_text(json.dumps({"extends": main.name, "model": {"d_model": 32}}))
    both = ["supv_main_model/eval/float32", "wide/eval/float32"]
    assert names([main, wide, weak], "supervised/eval/float32") == both
    assert names([main, wide, weak], "wide/*/float32", "weak/*")[0] == "wide/train/float32"
    other = tmp_path / "other" / "wide.json"
    other.parent.mkdir()
    other.write_text(wide.read_text().replace(main.name, f"../{main.name}"))
    assert len(set(names([wide, other], "*/eval/float32"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "*/train/*", "*/trian/*"], "--rows */trian/*: chooses none of the rows"),
        (["--config", "{config}"], "stands there twice"),
        (["--study", "{config}"], "not allowed with argument --config"),
        (["--batch_size", "0"], "'0' is not a whole number from 1 on"),
        (["--repeats", "0"], "at least 1 repeat"),
        (["--seconds", "nan"], "at least 1 repeat"),
        (["--trace", "t.json", "--rows", "*/data/*"], "--trace: profiles a train or eval row"),
        (["--profile", "--rows", "*/data/*"], "--profile: profiles a train or eval row"),
        (["--rows", "*/data/host", "--data_root", "{folder}"], "1 of 1 rows could not be measured"),
        (
            ["--rows", "*/data/host", "--data_root", "{data}", "--config", "{wide}"],
            "16 features, and the config says model.video_",
        ),
    ],
)
def test_mistakes_are_one_line(
    arguments, message, tiny_config, tiny_data, tmp_path: Path, capsys: pytest.CaptureFixture
):
    wide = tmp_path / "wide.json"
    wide.write_text(json.dumps({"extends": "weak_main_model.json", "model": {"video_inputdim": 32}}))
    tiny_config("weak_main_model")
    names = {"config": str(tiny_config()), "folder": str(tmp_path), "data": str(tiny_data), "wide": str(wide)}
    arguments = ["--device", "cpu", "--config", "{config}", *arguments]
    assert benchmark_command.main([argument.format(**names) for argument in arguments]) == 2
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1]
    assert error[-1].startswith("error: ")

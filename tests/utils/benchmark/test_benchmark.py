"""The benchmark measures what it says, on a tiny network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from utils.benchmark import __main__ as benchmark_command
from utils.benchmark import measure, roofline, table
from utils.config import files as config_files


def _row(name: str, config: Path, data: Path, **more) -> measure.Row:
    settings = config_files.build(config_files.read_json(config), str(config))
    task = measure.Task(name, settings, "cpu", repeats=2, seconds=20, data_root=str(data), **more)
    return measure.measure(task)


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


def test_the_bound_is_a_time_that_the_products_take():
    work = roofline.count(lambda: torch.empty(200, 300, device="meta") @ torch.empty(300, 400, device="meta"))
    alone = roofline.Stopwatch(work, torch.device("cpu"), torch.float32)
    alone.round()
    alone.round()
    least = alone.bound()
    assert least.seconds == pytest.approx(work.flops / least.rate)
    assert least.rate == pytest.approx(least.fastest_rate)  # there is one product only
    assert 1e8 < least.rate < 1e13


@pytest.mark.parametrize("name", ["supv_main_model", "weak_main_model"])
def test_rows(tiny_config, tiny_data: Path, tmp_path: Path, name: str):
    config = tiny_config(name=name)
    setting = "supervised" if name.startswith("supv") else "weak"
    train = _row(f"{setting}/train/float32", config, tiny_data, trace=str(tmp_path / "trace.json"))
    evaluation = _row(f"{setting}/eval/authors", config, tiny_data)
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


def test_command_line_measures_in_a_process_of_its_own(tiny_config, tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "numbers.json"
    args = ["--device", "cpu", "--config", str(tiny_config()), "--rows", "*/eval/float32", "--repeats", "2"]
    assert benchmark_command.main([*args, "--json", str(out)]) == 0
    assert "supervised/eval/float32" in capsys.readouterr().out
    rows = json.loads(out.read_text())["rows"]
    assert [row["name"] for row in rows] == ["supervised/eval/float32"]
    assert benchmark_command.main(["--device", "cpu", "--rows", "nothing"]) == 2

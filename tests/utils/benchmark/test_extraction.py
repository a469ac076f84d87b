"""The benchmark's rows for extraction, on a clip of four frames."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("av", reason="videos need the packages of requirements-video.txt")

from made_features import generated_extractor

from dataset.extract import features
from dataset.extract.decoding import squeezed
from utils.base.errors import UserError
from utils.benchmark import __main__ as benchmark_command
from utils.benchmark import extraction, table


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(extraction, "VIDEO", extraction.Made(seconds=4, rate=1, size=(64, 36)))
    monkeypatch.setattr(extraction.BestRate, "SIDE", 64)
    monkeypatch.setattr(extraction.BestRate, "GRID", 8)
    extractor = copy.copy(generated_extractor())
    extractor.prepare = lambda frame: squeezed(frame)[::7, ::7]
    monkeypatch.setattr(features, "FeatureExtractor", lambda *_: extractor)


def test_each_part_is_measured_beside_its_bound(small):
    rows = {task.name: task.run() for task in extraction.chosen(["extract/*"], "cpu", 1, 1.0)}
    assert list(rows) == [f"extract/{part}" for part in extraction.PARTS]
    for name, row in rows.items():
        assert row.steps == 1
        assert 0 < row.fastest == row.seconds
        assert "clips an hour" in row.note
        assert (row.roofline is None) == (name in ("extract/decode", "extract/write"))
    # VGG-19's 16 convolutions take 39.0 GFLOP a frame of 224x224; these have 32x32.
    assert rows["extract/vgg19/float32"].flops == pytest.approx(4 * 39.0e9 / 49, rel=0.01)
    both = rows["extract/vgg19/float32"].flops + rows["extract/vggish"].flops
    assert rows["extract/together/bfloat16"].flops == both
    assert "differ from float32's by" in rows["extract/vgg19/bfloat16"].note
    (line,) = table.rates([rows["extract/vgg19/float32"]])
    assert "GFLOP of convolutions and linear layers at the best rate of a matrix product and a convolution" in line


def test_they_are_measured_only_where_they_are_named(capsys):
    assert extraction.chosen([], "cpu", 1, 1.0) == []
    with pytest.raises(UserError, match="--rows extract/vgg16: chooses none of the rows extract/decode"):
        extraction.chosen(["extract/vgg16"], "cpu", 1, 1.0)
    assert benchmark_command.main(["--device", "cpu", "--rows", "extract/nothing"]) == 2
    assert "chooses none of the rows extract/decode" in capsys.readouterr().err

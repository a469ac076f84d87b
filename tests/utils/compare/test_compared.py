"""What `python -m utils.compare` says of evaluations and studies, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_bad import refused
from helpers_runs import pretend
from made_evaluation import as_metrics, made_evaluation

from dataset.labels import ClipNames
from utils.base.errors import EXIT_DONE
from utils.compare.__main__ import main
from utils.compare.tables import won_lost_tied
from utils.evaluation import results
from utils.study.runs import Study

NAMES = ["Bark", "Bell", "Cat"]
CLIPS = 60


def write(folder: Path, mended: float = 0, seed: int = 0, rows: np.ndarray | None = None, **changes: Any) -> Path:
    """Write an evaluation whose wrong segments are right by a chance `mended`; returns its folder."""
    result = made_evaluation(CLIPS, len(NAMES))
    right = np.random.default_rng(seed).random(result.target.shape) < mended
    segments = np.where(right, result.target.numpy(), result.segments.numpy())
    result = result._replace(segments=result.segments.new_tensor(segments))
    rows = np.arange(CLIPS) if rows is None else rows
    names = ClipNames(NAMES, [f"clip {row}" for row in range(rows.max() + 1)])
    results.write(folder, as_metrics(result, NAMES, **changes), result, rows, names)
    return folder


def said(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == EXIT_DONE
    return capsys.readouterr().out


def cells(text: str, name: object) -> list[list[str]]:
    """The cells of each row that begins with a name."""
    lines = [re.split(r" \| ", line.strip("| \n")) for line in text.replace("\\", "").splitlines()]
    return [line for line in lines if line[0] == str(name)]


def test_a_better_network_wins_and_the_numbers_are_those_of_metrics_json(tmp_path, capsys):
    first, second = write(tmp_path / "a"), write(tmp_path / "b", mended=0.5)
    text = said(capsys, first, second)
    accuracies = [json.loads((folder / results.METRICS).read_text())["accuracy"] for folder in (first, second)]
    (base, *_), (other, apart, *_) = cells(text, first), cells(text, second) + cells(text, f"{second}, difference")
    assert base[1:3] == ["1", base[2]]
    assert base[2].startswith(f"{accuracies[0]:.2f} (")
    assert other[2].startswith(f"{accuracies[1]:.2f} (")
    value, low, high = map(float, re.fullmatch(r"(.*) \((.*) to (.*)\)", other[3]).groups())
    assert value == pytest.approx(accuracies[1] - accuracies[0], abs=0.006)
    assert 0 < low < value < high
    won, lost, tied = map(int, other[4:])
    assert (lost, won + tied) == (0, CLIPS)
    assert apart[1].startswith("+0.00 (")  # segments were mended, not the clip's category
    assert float(apart[2].split()[0]) > 0
    table = [cells(text, name)[0] for name in (*NAMES, "background")]
    assert sum(int(line[3]) + int(line[4]) + int(line[5]) for line in table) == CLIPS
    assert "generated" in text.lower()
    write(tmp_path / "a", generated=False)
    write(tmp_path / "b", generated=False)
    text = said(capsys, first, second)
    assert "generated" not in text.lower()
    assert "protocol" not in text


def test_the_order_of_the_two_turns_the_difference_round(tmp_path, capsys):
    folders = [write(tmp_path / "a"), write(tmp_path / "b", mended=0.3)]
    one, other = (cells(said(capsys, *pair), pair[1])[0] for pair in (folders, folders[::-1]))
    assert one[3].split()[0] == other[3].split()[0].replace("-", "+")
    assert one[4:6] == other[5:3:-1]


def test_an_evaluation_and_itself_are_tied_everywhere(tmp_path, capsys):
    folders = [write(tmp_path / name) for name in "ab"]
    assert cells(said(capsys, *folders), folders[1])[0][3:] == ["+0.00 (+0.00 to +0.00)", "0", "0", str(CLIPS)]


def test_wins_are_of_the_mean_over_seeds():
    scores, base = np.array([[90.0, 50, 70, 10], [70, 50, 70, 10]]), np.array([[80.0, 60, 60, 10]])
    assert won_lost_tied(scores, base) == (1, 1, 2)


OTHER = {
    "split": ({"split": "val"}, "split"),
    "generated": ({"generated": False}, "data (generated"),
    "data folder": ({"data_root": "elsewhere"}, "elsewhere"),
    "rows": ({"rows": np.arange(CLIPS)[::-1].copy()}, "rows"),
    "data": ({"data": {"visual_feature.h5": {"bytes": 1}}}, "visual_feature.h5 bytes is 1, not 2"),
}


@pytest.mark.parametrize("case", OTHER)
def test_other_clips_are_refused(case, tmp_path, capsys):
    changes, words = OTHER[case]
    same = {"data": {"visual_feature.h5": {"bytes": 2}}} if "data" in changes else {}
    first, second = write(tmp_path / "a", **same), write(tmp_path / "b", **changes)
    error = refused(capsys, main, first, second)
    assert f"{second}: is not of the clips that {first} is of" in error
    assert words in error


@pytest.mark.parametrize(("key", "value", "words"), [("id", "another", "ids"), ("target", [0] * 10, "annotations")])
def test_other_ids_and_annotations_are_refused(key, value, words, tmp_path, capsys):
    folders = [write(tmp_path / name) for name in "ab"]
    for folder in folders if key == "target" else folders[1:]:
        path = folder / results.PREDICTIONS
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        # A clip that is right throughout stays so: the accuracy in metrics.json goes on to be theirs.
        lines[5][key] = value if folder == folders[1] else [1] * 10
        if key == "target":
            lines[5]["prediction"] = lines[5]["target"]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        metrics = json.loads((folder / results.METRICS).read_text())
        right = [a == b for line in lines for a, b in zip(line["prediction"], line["target"], strict=True)]
        (folder / results.METRICS).write_text(json.dumps(metrics | {"accuracy": 100 * float(np.mean(right))}))
    assert words in refused(capsys, main, *folders)


def test_other_names_of_categories_are_refused(tmp_path, capsys):
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    for name in (results.METRICS, results.PREDICTIONS):
        (second / name).write_text((second / name).read_text().replace('"Bell"', '"Ring"'))
    assert "categories" in refused(capsys, main, first, second)


def test_what_is_no_evaluation_is_refused(tmp_path, capsys):
    first = write(tmp_path / "a")
    assert "is one evaluation alone" in refused(capsys, main, first)
    assert "is named twice" in refused(capsys, main, first, first)
    assert "not an evaluation's folder" in refused(capsys, main, first, tmp_path / "nowhere")
    assert f"not an evaluation's folder, but {first} is" in refused(capsys, main, first.parent, first)
    (tmp_path / "text.json").write_text("{}")
    assert "title" in refused(capsys, main, first, tmp_path / "text.json")
    lines = (first / results.PREDICTIONS).read_text()
    (first / results.PREDICTIONS).write_text(lines.replace('"category": "Bark"', '"category": "Nobody"'))
    assert "'category' is 'Nobody'" in refused(capsys, main, first, write(tmp_path / "b"))


@pytest.fixture
def study(tiny_config, tmp_path) -> Path:
    """A study of two rows and two seeds, finished, whose second row is better in either."""
    config = tiny_config()
    settings = {
        "title": "tiny",
        "output": str(tmp_path / "study"),
        "seeds": [1, 2],
        "runs": {"first": str(config), "second": str(config)},
    }
    path = tmp_path / "study.json"
    path.write_text(json.dumps(settings))
    for run in Study(str(path)).runs:
        pretend(run, [(50.0, 60.0), (40.0, 70.0)])  # epoch 1 is the best on the val split, epoch 2 on the test split
        mended = 0.5 if run.name == "second" else 0.1
        write(run.folder / "eval-test", mended, run.seed, checkpoint="best.pth.tar", epoch=2)
    return path


def test_weak_networks_are_named_with_what_they_learned_from(tmp_path, capsys):
    weak, other = (write(tmp_path / regime, label_regime=regime) for regime in ("clips", "segment_shares"))
    text = said(capsys, weak, other, full := write(tmp_path / "full"))
    assert f"\n- {weak}: clip labels without background-only clips\n- {other}: the shares of each clip's" in text
    assert f"- {full}:" not in text
    assert "learned from" not in said(capsys, full, write(tmp_path / "full too"))


def test_a_study_is_compared_over_its_seeds(study, capsys):
    text = said(capsys, study)
    assert "each one's seeds by themselves" in text
    assert "authors' protocol" in text
    (first, *_), (second, *_) = cells(text, "first"), cells(text, "second")
    assert (first[1], second[1]) == ("2", "2")
    assert second[3].startswith("+")
    folders = [run.folder / "eval-test" for run in Study(str(study)).runs]
    accuracies = [json.loads((folder / results.METRICS).read_text())["accuracy"] for folder in folders]
    assert first[2].startswith(f"{np.mean(accuracies[:2]):.2f} (")


def test_a_study_and_an_evaluation(study, tmp_path, capsys):
    single = write(tmp_path / "single")
    text = said(capsys, study, single)
    assert cells(text, f"{study}: second")
    assert cells(text, single)[0][1] == "1"


def test_the_validation_protocol_asks_for_its_weights_evaluation(study, capsys):
    error = refused(capsys, main, study, "--protocol", "validation")
    assert "holds no evaluation of its best-val.pth.tar" in error
    assert "supv_test.sh" in error
    for run in Study(str(study)).runs:
        write(run.folder / "eval-test-by-val", 0.2, run.seed, checkpoint="best-val.pth.tar", epoch=1)
    assert cells(said(capsys, study, "--protocol", "validation"), "second")


def test_a_study_whose_run_is_not_finished(study, capsys):
    for run in Study(str(study)).runs:
        if run.name == "second":
            (run.folder / "metrics.jsonl").write_text("")
    assert "no run of 'second' is finished" in refused(capsys, main, study)

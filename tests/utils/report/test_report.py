"""The report: one page that needs nothing else, says what metrics.json says, and stays small."""

from __future__ import annotations

import base64
import builtins
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers_bad import one_line, refused
from made_evaluation import write_evaluation

from utils.base.errors import UserError
from utils.evaluation import results
from utils.evaluation.stored import read
from utils.report import __main__ as report_command
from utils.report import filmstrip
from utils.report import page as report_page

NAMES = ["Bark", "</script><img src=x onerror=alert(1)>", "R&B <!-- “Ω” \u2028"]


def json_of(page: str) -> str:
    """The data in a page as a browser finds them: up to the first end of a script element."""
    return re.search(r'<script type="application/json" id="data">(.*?)</script', page, re.DOTALL)[1]


def embedded(page: str) -> dict:
    return json.loads(json_of(page))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "eval-test"
    write_evaluation(folder, 80, NAMES)
    report_page.write(folder)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / results.REPORT).read_text(encoding="utf-8")


def test_the_page_refers_to_nothing_outside_itself(page: str) -> None:
    code = page.replace(json_of(page), "")
    assert not re.findall(r"https?:|//\w|\bsrc=|@import|<link|<iframe|\bfetch\(|XMLHttpRequest", code)
    assert not re.findall(r"\$[a-z]", code), "a placeholder of the template is left"


def test_the_page_carries_the_numbers_of_metrics_json(folder: Path, page: str) -> None:
    metrics = json.loads((folder / results.METRICS).read_text())
    rule = metrics.pop("reading")  # as earlier versions call it
    assert embedded(page)["metrics"] == {"localization": rule, **metrics}


def test_names_and_ids_cannot_leave_the_data(page: str) -> None:
    assert embedded(page)["metrics"]["categories"] == NAMES
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img" not in page


def test_gallery_clips_are_those_of_predictions_jsonl(folder: Path, page: str) -> None:
    data = embedded(page)
    lines = (json.loads(line) for line in (folder / results.PREDICTIONS).read_text().splitlines())
    by_row = {line["index"]: line for line in lines}
    assert data["scores"] == ["event_probability", "gate", "audio_gate", "visual_gate"]
    assert len({clip["row"] for clip in data["clips"]}) == len(data["clips"])
    for clip in data["clips"]:
        line = by_row[clip["row"]]
        assert (clip["id"], clip["t"], clip["p"]) == (line["id"], line["target"], line["prediction"])
        for values, name in zip(clip["s"], data["scores"], strict=True):
            assert values == pytest.approx([100 * value for value in line[name]], abs=0.051)


def test_attention_survives_its_packing(folder: Path, page: str) -> None:
    data, stored = embedded(page), read(folder)
    assert data["grid"] == [7, 7]
    clip = data["clips"][0]
    low, high = clip["scale"]
    levels = np.array([report_page._DIGITS.index(digit) for digit in clip["m"]]).reshape(10, 7, 7)
    unpacked = (low + levels / 63 * (high - low)) / 49
    np.testing.assert_allclose(unpacked, stored.attention[clip["row"]], atol=(high - low) / 63 / 49 + 1e-3)


def test_every_score_has_a_histogram_over_event_and_background_segments(folder: Path, page: str) -> None:
    stored, shown = read(folder), embedded(page)["histograms"]
    assert list(shown) == list(stored.scores)
    is_event = stored.target != len(NAMES)
    for name, values in stored.scores.items():
        assert shown[name]["range"] == [values.min(), values.max()]
        width = (values.max() - values.min()) / report_page.BARS
        bar = np.minimum((values - values.min()) // width, report_page.BARS - 1).astype(int)
        for kind, mask in (("event", is_event), ("background", ~is_event)):
            assert sum(shown[name][kind]) == mask.sum()
            # A value at the edge of two bars may fall into either.
            counts = np.bincount(bar[mask], minlength=report_page.BARS)
            assert np.abs(counts - shown[name][kind]).max() <= 1


def test_worst_and_best_are_ordered_by_right_segments(page: str) -> None:
    data = embedded(page)

    def right(index: int) -> int:
        clip = data["clips"][index]
        return sum(a == b for a, b in zip(clip["t"], clip["p"], strict=True))

    worst, best = ([right(index) for index in data["gallery"][kind]] for kind in ("worst", "best"))
    assert worst == sorted(worst)
    assert best == sorted(best, reverse=True)
    assert worst[0] < best[0]


def test_every_category_has_its_own_best_and_worst() -> None:
    group = np.array([0] * 50 + [1] * 3)
    chosen = report_page.gallery(np.arange(53), group, background=2)
    assert chosen["best"] == [*range(report_page.BEST_AND_WORST), 50, 51, 52]
    assert chosen["worst"][:3] == [52, 51, 50]
    assert sorted(chosen["random"]) != chosen["random"]
    assert {50, 51, 52} <= set(chosen["random"])


def test_twenty_thousand_clips_make_a_small_page_in_little_time(tmp_path: Path) -> None:
    write_evaluation(tmp_path, 20_000, [f"category {i}" for i in range(141)])
    start = time.process_time()
    report_page.write(tmp_path)
    seconds = time.process_time() - start
    page = (tmp_path / results.REPORT).read_text(encoding="utf-8")
    assert len(page) < 2_000_000
    assert len(embedded(page)["clips"]) <= 2 * report_page.GALLERY
    assert seconds < 20, "it takes 2 s on one core"


def test_the_page_can_be_made_anew_from_the_files(folder: Path, page: str, capsys: pytest.CaptureFixture) -> None:
    (folder / results.REPORT).unlink()
    assert report_command.main([str(folder)]) == 0
    assert (folder / results.REPORT).read_text(encoding="utf-8") == page
    assert str(folder / results.REPORT) in capsys.readouterr().out


def test_a_folder_that_is_no_evaluation_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not an evaluation's folder"):
        report_page.write(tmp_path)
    write_evaluation(tmp_path, 5, ["a", "b"])
    (tmp_path / results.METRICS).write_text('{"accuracy": ')
    with pytest.raises(UserError, match=r"metrics\.json, line 1, column 14: not valid JSON"):
        report_page.write(tmp_path)


def test_files_of_two_evaluations_are_not_mixed(tmp_path: Path) -> None:
    write_evaluation(tmp_path, 5, ["a", "b"])
    lines = (tmp_path / results.PREDICTIONS).read_text().splitlines()
    (tmp_path / results.PREDICTIONS).write_text("\n".join(lines[:4]) + "\n")
    with pytest.raises(UserError, match="different evaluations"):
        report_page.write(tmp_path)


def changed(text: str, path: str, value: object) -> str:
    """JSON with the value at a dotted path replaced, or removed by None."""
    content = json.loads(text)
    *parents, key = [int(part) if part.isdigit() else part for part in path.split("/")]
    at = content
    for part in parents:
        at = at[part]
    if value is None:
        del at[key]
    else:
        at[key] = value
    return json.dumps(content)


def in_first_line(text: str, change: Callable[[str], str]) -> str:
    first, rest = text.split("\n", 1)
    return change(first) + "\n" + rest


DEEP = "[" * 100_000 + "]" * 100_000
ODD_METRICS = [
    *[(path, "wrong") for path in ("accuracy", "clips", "calibration", "per_category/0/f1", "by_second/1/second")],
    *[(path, None) for path in ("confusion_matrix", "separation", "errors/missed", "events/iou_0.5", "split")],
    *[(path, float("nan")) for path in ("accuracy", "calibration/gate/bins/3/score", "best_single_label")],
    *[(path, 10**400) for path in ("epoch", "accuracy", "confusion_matrix/0/0")],
    *[(path, {"a": [1]}) for path in ("categories", "accuracy", "categories/1", "protocols", "reading")],
    *[(path, [1]) for path in ("confusion_matrix", "confusion_matrix/1", "per_category", "data_root", "epoch")],
    *[("accuracy", value) for value in (True, -1.0, 101.0, 12.0)],
    *[("clips", value) for value in (0, 4, -5)],
    *[("calibration/other", {"bins": [], "error": 1.0}), ("separation/other", {"ap": 1.0, "auc": 1.0})],
    *[("categories", []), ("segments", 7), ("checkpoint", 5), ("generated", "no")],
    *[("data_root", "\0"), ("data_root", "a" * 5000), ("data_root", "")],
]
ODD_CLIPS = [
    *[(path, "wrong") for path in ("index", "prediction", "target/3", "event_probability", "gate/0")],
    *[(path, None) for path in ("index", "id", "target", "gate", "prediction/9")],
    *[(path, float("nan")) for path in ("event_probability/0", "visual_gate/9", "prediction/1")],
    *[(path, 10**400) for path in ("index", "target/0", "gate/1")],
    *[(path, [0] * 10) for path in ("id", "target/0", "index", "gate/4")],
    *[(path, 3) for path in ("target/0", "prediction/5", "prediction", "gate/5")],
    *[("gate", [0.5] * 9), ("id", {}), ("index", -1), ("index", 0.5), ("audio_gate/3", -0.1), ("target/0", -1)],
]


@pytest.mark.parametrize(
    ("file", "change"),
    [
        *[(results.METRICS, lambda text, odd=odd: changed(text, *odd)) for odd in ODD_METRICS],
        *[(results.METRICS, lambda text, odd=odd: odd) for odd in ("", "[]", "1", "null", DEEP, '"x"', "\0", "{" * 9)],
        *[(results.PREDICTIONS, lambda text, odd=odd: in_first_line(text, lambda line: changed(line, *odd)))
          for odd in ODD_CLIPS],
        *[(results.PREDICTIONS, lambda text, odd=odd: in_first_line(text, lambda line: odd))
          for odd in ("", "[]", "1", "null", DEEP, "{}")],
        *[(results.PREDICTIONS, lambda text, odd=odd: odd) for odd in ("", "\n", "\n" * 5)],
    ],
)  # fmt: skip
def test_odd_files_are_one_line_and_nothing_is_written(file, change, tmp_path: Path, capsys) -> None:
    write_evaluation(tmp_path, 5, ["a", "b"])
    path = tmp_path / file
    path.write_text(change(path.read_text()))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    error = refused(capsys, report_command.main, str(tmp_path))
    assert str(tmp_path) in error
    assert len(error) < 600 + len(str(tmp_path)) * 2
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "attention",
    [
        np.zeros((5, 10, 2)),
        np.zeros((4, 10, 2, 2)),
        np.zeros((5, 9, 2, 2)),
        np.zeros((5, 10, 0, 2)),
        np.zeros((5, 10, 2, 2), int),
        np.full((5, 10, 2, 2), "text"),
        np.full((5, 10, 2, 2), np.nan),
        np.full((5, 10, 2, 2), np.inf, np.float16),
        b"no array",
        b"",
        b"\x93NUMPY\1\0\5\0\xa5(  \n",  # NumPy fails in its own way
    ],
)
def test_odd_attention_is_one_line(attention, tmp_path: Path, capsys) -> None:
    write_evaluation(tmp_path, 5, ["a", "b"])
    if isinstance(attention, bytes):
        (tmp_path / results.ATTENTION).write_bytes(attention)
    else:
        np.save(tmp_path / results.ATTENTION, attention)
    error = refused(capsys, report_command.main, str(tmp_path))
    assert results.ATTENTION in error or "damaged" in error


def test_a_network_without_scores_and_attention_has_a_report_without_them(tmp_path: Path) -> None:
    metrics = write_evaluation(tmp_path, 20, NAMES)
    for key in ("separation", "calibration"):
        metrics[key] = {"event_probability": metrics[key]["event_probability"]}
    (tmp_path / results.METRICS).write_text(json.dumps(metrics))
    (tmp_path / results.ATTENTION).unlink()
    report_page.write(tmp_path)
    data = embedded((tmp_path / results.REPORT).read_text(encoding="utf-8"))
    assert data["scores"] == ["event_probability"]
    assert data["grid"] is None
    assert all("m" not in clip and len(clip["s"]) == 1 for clip in data["clips"])


def test_attention_to_a_single_cell_is_not_shown(tmp_path: Path) -> None:
    write_evaluation(tmp_path, 20, NAMES)
    np.save(tmp_path / results.ATTENTION, np.ones((20, 10, 1, 1), np.float16))
    data = embedded(report_page.page(report_page.read(tmp_path)))
    assert data["grid"] is None
    assert all("m" not in clip for clip in data["clips"])


def test_what_a_newer_version_adds_is_passed_over(tmp_path: Path) -> None:
    metrics = write_evaluation(tmp_path, 20, NAMES)
    (tmp_path / results.METRICS).write_text(json.dumps({**metrics, "new": [float("nan")]}))
    report_page.write(tmp_path)
    assert "new" not in embedded((tmp_path / results.REPORT).read_text(encoding="utf-8"))["metrics"]


def test_a_folder_without_permission_is_one_line(tmp_path: Path, unprivileged, capsys) -> None:
    write_evaluation(tmp_path / "eval", 5, ["a", "b"])
    for file, mode in [(results.METRICS, 0o200), (results.PREDICTIONS, 0o200), ("", 0o500), ("", 0o600), ("", 0)]:
        path = tmp_path / "eval" / file
        before = path.stat().st_mode
        path.chmod(mode)
        assert report_command.main([str(tmp_path / "eval")]) == 2, (file, mode)
        path.chmod(before)
        error = one_line(capsys)
        assert "cannot be read" in error or "no permission to write" in error


def test_frames_of_raw_videos_stand_in_the_page(tmp_path: Path) -> None:
    pytest.importorskip("av")
    from made_videos import moving_disc, tone, write_video

    (tmp_path / filmstrip.VIDEOS).mkdir()
    write_video(
        tmp_path / filmstrip.VIDEOS / "clip 1.mp4", [i / 8 for i in range(80)], tone(10, 2, 5), picture=moving_disc
    )
    (tmp_path / filmstrip.VIDEOS / "clip 2.mp4").write_bytes(b"no video")
    (tmp_path / filmstrip.VIDEOS / "clip 3.txt").write_text("no video either")
    write_evaluation(tmp_path / "eval", 6, ["a", "b"], data_root=str(tmp_path))
    data = embedded(report_page.page(read(tmp_path / "eval")))
    with_frames = {clip["id"]: clip["f"] for clip in data["clips"] if "f" in clip}
    assert list(with_frames) == ["clip 1"]
    kind, content = with_frames["clip 1"].split(",")
    assert kind == "data:image/jpeg;base64"
    assert base64.b64decode(content)[:2] == b"\xff\xd8"
    assert "1 of the videos can't be read" in data["frames_note"]
    assert "clip 2.mp4" in data["frames_note"]

    write_evaluation(tmp_path / "elsewhere", 6, ["a", "b"])
    assert report_command.main([str(tmp_path / "elsewhere"), "--data_root", str(tmp_path)]) == 0
    again = embedded((tmp_path / "elsewhere" / results.REPORT).read_text(encoding="utf-8"))
    assert [clip["id"] for clip in again["clips"] if "f" in clip] == ["clip 1"]
    assert report_command.main([str(tmp_path / "elsewhere"), "--data_root", str(tmp_path / "eval")]) == 2


def test_without_the_video_package_the_page_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / filmstrip.VIDEOS).mkdir()
    (tmp_path / filmstrip.VIDEOS / "clip 1.mp4").write_bytes(b"")
    for name in ("dataset.extract.video", "dataset.extract.decoding"):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    real_import = builtins.__import__

    def no_av(name: str, *args, **kwargs):
        if name.split(".")[0] == "av":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_av)
    strips, note = filmstrip.strips(tmp_path, ["clip 1", None], segments=10)
    assert strips == [{}, {}]
    assert "package av" in note

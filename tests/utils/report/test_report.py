"""The report: one page that needs nothing else, says what metrics.json says, and stays small."""

from __future__ import annotations

import base64
import builtins
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from made_evaluation import write_evaluation

from utils.base.errors import UserError
from utils.evaluation import results
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
    assert embedded(page)["metrics"] == json.loads((folder / results.METRICS).read_text())


def test_names_and_ids_cannot_leave_the_data(page: str) -> None:
    assert embedded(page)["metrics"]["categories"] == NAMES
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img" not in page


def test_gallery_clips_are_those_of_predictions_jsonl(folder: Path, page: str) -> None:
    data, lines = embedded(page), results.read(folder).clips
    by_row = {line["index"]: line for line in lines}
    assert len({clip["row"] for clip in data["clips"]}) == len(data["clips"])
    for clip in data["clips"]:
        line = by_row[clip["row"]]
        assert (clip["id"], clip["t"], clip["p"]) == (line["id"], line["target"], line["prediction"])
        assert clip["e"] == pytest.approx([100 * value for value in line["event_probability"]], abs=0.051)
        assert clip["v"] == pytest.approx([100 * value for value in line["visual_gate"]], abs=0.051)


def test_attention_survives_its_packing(folder: Path, page: str) -> None:
    data, stored = embedded(page), results.read(folder)
    assert data["grid"] == [7, 7]
    clip = data["clips"][0]
    low, high = clip["scale"]
    levels = np.array([report_page._DIGITS.index(digit) for digit in clip["m"]]).reshape(10, 7, 7)
    unpacked = (low + levels / 63 * (high - low)) / 49
    np.testing.assert_allclose(unpacked, stored.attention[clip["row"]], atol=(high - low) / 63 / 49 + 1e-3)


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
    (tmp_path / results.PREDICTIONS).write_text("{}\n")
    with pytest.raises(UserError, match="older version"):
        report_page.write(tmp_path)
    (tmp_path / results.METRICS).write_text('{"accuracy": ')
    with pytest.raises(UserError, match="damaged"):
        report_page.write(tmp_path)


def test_files_of_two_evaluations_are_not_mixed(tmp_path: Path) -> None:
    write_evaluation(tmp_path, 5, ["a", "b"])
    lines = (tmp_path / results.PREDICTIONS).read_text().splitlines()
    (tmp_path / results.PREDICTIONS).write_text("\n".join(lines[:4]) + "\n")
    with pytest.raises(UserError, match="different evaluations"):
        report_page.write(tmp_path)


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
    data = embedded(report_page.page(results.read(tmp_path / "eval")))
    with_frames = {clip["id"]: clip["f"] for clip in data["clips"] if "f" in clip}
    assert list(with_frames) == ["clip 1"]
    kind, content = with_frames["clip 1"].split(",")
    assert kind == "data:image/jpeg;base64"
    assert base64.b64decode(content)[:2] == b"\xff\xd8"
    assert "1 of the videos can't be read" in data["frames_note"]
    assert "clip 2.mp4" in data["frames_note"]


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

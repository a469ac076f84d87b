"""An ingest that is killed goes on at its last block, and ends as one that wasn't."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from helpers_ingest import in_a_process, killed_at
from made_clips import MadeClip, write_general

from dataset import files, writing
from dataset.arrays import array_file
from dataset.ingest import __main__ as ingest
from dataset.ingest import make
from dataset.ingest.clips import Reader

SHAPE = (4, 2, 2, 3)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "BLOCK", 8)


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, list[str]]:
    """50 small clips, two of which are left out; the folder, and the flags that name them."""
    random = np.random.default_rng(0)
    clips = [
        MadeClip(
            f"c{i}", files.SPLITS[i % 3], i % 2, 1, 1 + i % 4, random.random(SHAPE, np.float32),
            random.random((4, 5), np.float32),
        )
        for i in range(50)
    ]  # fmt: skip
    clips[20] = clips[20]._replace(visual=clips[20].visual[:3])
    arguments = write_general(tmp_path / "from", clips, ["Drum", "Bark"])
    (tmp_path / "from" / "audio" / "c33.npy").unlink()
    return tmp_path / "from", arguments


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_killed_at_any_moment_it_ends_as_one_that_was_not(source, tmp_path):
    _, arguments = source
    assert in_a_process(arguments, tmp_path / "whole") == 0
    whole = content(tmp_path / "whole")
    moments = [1, 2, 38, 77, 118, 119, 122, 124, 127, 180, 230, 233, 236, 239, 241]  # of 241, until the code changes
    kills = 0
    for moment in moments:
        to = tmp_path / f"killed-{moment}"
        code = in_a_process(arguments, to, killed_at(moment))
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
        if code != 0 and moment % 3 == 0:
            in_a_process(arguments, to, killed_at(moment // 3))  # and once more
        assert in_a_process(arguments, to) == 0
        assert content(to) == whole
    assert kills >= len(moments) - 2


def test_a_run_goes_on_at_its_last_block_and_reads_no_clip_again(source, tmp_path, monkeypatch, capsys):
    _, arguments = source
    to = tmp_path / "data"
    assert in_a_process(arguments, to, killed_at(70)) == -signal.SIGKILL
    read = []
    real = Reader.read
    monkeypatch.setattr(Reader, "read", lambda self, clip, layout: read.append(clip.id) or real(self, clip, layout))
    assert ingest.main([*arguments, "--to", str(to)]) == 0
    assert "going on after 24 of 50 clips" in capsys.readouterr().out
    assert sorted(read) == [f"c{i}" for i in range(24, 50)]  # by several threads


def test_a_file_that_changed_in_between_is_read_again_with_all_after_it(source, tmp_path, capsys):
    folder, arguments = source
    to = tmp_path / "data"
    assert in_a_process(arguments, to, killed_at(110)) == -signal.SIGKILL
    path = folder / "visual" / "c10.npy"
    np.save(path, np.load(path) + 1)
    os.utime(path, ns=(time.time_ns(), time.time_ns() + 10**9))
    assert ingest.main([*arguments, "--to", str(to)]) == 0
    out = capsys.readouterr().out
    assert "a file of the clips c8 to c15 has changed: these and later ones are read again" in out
    assert "going on after 8 of 50 clips" in out
    assert in_a_process(arguments, tmp_path / "whole") == 0
    assert content(to) == content(tmp_path / "whole")


@pytest.mark.parametrize("changed", ["appears", "vanishes"])
def test_a_clip_whose_file_came_or_went_in_between(source, tmp_path, changed):
    folder, arguments = source
    to = tmp_path / "data"
    path = folder / "audio" / "c0.npy"
    content_of_it = path.read_bytes()
    if changed == "appears":
        path.unlink()
    assert in_a_process(arguments, to, killed_at(110)) == -signal.SIGKILL
    if changed == "appears":
        path.write_bytes(content_of_it)
    else:
        path.unlink()
    assert in_a_process(arguments, to) == 0
    assert in_a_process(arguments, tmp_path / "whole") == 0
    assert content(to) == content(tmp_path / "whole")


def test_another_table_or_type_is_refused_and_what_was_done_stays(source, tmp_path, capsys):
    folder, arguments = source
    to = tmp_path / "data"
    assert in_a_process(arguments, to, killed_at(110)) == -signal.SIGKILL
    before = content(to / make.WORK)
    assert ingest.main([*arguments, "--to", str(to), "--dtype", "float16"]) == 2
    assert "differs in dtype; give the same flags and files again, or remove this folder" in capsys.readouterr().err
    table = (folder / "table.csv").read_text()
    (folder / "table.csv").write_text(table.replace("Bark", "Dog").replace("train", "test"))
    assert ingest.main([*arguments, "--to", str(to)]) == 2
    assert "differs in table, names" in capsys.readouterr().err
    assert content(to / make.WORK) == before
    (folder / "table.csv").write_text(table)
    assert ingest.main([*arguments, "--to", str(to)]) == 0


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 3000), Path.unlink])
def test_rows_that_are_gone_are_not_taken_for_zeros(source, tmp_path, capsys, damage):
    _, arguments = source
    to = tmp_path / "data"
    assert in_a_process(arguments, to, killed_at(110)) == -signal.SIGKILL
    damage(to / make.WORK / files.VISUAL)
    assert ingest.main([*arguments, "--to", str(to)]) == 2
    assert "visual_feature.h5" in capsys.readouterr().err
    shutil.rmtree(to / make.WORK)
    assert ingest.main([*arguments, "--to", str(to)]) == 0


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(source, tmp_path, capfd):
    _, arguments = source
    to = tmp_path / "data"

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))

    assert in_a_process(arguments, to, limit) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: ")
    assert "may not become that large" in err
    assert in_a_process(arguments, to) == 0
    assert in_a_process(arguments, tmp_path / "whole") == 0
    assert content(to) == content(tmp_path / "whole")


def test_the_first_clip_decides_anew_where_no_row_is_left(source, tmp_path, capsys):
    folder, arguments = source
    to, first = tmp_path / "data", folder / "visual" / "c0.npy"
    np.save(first, np.zeros((4, 3, 3, 5), np.float16))
    assert ingest.main([*arguments, "--to", str(to)]) == 2
    assert "c1.npy: has visual features of shape [4, 2, 2, 3], but a clip of this data set has [4, 3, 3, 5]" in (
        capsys.readouterr().err
    )
    first.unlink()
    assert in_a_process(arguments, to) == 0
    assert in_a_process(arguments, tmp_path / "whole") == 0
    assert content(to) == content(tmp_path / "whole")


@pytest.mark.parametrize("line", ["{}", "[]", "7", "{", '{"plan": 1}', '{"clips": 1}'])
def test_a_damaged_journal_is_one_line(source, tmp_path, capsys, line):
    _, arguments = source
    to = tmp_path / "data"
    assert in_a_process(arguments, to, killed_at(70)) == -signal.SIGKILL
    path = to / make.WORK / "journal.jsonl"
    lines = path.read_text().splitlines()
    for number in (0, 1):
        path.write_text("".join(f"{line}\n" for line in [*lines[:number], line, *lines[number + 1 :]]))
        assert ingest.main([*arguments, "--to", str(to)]) == 2
        assert "journal.jsonl: is damaged; remove" in capsys.readouterr().err


def test_two_runs_into_one_folder_do_not_write_at_once(source, tmp_path, capsys):
    _, arguments = source
    with writing.alone(tmp_path):
        assert ingest.main([*arguments, "--to", str(tmp_path)]) == 2
    assert "another run is writing there" in capsys.readouterr().err


def test_a_file_that_cannot_be_used_ends_the_run_and_removed_the_run_goes_on(source, tmp_path, capsys):
    folder, arguments = source
    to, path = tmp_path / "data", folder / "visual" / "c30.npy"
    np.save(path, np.full(SHAPE, np.nan, np.float32))
    assert ingest.main([*arguments, "--to", str(to)]) == 2
    assert f"{path}: holds NaN or infinity" in capsys.readouterr().err
    assert [path.name for path in to.iterdir()] == [make.WORK]
    path.unlink()
    assert ingest.main([*arguments, "--to", str(to)]) == 0
    out = capsys.readouterr().out
    assert "going on after 24 of 50 clips" in out
    assert "47 clips of 50 in the table" in out


def test_the_files_are_laid_out_as_those_that_are_written_at_once(source, tmp_path):
    _, arguments = source
    assert ingest.main([*arguments, "--to", str(tmp_path / "data")]) == 0
    array = array_file(tmp_path / "data" / files.VISUAL)
    writer = writing.RowWriter(tmp_path / files.VISUAL, array.shape, "float32")
    for values in array.read():
        writer.append(values)
    writer.close()
    assert (tmp_path / files.VISUAL).read_bytes() == array.path.read_bytes()


def test_a_folder_with_other_data_is_left_alone(source, tmp_path, capsys):
    _, arguments = source
    for name in (files.GENERATED, files.ANNOTATIONS):
        (tmp_path / name).write_text("{}")
        assert ingest.main([*arguments, "--to", str(tmp_path)]) == 2
        assert f"holds {name} already, of other data; choose another folder" in capsys.readouterr().err

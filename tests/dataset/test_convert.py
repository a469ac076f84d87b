"""Feature files in another type: exact where it can be, loud where not, whole or not there."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT

from dataset import arrays, convert, files, writing
from dataset.arrays import ArrayFile, array_file, row_offsets
from dataset.ave import AVEDataset, WeakAVEDataset
from dataset.clips import read_clips
from utils.base.errors import UserError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An audio feature file in float64 whose values float32 can hold: 30 clips."""
    path = tmp_path / "data" / files.AUDIO
    path.parent.mkdir()
    values = np.random.default_rng(0).random((30, 10, 8), dtype=np.float32)
    write(path, values.astype(np.float64))
    return path


def write(path: Path, array: np.ndarray) -> None:
    path.unlink(missing_ok=True)
    with h5py.File(path, "w") as file:
        file[files.KEY] = array


def test_float32_of_float32_values_is_bit_exact_and_chunked_by_clip(source, tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 7 * 10 * 8 * 8)  # 7 clips, so that 30 end within a block
    rounding = convert.convert(source, tmp_path / files.AUDIO, "float32")
    assert str(rounding) == "bit-exact"
    with h5py.File(tmp_path / files.AUDIO) as file:
        assert file[files.KEY].dtype == np.float32
        assert file[files.KEY].chunks == (1, 10, 8)
    np.testing.assert_array_equal(array_file(tmp_path / files.AUDIO).read(), array_file(source).read())


def test_the_largest_rounding_error_is_told(source, tmp_path):
    rounding = convert.convert(source, tmp_path / files.AUDIO, "float16")
    values = array_file(source).read()
    error = np.abs(values.astype(np.float16).astype(np.float64) - values).max()
    assert error > 0
    assert rounding == (error, values.max())
    assert f"largest rounding error {error:.2g}" in str(rounding)
    np.testing.assert_array_equal(array_file(tmp_path / files.AUDIO).read(), values.astype(np.float16))


@pytest.mark.parametrize(
    ("value", "said"),
    [(70000.0, "row 29 holds a value too large for float16; convert to float32"), (np.nan, "row 29 holds NaN")],
)
def test_a_value_that_does_not_survive_is_refused(source, tmp_path, value, said):
    values = array_file(source).read()
    values[29, 9, 7] = value
    write(source, values)
    with pytest.raises(UserError, match=said):
        convert.convert(source, tmp_path / files.AUDIO, "float16")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("dtype", convert.DTYPES)
def test_the_new_folder_gives_the_same_clips(tiny_data, tmp_path, capsys, dtype):
    new = tmp_path / "new"
    assert convert.main(["--root", str(tiny_data), "--to", str(new), "--dtype", dtype]) == 0
    assert "train on it with --data_root" in capsys.readouterr().out.lower()
    assert {path.name for path in new.iterdir()} == {path.name for path in tiny_data.iterdir()}
    for dataset in (AVEDataset, WeakAVEDataset):
        old_clips, new_clips = dataset(tiny_data, "train"), dataset(new, "train")
        every = torch.arange(len(old_clips))
        rounded = getattr(torch, dtype)
        for old, converted in zip(
            read_clips(old_clips, every, torch.device("cpu"), workers=2),
            read_clips(new_clips, every, torch.device("cpu"), workers=2),
            strict=True,
        ):
            torch.testing.assert_close(old.to(rounded), converted, rtol=0, atol=0)


def test_rows_are_found_in_every_layout_that_has_them_in_one_piece(tmp_path):
    values = np.arange(60, dtype=np.float32).reshape(5, 3, 4)
    with h5py.File(tmp_path / "file.h5", "w") as file:
        layouts = {
            "contiguous": file.create_dataset("a", data=values),
            "by row": file.create_dataset("b", data=values, chunks=(1, 3, 4)),
            "by two rows": file.create_dataset("c", data=values, chunks=(2, 3, 4)),
            "compressed": file.create_dataset("d", data=values, chunks=(1, 3, 4), compression="gzip"),
        }
        file.flush()
        offsets = {name: row_offsets(array) for name, array in layouts.items()}
    content = (tmp_path / "file.h5").read_bytes()
    for name in ("contiguous", "by row"):
        rows = [np.frombuffer(content, np.float32, 12, offset) for offset in offsets[name]]
        np.testing.assert_array_equal(np.reshape(rows, values.shape), values)
    assert offsets["by two rows"] is None
    assert offsets["compressed"] is None


def test_a_second_run_does_nothing_and_a_changed_source_is_noticed(tiny_data, tmp_path, capsys):
    old = shutil.copytree(tiny_data, tmp_path / "old")
    arguments = ["--root", str(old), "--to", str(tmp_path / "new")]
    assert convert.main(arguments) == 0
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "new").iterdir()}
    capsys.readouterr()
    assert convert.main(arguments) == 0
    assert capsys.readouterr().out.count("already converted") == 4
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "new").iterdir()} == before
    write(old / files.AUDIO, array_file(old / files.AUDIO).read() + 1)
    assert convert.main(arguments) == 2
    assert f"{tmp_path / 'new' / files.AUDIO}: is already there" in capsys.readouterr().err


def test_a_pipe_in_the_place_of_a_copy_is_not_waited_for(tiny_data, tmp_path, capsys):
    (tmp_path / "new").mkdir()
    os.mkfifo(tmp_path / "new" / files.ANNOTATIONS)
    assert convert.main(["--root", str(tiny_data), "--to", str(tmp_path / "new")]) == 2
    assert f"{files.ANNOTATIONS}: is in the way" in capsys.readouterr().err


@pytest.mark.parametrize("name", [files.CATEGORIES, files.ORDERS[1], files.CLIP_LABELS, files.MADE_WITH])
def test_no_file_of_other_data_is_taken_for_one_of_these(name, tiny_data, tmp_path, capsys):
    root = shutil.copytree(tiny_data, tmp_path / "data")
    (root / name).unlink(missing_ok=True)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / name).write_text("of other data")
    assert convert.main(["--root", str(root), "--to", str(tmp_path / "new")]) == 2
    assert f"{tmp_path / 'new' / name}: is there already, but not in {root}" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_what_is_not_there_is_said(tiny_data, tmp_path, capsys):
    root = shutil.copytree(tiny_data, tmp_path / "data")
    (root / files.LABELS).unlink()
    assert convert.main(["--root", str(root), "--to", str(tmp_path / "new")]) == 0
    assert f"not in {root}, and so not in {tmp_path / 'new'} either: {files.LABELS}\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", [files.VISUAL, "test_order.h5"])
def test_a_users_file_is_not_replaced(tiny_data, tmp_path, capsys, name):
    shutil.copyfile(tiny_data / ("train_order.h5" if "order" in name else name), tmp_path / name)
    content = (tmp_path / name).read_bytes()
    assert convert.main(["--root", str(tiny_data), "--to", str(tmp_path), "--dtype", "float16"]) == 2
    assert "is already there" in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == content


def test_the_folder_itself_and_one_without_features_are_refused(tiny_data, tmp_path, capsys):
    assert convert.main(["--root", str(tiny_data), "--to", str(tiny_data)]) == 2
    assert "is the data folder itself" in capsys.readouterr().err
    assert convert.main(["--root", str(tmp_path), "--to", str(tmp_path / "new")]) == 2
    assert "holds no feature file" in capsys.readouterr().err


def test_a_disk_too_small_is_said_before_anything_is_written(tiny_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10))
    assert convert.main(["--root", str(tiny_data), "--to", str(tmp_path / "new")]) == 2
    assert "are needed, but only 0.00 GB are free" in capsys.readouterr().err
    assert not list((tmp_path / "new").iterdir())


CONVERT = """
import sys
from dataset import arrays, convert, files
from utils.base.errors import command
{before}
sys.exit(command(lambda: convert.convert(sys.argv[1], sys.argv[2], "float32"))())
"""


def converting(source: Path, destination: Path, before: str = "", **options: object) -> subprocess.Popen:
    """A process of its own: HDF5 may crash one in which a disk was full, at its end."""
    return subprocess.Popen(
        [sys.executable, "-c", CONVERT.format(before=before), str(source), str(destination)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_limit_on_file_sizes_is_named_and_nothing_is_left(source, tmp_path):
    process = converting(
        source,
        tmp_path / files.AUDIO,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**15, 2**15)),
    )
    assert "ulimit -f" in process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("reserves", [True, False])
def test_a_disk_that_fills_while_converting_is_named_and_nothing_is_left(source, tmp_path, reserves):
    write(source, np.ones((1000, 10, 8)))  # 320 kB in float32
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if not mount or subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=False).returncode:
        pytest.skip("making a small disk needs the right to mount one")
    try:
        # Without posix_fallocate (not every system has it) the disk is only found full while writing.
        process = converting(source, disk / files.AUDIO, before="" if reserves else "import os; del os.posix_fallocate")
        error = process.communicate(timeout=60)[1]
        assert error.startswith(f"error: {disk / files.AUDIO}: could not be written; the disk is full")
        assert error.count("\n") == 1
        assert process.returncode == 2
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_refused_write_is_named_and_nothing_is_left(source, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    with pytest.raises(UserError, match="the disk is full: free some space"):
        convert.convert(source, tmp_path / files.AUDIO, "float32")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_killed_conversion_leaves_no_file_in_place_and_the_next_run_finishes(source, tmp_path):
    slow = """
import time
arrays.BLOCK_BYTES = 1
real = arrays.ArrayFile.blocks
def slow(file):
    for block in real(file):
        yield block
        time.sleep(0.1)
arrays.ArrayFile.blocks = slow
"""
    process = converting(source, tmp_path / files.AUDIO, before=slow)
    part = f".{files.AUDIO}.*.part/{files.AUDIO}"
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(part)):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(tmp_path.glob(part))
    assert not (tmp_path / files.AUDIO).exists()
    convert.convert(source, tmp_path / files.AUDIO, "float32")
    np.testing.assert_array_equal(array_file(tmp_path / files.AUDIO).read(), array_file(source).read())
    assert sorted(path.name for path in tmp_path.iterdir()) == [files.AUDIO, "data"]


def test_two_conversions_into_one_folder_do_not_mix(tiny_data, tmp_path, capsys):
    with writing.alone(tmp_path):
        assert convert.main(["--root", str(tiny_data), "--to", str(tmp_path)]) == 2
    assert f"{tmp_path}: another run is writing there; wait until it ends" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert convert.main(["--root", str(tiny_data), "--to", str(tmp_path)]) == 0


def test_a_source_that_changes_meanwhile_is_named(source, tmp_path, monkeypatch):
    real = ArrayFile.blocks

    def changing(file: ArrayFile):
        for block in real(file):
            yield block
            with open(source, "rb+") as written:  # as a copy from elsewhere would
                written.seek(-8, os.SEEK_END)
                written.write(bytes(8))

    monkeypatch.setattr(ArrayFile, "blocks", changing)
    with pytest.raises(UserError, match="was changed while it was converted; run this again"):
        convert.convert(source, tmp_path / files.AUDIO, "float32")
    assert not (tmp_path / files.AUDIO).exists()


def test_links_into_other_files_become_arrays(tiny_data, tmp_path):
    old = shutil.copytree(tiny_data, tmp_path / "old")
    for name in (files.AUDIO, files.LABELS):
        (old / name).rename(old / f"kept-{name}")
        with h5py.File(old / name, "w") as file:
            file[files.KEY] = h5py.ExternalLink(f"kept-{name}", files.KEY)
    assert convert.main(["--root", str(old), "--to", str(tmp_path / "new")]) == 0
    for name in (files.AUDIO, files.LABELS):
        made = array_file(tmp_path / "new" / name)
        assert made.values_in == made.path
        np.testing.assert_array_equal(made.read(), array_file(tiny_data / name).read())

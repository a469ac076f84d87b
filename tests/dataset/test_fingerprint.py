"""What a data folder's fingerprint sees, at a cost that doesn't grow with the files."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from dataset import files, fingerprint
from dataset.fingerprint import differences, written_since
from utils.base.errors import UserError


@pytest.fixture
def folder(tiny_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_data, tmp_path / "data"))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny visual features (102 kB) are a large file of 6 strides."""
    monkeypatch.setattr(fingerprint, "WHOLE", 60_000)
    monkeypatch.setattr(fingerprint, "STRIDE", 2**14)
    monkeypatch.setattr(fingerprint, "BLOCK", 2**8)


def test_sizes_shapes_types_and_content_of_what_a_setting_reads(folder):
    prints = fingerprint.fingerprint(folder, None)
    order = folder / files.order_file("train")
    assert prints[files.VISUAL]["shape"] == [40, 10, 2, 2, 16]
    assert prints[files.VISUAL]["type"] == "float32"
    assert prints[files.AUDIO]["bytes"] == (folder / files.AUDIO).stat().st_size
    assert prints[order.name]["sha256"] == hashlib.sha256(order.read_bytes()).hexdigest()
    assert files.NOISY_AUDIO not in prints
    assert files.NOISY_AUDIO in fingerprint.fingerprint(folder, "clips_with_background")


def test_one_changed_number_of_a_small_file(folder):
    before = fingerprint.fingerprint(folder, None)
    with h5py.File(folder / files.LABELS, "r+") as file:
        file[files.KEY][0, 0, 0] = 0.5
    ((what, here, there),) = differences(fingerprint.fingerprint(folder, None), before)
    assert what == f"{files.LABELS} sha256"
    assert here != there == before[files.LABELS]["sha256"]


def test_a_changed_stretch_of_a_large_file_wherever_it_is(folder, small_blocks):
    path = folder / files.VISUAL
    before, content = fingerprint.fingerprint(folder, None), path.read_bytes()
    assert set(before[files.VISUAL]) == {"bytes", "shape", "type", "blocks", "modified"}
    for start in range(4096, len(content) - 2 * fingerprint.STRIDE, 5000):
        end = start + 2 * fingerprint.STRIDE
        path.write_bytes(content[:start] + bytes(255 - byte for byte in content[start:end]) + content[end:])
        after = fingerprint.fingerprint(folder, None)
        assert [what for what, _, _ in differences(after, before)] == [f"{files.VISUAL} blocks"], start
    with open(path, "rb+") as file:  # the very end, too
        file.seek(-1, os.SEEK_END)
        file.write(bytes([255 - content[-1]]))
    assert differences(fingerprint.fingerprint(folder, None), before)


def test_a_change_between_the_blocks_shows_in_the_time_alone(folder, small_blocks):
    path = folder / files.VISUAL
    before = fingerprint.fingerprint(folder, None)
    starts = list(fingerprint._starts(path.stat().st_size))
    with open(path, "rb+") as file:
        file.seek(starts[2] + fingerprint.BLOCK + 10)
        file.write(b"\x01\x02\x03")
    after = fingerprint.fingerprint(folder, None)
    assert differences(after, before) == []
    assert written_since(after, before) == [files.VISUAL]
    assert written_since(before, before) == []


def test_a_copy_is_the_same_data(folder, tmp_path, small_blocks):
    copy = shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    ours, theirs = (fingerprint.fingerprint(root, "clips_with_background") for root in (copy, folder))
    assert differences(ours, theirs) == []


def test_a_file_more_or_less_is_a_difference(folder):
    before = fingerprint.fingerprint(folder, None)
    (folder / files.LABELS).unlink()
    assert differences(fingerprint.fingerprint(folder, None), before)[0][0].startswith(files.LABELS)


def test_what_an_earlier_version_did_not_say_is_no_difference(folder, small_blocks):
    now = fingerprint.fingerprint(folder, None)
    earlier = {name: {k: v for k, v in of.items() if k not in ("blocks", "modified")} for name, of in now.items()}
    assert differences(now, earlier) == written_since(now, earlier) == []


def test_the_file_that_a_key_links_to_counts(folder):
    with h5py.File(folder / "elsewhere.h5", "w") as file:
        file["features"] = np.ones((40, 10, 8), np.float32)
    with h5py.File(folder / files.AUDIO, "w") as file:
        file[files.KEY] = h5py.ExternalLink("elsewhere.h5", "features")
    before = fingerprint.fingerprint(folder, None)
    with h5py.File(folder / "elsewhere.h5", "r+") as file:
        file["features"][3] = 2
    after = fingerprint.fingerprint(folder, None)
    assert [what for what, _, _ in differences(after, before)] == [f"{files.AUDIO} linked sha256"]


@pytest.mark.parametrize("name", [files.VISUAL, files.ANNOTATIONS])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_pipe_is_not_waited_for(name, make, tiny_data, tmp_path):
    root = shutil.copytree(tiny_data, tmp_path / "data")
    (root / name).unlink()
    make(root / name)
    with pytest.raises(UserError, match=f"{name}: is a pipe or a device"):
        fingerprint.fingerprint(root, None)

"""The same numbers, however an HDF5 file keeps them, give the same rows; what could give others is refused."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers_changes import never_closed

from dataset import arrays, files
from dataset.arrays import array_file, read_order
from dataset.ave import AVEDataset
from dataset.clips import read_clips, resident_dtypes
from dataset.loading import PLACEMENTS, make_batches
from dataset.rows import RowReader
from utils.base.errors import UserError

VALUES = np.random.default_rng(0).normal(size=(6, 4, 8)).astype(np.float16)  # what every type below can hold
CPU = torch.device("cpu")


def narrow_float(size: int, exponent: int, mantissa: int) -> h5py.h5t.TypeFloatID:
    """A floating-point type that NumPy doesn't have, such as bfloat16: (2, 8, 7)."""
    made = h5py.h5t.IEEE_F32LE.copy()
    made.set_fields(8 * size - 1, mantissa, exponent, 0, mantissa)
    made.set_precision(8 * size)
    made.set_size(size)
    made.set_ebias(2 ** (exponent - 1) - 1)
    return made


def of_type(kind: h5py.h5t.TypeID) -> Callable[[h5py.File], None]:
    def write(file: h5py.File) -> None:
        array = h5py.h5d.create(file.id, files.KEY.encode(), kind, h5py.h5s.create_simple(VALUES.shape))
        array.write(h5py.h5s.ALL, h5py.h5s.ALL, VALUES.astype(np.float32))

    return write


def with_options(**options: object) -> Callable[[h5py.File], None]:
    return lambda file: file.create_dataset(files.KEY, data=VALUES.astype(np.float32), **options)


def behind_a_soft_link(file: h5py.File) -> None:
    file["kept/here"] = VALUES
    file[files.KEY] = h5py.SoftLink("/kept/here")


def in_another_file(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).with_name("elsewhere.h5"), "w") as other:
        other["before"] = np.zeros(1000)
        other["features"] = VALUES
    file["unused"] = np.zeros(3)
    file[files.KEY] = h5py.ExternalLink("elsewhere.h5", "/features")


def in_a_group(file: h5py.File) -> None:
    file["training/features"] = VALUES


def by_another_name(file: h5py.File) -> None:
    file["features"] = VALUES
    file["again"] = h5py.SoftLink("/features")  # the same array


WAYS = {
    "float64": of_type(h5py.h5t.IEEE_F64LE),
    "float32, big-endian": of_type(h5py.h5t.IEEE_F32BE),
    "float16": of_type(h5py.h5t.IEEE_F16LE),
    "float16, big-endian": of_type(h5py.h5t.IEEE_F16BE),
    "24 bits": of_type(narrow_float(3, 8, 15)),
    "24 bits, two numbers more precise": of_type(narrow_float(4, 9, 22)),
    "chunks of a row": with_options(chunks=(1, 4, 8)),
    "chunks of two rows": with_options(chunks=(2, 4, 8)),
    "chunks of half a row": with_options(chunks=(1, 2, 8)),
    "gzip": with_options(chunks=(1, 4, 8), compression="gzip"),
    "lzf": with_options(compression="lzf", shuffle=True),
    "checksums": with_options(fletcher32=True, chunks=(1, 4, 8)),
    "growing": with_options(maxshape=(None, 4, 8)),
    "soft link": behind_a_soft_link,
    "another file": in_another_file,
    "in a group": in_a_group,
    "another name": by_another_name,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / files.AUDIO


def rows(path: Path, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    reader = RowReader(array_file(path), dtype)
    try:
        return torch.stack([reader[row] for row in range(len(VALUES))])
    finally:
        reader.close()


@pytest.mark.parametrize("userblock", [0, 1024])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_keeping_the_same_numbers_gives_them(path, way, userblock):
    with h5py.File(path, "w", userblock_size=userblock) as file:
        WAYS[way](file)
    assert torch.equal(rows(path), torch.from_numpy(VALUES.astype(np.float32)))
    assert np.array_equal(array_file(path).read(), VALUES)
    assert np.array_equal(np.concatenate([block for _, block in array_file(path).blocks()]), VALUES)


def test_numbers_in_bfloat16_are_read_as_such(path):
    with h5py.File(path, "w") as file:
        of_type(narrow_float(2, 8, 7))(file)
    assert array_file(path).dtype == np.float32
    expected = torch.from_numpy(VALUES.astype(np.float32)).bfloat16().float()
    torch.testing.assert_close(rows(path), expected, rtol=2**-7, atol=0)  # HDF5 may round down


def test_whole_numbers_are_features_too(path):
    for kind in ("?", "u1", "<i2", ">u2", "u4", "i8", "u8"):
        with h5py.File(path, "w") as file:
            file[files.KEY] = (np.arange(192).reshape(6, 4, 8) % 2).astype(kind)
        assert torch.equal(rows(path), torch.arange(192.0).reshape(6, 4, 8) % 2)


def external(file: h5py.File) -> None:
    raw = Path(file.filename).with_name("raw")
    raw.write_bytes(b"")
    file.create_dataset(files.KEY, VALUES.shape, np.float16, external=[(str(raw), 0, VALUES.nbytes)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(VALUES.shape, np.float16)
    layout[:] = h5py.VirtualSource("gone.h5", "x", VALUES.shape)
    file.create_virtual_dataset(files.KEY, layout)


@pytest.mark.parametrize("write", [external, virtual])
def test_arrays_in_parts_are_refused_as_missing_parts_would_be_zeros(path, write):
    with h5py.File(path, "w") as file:
        write(file)
    with pytest.raises(UserError, match="put together from parts of other files; save it as one array"):
        array_file(path)


def test_a_filter_that_is_not_here_is_named(path, monkeypatch):
    with h5py.File(path, "w") as file:
        with_options(compression="gzip")(file)
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: False)
    with pytest.raises(UserError, match=r"compressed by filter 1 deflate.*save it uncompressed or with gzip"):
        array_file(path)


@pytest.mark.parametrize("link", [h5py.SoftLink("/nothing"), h5py.ExternalLink("nowhere.h5", "/x")])
def test_a_link_that_leads_nowhere_is_named(path, link):
    with h5py.File(path, "w") as file:
        file["other"] = VALUES
        file[files.KEY] = link
    with pytest.raises(UserError, match=r"its key 'avadataset' is a link to (nowhere\.h5 )?/.*; mend the link"):
        array_file(path)


def test_another_name_is_said_once_in_one_line(path, caplog):
    caplog.set_level(logging.INFO)
    with h5py.File(path, "w") as file:
        file["features"] = VALUES
    for _ in range(2):
        array_file(path)
        arrays._known.clear()
    assert caplog.messages == [f"{path}: takes its only array, 'features', for 'avadataset'"]


def test_a_pipe_is_named_and_not_waited_for(path):
    os.mkfifo(path)
    with pytest.raises(UserError, match="is a pipe or a device, not a file"):
        array_file(path)


# --- What is opened, and how often ---


def test_a_file_is_opened_once_until_it_changes(path, monkeypatch):
    opened, real = [], h5py.File
    monkeypatch.setattr(h5py, "File", lambda path, *mode: opened.append(path) or real(path, *mode))
    with real(path, "w") as file:
        file[files.KEY] = VALUES
    assert array_file(path) is array_file(path)
    assert torch.equal(rows(path), torch.from_numpy(VALUES.astype(np.float32)))  # without HDF5
    assert len(opened) == 1
    with real(path, "w") as file:
        file[files.KEY] = VALUES[:3]
    assert len(array_file(path)) == 3


def test_a_training_opens_its_features_once(tiny_data, monkeypatch):
    opened, real = [], h5py.File
    monkeypatch.setattr(h5py, "File", lambda path, *mode: opened.append(Path(path).name) or real(path, *mode))
    arrays._known.clear()
    datasets = {split: AVEDataset(tiny_data, split) for split in files.SPLITS}
    make_batches(datasets, "host", dict.fromkeys(datasets, 5), CPU, seed=0)
    assert opened.count(files.VISUAL) == opened.count(files.AUDIO) == 1


def test_a_file_that_changes_while_it_is_in_use_is_named(path):
    with h5py.File(path, "w") as file:
        file[files.KEY] = VALUES
    known = array_file(path)
    with h5py.File(path, "w") as file:
        file[files.KEY] = np.zeros((60, 4, 8))
    with pytest.raises(UserError, match="was changed while it was in use; start again"):
        RowReader(known, torch.float32)


# --- Orders ---


@pytest.mark.parametrize(
    "order",
    [
        np.array([4, 0, 7]), np.array([[4], [0], [7]]), np.array([[4, 0, 7]], np.uint8), np.array([4.0, 0.0, 7.0]),
        np.array([[4], [0], [7]], ">f4"),
    ],
)  # fmt: skip
def test_orders_as_people_keep_them(tmp_path, order):
    with h5py.File(tmp_path / "val_order.h5", "w") as file:
        file["val"] = order
    assert read_order(tmp_path, "val").tolist() == [4, 0, 7]


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (np.array([4.5]), "whole numbers"),
        (np.array([np.nan]), "whole numbers"),
        (np.array([np.inf]), "whole numbers"),
        (np.array([2**63], np.uint64), "whole numbers"),
        (np.array([True, False]), "whole numbers"),
        (np.array([2048], np.float16), "float16 numbers, which leave out most rows above 2048"),
        (np.zeros((3, 2), int), "needs 1 dimensions"),
    ],
)
def test_orders_that_name_no_rows_are_refused(tmp_path, order, said):
    with h5py.File(tmp_path / "val_order.h5", "w") as file:
        file["order"] = order
    with pytest.raises(UserError, match=said):
        read_order(tmp_path, "val")


# --- Types and values of features ---


def test_each_kind_of_feature_waits_in_its_own_type(tiny_data, tmp_path):
    """Visual features in float16 and audio in float32, some too large for float16."""
    for source in tiny_data.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    for name, change in ((files.VISUAL, lambda x: x.astype(np.float16)), (files.AUDIO, lambda x: x * 1e6)):
        with h5py.File(tmp_path / name, "r+") as file:
            values = change(file[files.KEY][()])
            del file[files.KEY]
            file[files.KEY] = values
    dataset = AVEDataset(tmp_path, "train")
    assert resident_dtypes(dataset) == (torch.float16, torch.float32)
    batches = [
        list(make_batches({"train": dataset}, placement, {"train": 24}, CPU, seed=0, workers=0)["train"].epoch(0))
        for placement in PLACEMENTS
    ]
    for (batch,) in batches:
        position = batch.clips.argsort()
        assert torch.equal(batch.visual[position], torch.stack([dataset[i][0] for i in range(24)]))
        assert torch.equal(batch.audio[position], torch.stack([dataset[i][1] for i in range(24)]))
        assert batch.audio.max() > 1e5


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e39])
@pytest.mark.parametrize("stored", ["f8", "f4", "f2"])
def test_a_value_that_is_not_finite_is_named_wherever_features_wait(tiny_data, tmp_path, placement, value, stored):
    if value == 1e39 and stored != "f8":
        pytest.skip("is infinite there")
    for source in tiny_data.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    row = int(read_order(tmp_path, "val")[3])
    with h5py.File(tmp_path / files.AUDIO, "r+") as file:
        values = file[files.KEY][()].astype(stored)
        values[row, 9, 7] = value
        del file[files.KEY]
        file[files.KEY] = values
    what = "a value too large for float32" if value == 1e39 else "NaN or infinity"
    with pytest.raises(UserError, match=rf"{files.AUDIO}: row {row} holds {what}"):
        list(
            make_batches({"val": AVEDataset(tmp_path, "val")}, placement, {"val": 3}, CPU, 0, workers=0)["val"].epoch(0)
        )
    read_clips(AVEDataset(tmp_path, "test"), torch.arange(8), CPU, workers=2)  # another split's clips are whole


def test_a_file_that_another_program_writes_is_not_called_damaged(tmp_path):
    path = tmp_path / files.AUDIO
    with h5py.File(path, "w") as file:
        file[files.KEY] = np.zeros((2, 4, 8))
    with open(path, "rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is being written by another program; wait until that closes it"):
            array_file(path)
    never_closed(path, None)
    with pytest.raises(UserError, match="is being written by another program, or was when that was killed"):
        array_file(path)

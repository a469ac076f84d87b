"""Checkpoints are whole or not there, loading runs no code, and a run that can't write leaves the last good one."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import h5py
import helpers_bad
import pytest
import torch
from conftest import ROOT
from helpers_bad import MAINS, Code, flip, one_line
from tensorboard.summary.writer.record_writer import RecordWriter

from dataset import files
from dataset.arrays import read_order
from model.cmbs import SupervisedCMBS
from utils.base import atomic, checkpoint
from utils.base.checkpoint import Checkpoint
from utils.base.errors import UserError
from utils.base.paths import BEST, LAST
from utils.config.settings import SUPERVISED
from utils.evaluation import evaluate
from utils.training import record as run_record
from utils.training.provenance import FILE

quick = pytest.fixture(helpers_bad.quick, autouse=True, scope="module")


CONTENT = {"config": {}, "network": {"w": torch.arange(4.0)}, "epoch": 3, "metrics": {}}


@pytest.fixture
def train(tiny_config, tmp_path):
    """train(*flags, **train_settings) -> exit code of a training in tmp_path / "run"."""

    def start(*flags: str, name: str = SUPERVISED, **train) -> int:
        config = tiny_config(name, train={"n_epoch": 3, **train})
        return MAINS[name](["--config", str(config), "--gpu", "cpu", *flags])

    return start


def saved(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.endswith(".pth.tar")}


# --- Writing ---


def test_what_is_saved_is_loaded(tmp_path):
    Checkpoint(**CONTENT).save(tmp_path / "x.pth.tar")
    loaded = Checkpoint.load(tmp_path / "x.pth.tar")
    assert torch.equal(loaded.network["w"], CONTENT["network"]["w"])
    assert loaded.epoch == 3


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_the_older_file_stays_when_the_new_one_cannot_be_written(function, code, tmp_path, monkeypatch):
    path = tmp_path / "x.pth.tar"
    Checkpoint(**CONTENT).save(path)
    before = path.read_bytes()

    def refused(*args):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, function, refused)
        with pytest.raises(UserError, match="could not be written"):
            Checkpoint(**CONTENT | {"epoch": 4}).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_save_leaves_no_view_of_its_buffer(tmp_path, monkeypatch):
    """The error's traceback keeps what the write was given: a view of the buffer there crashes Python 3.12."""
    buffer = io.BytesIO()
    monkeypatch.setattr(checkpoint, "io", SimpleNamespace(BytesIO=lambda: buffer))
    (tmp_path / "folder").write_bytes(b"in the way")
    with pytest.raises(UserError) as kept:
        Checkpoint(**CONTENT).save(tmp_path / "folder" / "x.pth.tar")
    assert kept.value.__cause__ is not None
    buffer.close()  # raises BufferError while a view of it lives


@pytest.mark.parametrize("moment", ["last", "best", "metrics.jsonl", "tensorboard", "log.txt"])
def test_a_full_disk_ends_the_run_with_the_last_good_checkpoint(moment, train, tmp_path, monkeypatch, capfd):
    """The disk is full from the second epoch on, first for one of the files that are written then."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    write_bytes, epoch, write_record, calls = Path.write_bytes, run_record.Recorder.epoch, RecordWriter.write, []

    def write(path: Path, content: bytes) -> int:
        calls.append(path.name)
        if path.name == f"{moment}.pth.tar" and calls.count(path.name) == 2:
            raise full
        return write_bytes(path, content)

    def line(recorder, metrics, step) -> None:
        if moment == "metrics.jsonl" and metrics["epoch"] == 2:
            recorder.folder = Path("/dev/full")  # no file can be made under it
        epoch(recorder, metrics, step)

    def record(writer, data) -> None:
        if moment == "tensorboard" and len(saved(tmp_path / "run")) == 3:
            raise full
        write_record(writer, data)

    def flush(handler) -> None:
        if moment == "log.txt" and len(saved(tmp_path / "run")) == 3:
            raise full

    # Accuracies rise, so that each epoch writes a best checkpoint.
    accuracies = iter(range(100))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write)
        patch.setattr(run_record.Recorder, "epoch", line)
        patch.setattr(RecordWriter, "write", record)
        patch.setattr(run_record._LogFile, "flush", flush)
        patch.setattr(evaluate.Evaluation, "accuracy", property(lambda _: float(next(accuracies))))
        assert train() == 2
    assert "could not be written" in one_line(capfd)
    content = Checkpoint.load(tmp_path / "run" / LAST)
    assert content.epoch == (2 if moment == "best" else 1)
    assert Checkpoint.load(tmp_path / "run" / BEST).epoch == 1
    assert not list((tmp_path / "run").glob(".*.part"))
    assert train("--resume", "last") == 0
    assert Checkpoint.load(tmp_path / "run" / LAST).epoch == 3


_IN_A_NAMESPACE = """
set -e
mkdir -p {run}
mount -t tmpfs -o size={size} tmpfs {run}
{before}
set +e
{python} supv_main.py --config {config} --gpu cpu {flags} > /dev/null
code=$?
cp -r {run}/. {kept}
exit $code
"""


def in_a_small_file_system(tmp_path: Path, config: Path, size: str, flags: str = "", before: str = "") -> tuple:
    """Train into a file system of its own: exit code, stderr and a copy of the run folder."""
    kept = tmp_path / "kept"
    kept.mkdir(exist_ok=True)
    script = _IN_A_NAMESPACE.format(
        run=tmp_path / "run", size=size, config=config, flags=flags, before=before, kept=kept, python=sys.executable
    )
    if not shutil.which("unshare"):
        pytest.skip("needs unshare, to mount a small file system")
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "x", "/mnt"], capture_output=True).returncode:
        pytest.skip("may not mount a small file system here")
    done = subprocess.run(["unshare", "-rm", "bash", "-c", script], capture_output=True, text=True, cwd=ROOT)
    return done.returncode, done.stderr, kept


def test_a_disk_that_is_really_full(tiny_config, tmp_path):
    """A file system that holds the weights with the optimiser's state once, but not twice."""
    code, error, kept = in_a_small_file_system(tmp_path, tiny_config(train={"n_epoch": 50}), size="5500k")
    assert code == 2
    assert "the disk is full" in error
    assert error.count("\n") == 1
    assert Checkpoint.load(kept / LAST).epoch == 1
    assert not list(kept.glob(".*.part"))


def test_a_folder_that_is_really_read_only(tiny_config, tmp_path):
    before = f"mount -o remount,ro {tmp_path / 'run'}"
    code, error, kept = in_a_small_file_system(tmp_path, tiny_config(), size="1m", before=before)
    assert code == 2
    assert "read-only" in error
    assert error.count("\n") == 1
    assert not list(kept.iterdir())


# --- Reading ---


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("good") / "x.pth.tar"
    torch.manual_seed(0)
    Checkpoint(**CONTENT | {"network": {"w": torch.randn(500)}}).save(path)
    return path


def test_a_changed_weight_is_noticed(good, tmp_path):
    """torch.load reads such a file without a word."""
    path = tmp_path / "x.pth.tar"
    shutil.copy(good, path)
    with zipfile.ZipFile(path) as file:
        place = next(entry.header_offset for entry in file.infolist() if entry.filename.endswith("data/0"))
    flip(path, (place + 1000) / path.stat().st_size)
    assert not torch.equal(torch.load(path)["network"]["w"], torch.load(good)["network"]["w"])
    with pytest.raises(UserError, match="damaged"):
        Checkpoint.load(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_named_and_not_run(protocol, zipped, good, tmp_path):
    path, canary = tmp_path / "x.pth.tar", tmp_path / "canary"
    code = pickle.dumps({"format": checkpoint.FORMAT, "network": Code(canary)}, protocol)
    if zipped:
        with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w") as new:
            for entry in old.infolist():
                new.writestr(entry, code if entry.filename.endswith("/data.pkl") else old.read(entry))
    else:
        path.write_bytes(code)
    with pytest.raises(UserError, match=r"holds code \((posix|os)\.system\), which is not run"):
        Checkpoint.load(path)
    assert not canary.exists()


def test_torchscript_is_named(tmp_path):
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), buffer)
    (tmp_path / "x.pth.tar").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="TorchScript"):
        Checkpoint.load(tmp_path / "x.pth.tar")


# --- Losses that aren't finite, and memory that isn't there ---


@pytest.fixture
def bad_features(tiny_data, tmp_path) -> tuple[Path, int]:
    """A copy of the tiny data with a training clip of values so large that its loss isn't finite; its row."""
    folder = tmp_path / "bad"
    shutil.copytree(tiny_data, folder)
    row = int(read_order(folder, "train")[7])
    with h5py.File(folder / files.VISUAL, "r+") as file:
        file[files.KEY][row, 3] = 3e38
    return folder, row


def test_a_loss_that_is_not_finite_stops_the_run(train, tiny_data, bad_features, tmp_path, capfd):
    folder, row = bad_features
    assert train(n_epoch=1) == 0
    # The bad clip comes in the second epoch: what the first one saved must stay.
    last = Checkpoint.load(tmp_path / "run" / LAST)
    last.data = None  # else the run refuses to go on with other data
    last.save(tmp_path / "run" / LAST)
    (tmp_path / "run" / FILE).unlink()
    good = saved(tmp_path / "run")
    assert train("--resume", "last", "--data_root", str(folder)) == 2
    error = one_line(capfd)
    for words in ("epoch 2, step ", "total nan", "dataset.check"):
        assert words in error
    assert re.search(rf"rows .*\b{row}\b.* of {files.VISUAL}", error)
    assert saved(tmp_path / "run") == good
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["epoch"] == 1


def test_out_of_memory_names_the_batch_size_to_try(train, monkeypatch, capfd):
    monkeypatch.setattr("model.losses.SupervisedLoss.forward", lambda *args: {"total": torch.empty(2**50)})
    assert train() == 2
    assert "out of memory with --batch_size 10: try --batch_size 5" in one_line(capfd)


def test_out_of_memory_in_an_evaluation_names_its_batch_size(train, monkeypatch, capfd):
    predict = SupervisedCMBS.predict

    def full(output, explanation=None):
        if explanation is None:  # in training
            return predict(output)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(SupervisedCMBS, "predict", staticmethod(full))
    assert train() == 2
    assert "--test_batch_size 16: try --test_batch_size 8" in capfd.readouterr().err


def test_out_of_memory_before_the_first_step_says_what_to_do(train, tiny_config, monkeypatch, capfd):
    monkeypatch.setattr("utils.evaluation.splits.make_batches", lambda *args: torch.empty(2**50))
    assert train() == 2
    assert "data.placement" in one_line(capfd)

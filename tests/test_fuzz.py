"""Whatever a file holds, it is read or refused in one line: no traceback, no hang, no code run, nothing else written.

The suite tries 2,000 inputs, the same each time. A longer run, with other inputs each time:

    CMBS_FUZZ_INPUTS=50000 python -m pytest tests/test_fuzz.py
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import os
import pickle
import shutil
import signal
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import helpers_bad
import numpy as np
import pytest
import torch
from conftest import TINY_MODEL
from helpers_bad import Code
from helpers_runs import difference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataset import files
from dataset.ave import AVEDataset, WeakAVEDataset
from dataset.check.folder import check_folder
from dataset.labels import clip_labels_from_annotations, labels_from_annotations
from model import build_loss, build_model
from model.localization import Localization
from utils.base.checkpoint import Checkpoint
from utils.base.errors import UserError
from utils.config import command_line
from utils.config import files as config_files
from utils.config import settings as config_settings
from utils.config.settings import SUPERVISED
from utils.evaluation.weights import load_weights
from utils.training import loop
from utils.training.record import SilentRecorder

INPUTS = int(os.environ.get("CMBS_FUZZ_INPUTS", "2000"))
SECONDS = 60  # that no input may take, on however busy a machine

quick = pytest.fixture(helpers_bad.quick, autouse=True, scope="module")

tried: Counter[str] = Counter()
outcomes: Counter[str] = Counter()


def fuzz(share: float, **strategies: st.SearchStrategy) -> Callable:
    """Call a test with `share` of all inputs."""
    number = math.ceil(share * INPUTS)

    def decorate(test: Callable) -> Callable:
        given_test = settings(
            max_examples=number,
            deadline=None,
            database=None,
            derandomize="CMBS_FUZZ_INPUTS" not in os.environ,
            suppress_health_check=list(HealthCheck),
        )(given(**strategies)(test))
        return given_test

    return decorate


# --- What an input may not do ---

_forbidden: list[str] | None = None  # while an input is tried: what it did that it may not
_allowed = Path()
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "ctypes.dlopen")
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")


def _audit(event: str, arguments: tuple) -> None:
    if _forbidden is None:
        return
    if event in _RUNS:
        _forbidden.append(f"{event} {arguments}")
    elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike) and (arguments[2] or 0) & _WRITES:
        if _allowed not in Path(os.fsdecode(arguments[0])).absolute().parents:
            _forbidden.append(f"{event} {arguments}")
    elif event in _CHANGES and _allowed not in Path(os.fsdecode(arguments[0])).absolute().parents:
        _forbidden.append(f"{event} {arguments}")


sys.addaudithook(_audit)


@contextlib.contextmanager
def harmless(target: str, folder: Path, canary: Path | None = None) -> Iterator[None]:
    """Within the block an input is tried: UserError is fine, and nothing else but success is."""
    global _forbidden, _allowed
    _forbidden, _allowed = [], folder
    before = set(folder.rglob("*"))
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"took more than {SECONDS} s"))
    signal.alarm(SECONDS)
    said = None
    try:
        yield
    except UserError as error:
        said = str(error)
    finally:
        signal.alarm(0)
        did, _forbidden = _forbidden, None
    assert not did
    assert said is None or (said and "\n" not in said and len(said) < 5000)
    outcomes[f"{target}: {'refused' if said else 'read'}"] += 1
    assert set(folder.rglob("*")) == before
    assert canary is None or not canary.exists()
    tried[target] += 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module", autouse=True)
def tally() -> Iterator[None]:
    yield
    print(f"\nfuzz: {tried.total():,} inputs; {dict(sorted(outcomes.items()))}")


# --- Config files ---

_words = st.sampled_from(["model", "data", "train", "eval", "extends", "name", "lr", "root", SUPERVISED, "generate"])
_numbers = st.one_of(
    st.integers(), st.floats(), st.sampled_from([0, -0.0, 1, 2**31, 2**63, 10**400, -(10**400), 1e308, math.nan])
)
_leaves = st.one_of(st.none(), st.booleans(), _numbers, st.text(), _words, st.characters(categories=["Cs", "Cc"]))
_json = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | _words, inner, max_size=4),
    max_leaves=12,
)

_VALID = {
    "model": {"name": SUPERVISED, **TINY_MODEL},
    "data": {"root": "data", "generate": {"train": 1, "val": 1, "test": 1, "background_only": 1, "categories": 3}},
    "train": {"n_epoch": 2, "milestones": [1], "lr": 1e-3},
    "eval": {"split": "test"},
}


def positions(value: Any, prefix: tuple = ()) -> list[tuple]:
    """Every position in a nest of dicts and lists, as the keys on the way to it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [prefix] * bool(prefix) + [position for key, v in inner for position in positions(v, (*prefix, key))]


def changed(value: Any, position: tuple, new: Any) -> Any:
    """A copy of `value` with another value at one position; `...` removes that."""
    value = copy.deepcopy(value)
    target = value
    for key in position[:-1]:
        target = target[key]
    if new is ...:
        del target[position[-1]]
    else:
        target[position[-1]] = new
    return value


def read_config(folder: Path, content: bytes) -> None:
    path = folder / "config.json"
    path.write_bytes(content)
    with harmless("config", folder):
        command_line.parse(["--config", str(path)], "", str(path), "full")


@fuzz(0.15, content=st.one_of(st.binary(max_size=200), st.text().map(lambda t: t.encode("utf-16"))))
def test_config_of_any_bytes(folder, content):
    read_config(folder, content)


@fuzz(0.17, content=_json)
def test_config_of_any_json(folder, content):
    read_config(folder, json.dumps(content).encode("utf-8", "surrogatepass"))


@fuzz(
    0.2,
    position=st.sampled_from(positions(_VALID)),
    new=_json | st.just(...),
    key=st.none() | st.text() | _words,
)
def test_config_with_one_thing_changed(folder, position, new, key):
    config = changed(_VALID, position, new)
    if key is not None:
        section = config.get("train")
        if isinstance(section, dict):
            section[key] = copy.deepcopy(new) if new is not ... else 1
    read_config(folder, json.dumps(config).encode("utf-8", "surrogatepass"))


@fuzz(0.02, depth=st.integers(1, 10**5), opening=st.sampled_from(["[", '{"a":', '{"model":', '{"train":{"lr":[']))
def test_config_nested_deeply_or_huge(folder, depth, opening):
    read_config(folder, (opening * depth).encode())
    read_config(folder, ('{"train": {"lr": ' + "9" * depth + "}}").encode())


# --- Checkpoints ---


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return build_model({"name": SUPERVISED, **TINY_MODEL, "d_model": 4, "video_inputdim": 8, "audio_inputdim": 4})


@pytest.fixture(scope="module")
def setup(network) -> tuple[config_settings.Config, Callable[[], loop.Training]]:
    """A config, and how to make a training of it."""
    model = {"name": SUPERVISED, **TINY_MODEL, "d_model": 4, "video_inputdim": 8, "audio_inputdim": 4}
    config = config_files.build({"model": model}, "test")
    localization = Localization(network)
    loss = build_loss(config.model)

    def make() -> loop.Training:
        return loop.Training(
            network,
            loss,
            localization,
            {"train": SimpleNamespace(in_blocks=False)},
            config,
            SilentRecorder(Path("nowhere")),
        )

    return config, make


@pytest.fixture(scope="module")
def good(setup, network, folder) -> dict[str, Any]:
    """The content of a checkpoint as training writes it."""
    config, make = setup
    training = make()
    network(torch.rand(1, 4, 2, 2, 8), torch.rand(1, 4, 4)).event_logits.sum().backward()
    training.optimizer.step()
    training.position.best = {"test": {"epoch": 1, "val_accuracy": 50.0, "test_accuracy": 50.0}}
    content = Checkpoint(
        network.state_dict(), config=config.model_dump(), epoch=1, metrics={"epoch": 1},
        localization=training.localization.state(), training=training.state(),
    )  # fmt: skip
    states = content.training["optimizer"]["state"]
    for index in list(states)[3:]:  # three of them are as good as all, and quicker
        del states[index]
    content.save(folder / "good.pth.tar")
    return torch.load(folder / "good.pth.tar", weights_only=True)


@pytest.fixture(scope="module")
def small(folder) -> bytes:
    """A checkpoint of few bytes, so that a random one is often not a weight's."""
    Checkpoint({"w": torch.arange(6.0)}, config={"a": 1}, epoch=1).save(folder / "small.pth.tar")
    return (folder / "small.pth.tar").read_bytes()


_fraction = st.floats(0, 1, exclude_max=True)


@fuzz(
    0.24,
    flips=st.lists(st.tuples(_fraction, st.integers(1, 255)), max_size=8),
    cut=st.none() | _fraction,
    inserted=st.none() | st.tuples(_fraction, st.binary(max_size=20)),
)
def test_checkpoint_with_bytes_flipped_cut_or_inserted(folder, small, flips, cut, inserted):
    path = folder / "fuzzed.pth.tar"
    content = bytearray(small)
    for position, change in flips:
        content[int(position * len(content))] ^= change
    if inserted is not None:
        position = int(inserted[0] * len(content))
        content[position:position] = inserted[1]
    if cut is not None:
        content = content[: int(cut * len(content))]
    path.write_bytes(content)
    whole = vars(Checkpoint.load(folder / "small.pth.tar")) | {"path": path}
    with harmless("checkpoint bytes", folder):
        # What still loads is what was saved: the change was in bytes that hold nothing.
        assert difference(vars(Checkpoint.load(path)), whole) is None


_anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.just({}), st.just(...),
    st.sampled_from([torch.zeros(0), torch.ones(3), torch.ones(2, 2, dtype=torch.int64), torch.ones(1).expand(9**9)]),
    st.lists(st.integers(-(2**70), 2**70), max_size=3),
)  # fmt: skip


@fuzz(0.08, number=st.floats(0, 1, exclude_max=True), new=_anything)
def test_checkpoint_with_one_thing_changed(folder, setup, network, good, number, new):
    config, make = setup
    there = positions(good)
    position = there[int(number * len(there))]
    path = folder / "changed.pth.tar"
    try:
        torch.save(changed(good, position, new), path)
    except (RuntimeError, OverflowError):  # not a thing that can be saved
        return
    generators = torch.get_rng_state()
    with harmless("checkpoint content", folder):
        content = load_weights(network, path, config.model)
        if content.training is not None:
            make().restore(content.training)
    torch.set_rng_state(generators)


@fuzz(0.08, code=st.binary(max_size=60), after=st.booleans(), protocol=st.integers(0, 5), zipped=st.booleans())
def test_checkpoint_of_any_pickle(folder, small, code, after, protocol, zipped):
    """Any bytes, before or after a pickle that runs a command when it is loaded."""
    canary, path = folder / "canary", folder / "pickle.pth.tar"
    attack = pickle.dumps(Code(canary), protocol)
    content = attack[:-1] + code + attack[-1:] if after else code + attack
    if zipped:
        with zipfile.ZipFile(io.BytesIO(small)) as old, zipfile.ZipFile(path, "w") as new:
            for entry in old.infolist():
                new.writestr(entry, content if entry.filename.endswith("/data.pkl") else old.read(entry))
    else:
        path.write_bytes(content)
    with harmless("pickle", folder, canary):
        Checkpoint.load(path)


# --- Annotations ---

_field = st.one_of(st.text(max_size=8), st.integers(-5, 20).map(str), st.sampled_from(["", "1e3", "٣", "0x1", "1_0"]))
_line = st.one_of(
    st.text(max_size=40), st.lists(_field, max_size=7).map("&".join),
    st.tuples(st.text("ab", min_size=1), st.integers(0, 9), st.integers(1, 10)).map(
        lambda t: f"{t[0]}&id&good&{min(t[1:])}&{max(t[1:])}"
    ),
)  # fmt: skip


@fuzz(
    0.1,
    lines=st.lists(_line, max_size=4),
    end=st.sampled_from(["\n", "\r\n", "\r", "\x0b", "\n\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-8", "utf-16", "utf-16-le", "utf-32"]),
)
def test_annotations_of_any_lines(folder, lines, end, encoding):
    path = folder / files.ANNOTATIONS
    path.write_bytes(end.join(lines).encode(encoding, "surrogatepass"))
    with harmless("annotations", folder):
        labels = labels_from_annotations(path)
        assert (labels.sum(-1) == 1).all()
        assert (clip_labels_from_annotations(path).sum(-1) == 1).all()


# --- HDF5 files ---

_dtypes = st.sampled_from(
    ["f2", "f4", "f8", ">f4", ">f8", "i1", "i8", ">i2", "u1", "u8", "?", "c8", "S3", "V4", "longdouble", "object",
     "enum", "compound", "reference", "bfloat"]
)  # fmt: skip
_shapes = st.lists(st.integers(0, 6), max_size=6).map(tuple) | st.sampled_from(
    [(40, 10, 2, 2, 16), (40, 10, 8), (40, 10, 4), (40, 4), (24,), (8,), (6, 10, 2, 2, 16), (6, 10, 8), (6, 4), "null"]
)
_storage = st.sampled_from(
    ["plain", "chunked", "gzip", "group", "soft link", "dangling link", "external link", "scalar"]
)


def write_hdf5(
    path: Path, key: str, dtype: str, shape: tuple | str, storage: str, values: int, attributes: Any
) -> None:
    special = {
        "enum": h5py.enum_dtype({"a": 0, "b": 1}), "compound": np.dtype([("a", "f4"), ("b", "i4")]),
        "reference": h5py.ref_dtype, "object": h5py.string_dtype(),
    }  # fmt: skip
    with h5py.File(path, "w") as file:
        if storage == "group":
            made = file.create_group(key)
        elif storage == "dangling link":
            file[key] = h5py.SoftLink("/nothing")
            made = file
        elif storage == "external link":
            file[key] = h5py.ExternalLink("/dev/null", "/x")
            made = file
        elif shape == "null":
            made = file.create_dataset(key, data=h5py.Empty("f4"))
        else:
            kind = special.get(dtype) or (None if dtype == "bfloat" else np.dtype(dtype))
            name = f"{key}-target" if storage == "soft link" else key
            shape = () if storage == "scalar" else shape
            more = {"chunks": True} if storage == "chunked" else {"compression": "gzip"} if storage == "gzip" else {}
            if 0 in shape or not shape:
                more = {}
            made = file.create_dataset(name, shape, kind or "f2", **more)
            if kind is not None and kind.kind in "fiub" and dtype not in special:
                made[...] = np.asarray(values % 100, kind)
            if storage == "soft link":
                file[key] = h5py.SoftLink(f"/{name}")
        for name, value in attributes.items():
            made.attrs[name] = value


_attributes = st.dictionaries(
    st.text(st.characters(min_codepoint=1, categories=["L", "N"]), min_size=1, max_size=5)
    | st.sampled_from(["CLASS", "DIMENSION_LIST", "_FillValue", "scale_factor"]),
    st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(st.characters(categories=["L"])), st.just([1, 2])),
    max_size=3,
)


@pytest.fixture(scope="module")
def data(tiny_data, folder) -> Path:
    shutil.copytree(tiny_data, folder / "data")
    return folder / "data"


_EVERY_FILE = [
    files.VISUAL, files.AUDIO, files.LABELS, files.CLIP_LABELS, files.order_file("train"), files.order_file("test"),
    files.NOISY_VISUAL, files.NOISY_AUDIO, files.NOISY_LABELS,
]  # fmt: skip


@fuzz(
    0.14,
    name=st.sampled_from(_EVERY_FILE),
    key=st.sampled_from(["avadataset", "order", "avadataset", "order", "other"]),
    dtype=_dtypes,
    shape=_shapes,
    storage=_storage,
    values=st.integers(-3, 50),
    attributes=_attributes,
)
def test_hdf5_of_any_type_shape_and_attributes(folder, data, name, key, dtype, shape, storage, values, attributes):
    path, whole, made = data / name, folder / "whole.h5", folder / "made.h5"
    write_hdf5(made, key, dtype, shape, storage, values, attributes)
    path.rename(whole)
    made.rename(path)
    try:
        with harmless("HDF5", folder):
            check_folder(data)  # reports what is wrong, and raises nothing for it
            for dataset in (AVEDataset, WeakAVEDataset):
                split = dataset(data, "train")
                visual, audio, label = split[0]
                assert visual.dtype == audio.dtype == label.dtype == torch.float32
    finally:
        whole.rename(path)

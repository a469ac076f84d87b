"""Fixtures that several test files share: the golden numbers, and a data set small enough to train on in a test."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset.synthetic import generate

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"

# Tests that need AVE's own annotation files (they are not in this repository) look here and skip without them.
AVE = Path(os.environ.get("CMBS_AVE_DIR", ROOT.parent / "shared" / "ave"))

TINY_DATA = {
    "train": 24, "val": 8, "test": 8, "background_only": 6, "categories": 3, "visual_dim": 16, "audio_dim": 8
}  # fmt: skip
TINY_MODEL = {"video_inputdim": 16, "audio_inputdim": 8, "d_model": 16, "categories": 3}


def pytest_configure() -> None:
    torch.set_num_threads(1)  # the tests' networks are so small that a second thread only waits


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape what isn't UTF-8 in what a test printed or logged (names of files), for pytest-xdist can't send it."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def ave_files() -> Path:
    """The folder of AVE's own annotation files."""
    if not (AVE / "Annotations.txt").exists():
        pytest.skip(f"AVE's annotation files are not in {AVE}; name their folder in CMBS_AVE_DIR")
    return AVE


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated data folder: 3 categories, 2x2 grid, 16 and 8 features, 24 + 8 + 8 clips. Read only."""
    return generate.generate(tmp_path_factory.mktemp("data") / "tiny", generate.Settings(**TINY_DATA, grid=(2, 2)))


@pytest.fixture(scope="session")
def gridless_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of 7 segments on a grid of one cell: visual features are stored without it, [40, 7, 16]. Read only."""
    settings = generate.Settings(**TINY_DATA, grid=(1, 1), segments=7)
    return generate.generate(tmp_path_factory.mktemp("data") / "gridless", settings)


@pytest.fixture
def tiny_config(tiny_data: Path, tmp_path: Path):
    """Write a config for `tiny_data` and return its path: tiny_config(name="weak_main_model", train={...})."""

    def write(name: str = "supv_main_model", **sections: dict) -> Path:
        config = {
            "model": {"name": name, **TINY_MODEL},
            "data": {"root": str(tiny_data)},
            "train": {"n_epoch": 2, "batch_size": 10, "snapshot_pref": str(tmp_path / "run")},
        }
        for section, values in sections.items():
            config[section] = {**config.get(section, {}), **values}
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(config))
        return path

    return write


@pytest.fixture
def write_study(tiny_config, tmp_path):
    """Write a study of `tiny_data` and return its path: write_study(seeds=[1], runs={...})."""

    def write(**changes: object) -> str:
        values = {
            "title": "generated data",
            "output": str(tmp_path / "study"),
            "seeds": [1, 2],
            "set": {"train": {"n_epoch": 2}},
            "runs": {"CMBS": tiny_config().name},
        }
        path = tmp_path / f"study{len(list(tmp_path.glob('study*.json')))}.json"
        path.write_text(json.dumps({**values, **changes}))
        return str(path)

    return write


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Within the block permissions hold even for root: this thread lacks the capabilities that pass over them."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # the third version of the interface, this thread
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; and their upper halves
    assert libc.capget(header, sets) == 0
    before = sets[0]
    sets[0] = before & ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = before
        assert libc.capset(header, sets) == 0


@pytest.fixture
def unprivileged():
    """Let permissions hold in this test, even where root runs it."""
    with without_privileges():
        yield


def without_dropout(network: torch.nn.Module) -> torch.nn.Module:
    """The network, none of whose parts drops anything out any more."""
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    return network


def golden_random(tag: str, salt: int = 0) -> np.random.RandomState:
    """The generator that the golden numbers' recipe names by `tag`."""
    return np.random.RandomState((zlib.crc32(tag.encode()) + salt) % 2**32)


def official_keys(name: str) -> list[tuple[str, tuple[int, ...], bool]]:
    """Every tensor of an authors' checkpoint: key without "module.", shape, whether their network uses it.

    `name` is "supv" or "weak" for CMBS, or another network's name.
    """
    file = f"official_{name}" if name in ("supv", "weak") else name
    lines = (GOLDEN / f"{file}_state_dict.tsv").read_text().splitlines()[1:]
    rows = (line.removeprefix("module.").split("\t") for line in lines)
    return [(key, tuple(int(n) for n in shape.split("x")), used == "yes") for key, shape, used in rows]


def official_state_dict(name: str, salt: int = 0) -> dict[str, torch.Tensor]:
    """An authors' checkpoint with the weights of the golden numbers' recipe, float64."""
    state = {}
    for key, shape, _ in official_keys(name):
        weight = golden_random("weight:" + key, salt).standard_normal(shape)
        if len(shape) >= 2:
            weight /= np.sqrt(shape[1])
        elif "norm" in key.split(".")[-2] and key.endswith("weight"):
            weight = 1 + 0.1 * weight
        else:
            weight = 0.1 * weight
        state[key] = torch.from_numpy(weight)
    return state

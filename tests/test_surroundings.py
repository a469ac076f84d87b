"""What lies around a command changes: it does the same as before, or refuses in one line, and nothing else changes.

A draw takes a command and one change: a file is removed, damaged, retyped or saved by another editor, the disk's limit
is near, output goes nowhere, the command runs twice at once, or is stopped. The suite tries some draws, the same each
time. More of them:

    CMBS_FUZZ_DRAWS=2000 python -m pytest tests/test_surroundings.py
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import helpers_bad
import numpy as np
import pytest
import torch
from conftest import TINY_MODEL, without_privileges
from helpers_runs import difference

from dataset import files
from utils.base import text
from utils.base.atomic import write_text
from utils.base.checkpoint import LAST
from utils.base.errors import EXIT_CLOSED_PIPE, EXIT_INTERRUPTED
from utils.config.settings import SUPERVISED

DRAWS = int(os.environ.get("CMBS_FUZZ_DRAWS", "80"))
SECONDS = 120  # that no command may take, on however busy a machine

quick = pytest.fixture(helpers_bad.quick, autouse=True, scope="module")


class Command(NamedTuple):
    """A command line, what it reads (folders and files of the world), where it writes, and the result there."""

    name: str
    arguments: str
    reads: tuple[str, ...]
    writes: str | None
    result: Callable[[Path], Any]


def nothing(folder: Path) -> None:
    return None


def array(path: Path) -> np.ndarray:
    """The only array of an HDF5 file, whatever its name."""
    with h5py.File(path, "r") as file:
        return file[next(iter(file))][()]


def arrays(folder: Path) -> dict[str, list]:
    return {path.name: array(path).astype(float).tolist() for path in sorted(folder.glob("*.h5"))}


def answers(folder: Path) -> list:
    lines = text.read_json_lines(folder / "predictions.jsonl")
    clips = [{key: line[key] for key in ("index", "prediction", "target")} for line in lines]
    return [text.read_json(folder / "metrics.json")["accuracy"], clips]


def weights(folder: Path) -> dict[str, Any]:
    content = torch.load(folder / LAST, weights_only=True)
    return {"epoch": content["epoch"], "network": content["network"]}


MAIN = "--config config.json --gpu cpu --data_root data "
SIZES = "--segments 10 --visual-dim 16 --audio-dim 8 --grid 2 2 --background-only 6"
COMMANDS = [
    Command("dataset.check", "--root data", ("data",), None, nothing),
    Command("dataset.stats", "--root data --figure out/figure.png", ("data",), "out", nothing),
    Command("dataset.convert", "--root data --to out", ("data",), "out", arrays),
    Command(
        "dataset.synthetic", f"--annotations data/Annotations.txt --out out {SIZES}", ("data",), "out", arrays
    ),
    Command(
        "supv_main", f"{MAIN} --evaluate --resume run/best.pth.tar --output out", ("data", "run", "config.json"), "out",
        answers,
    ),
    Command("supv_main", f"{MAIN} --snapshot_pref out", ("data", "config.json"), "out", weights),
    Command(
        "supv_main", f"{MAIN} --snapshot_pref run --resume last --n_epoch 2", ("data", "run", "config.json"), "run",
        weights,
    ),
    Command("utils.recorder", "compare run run", ("run",), None, nothing),
    Command("utils.report", "run/eval-test", ("run/eval-test",), "run/eval-test", answers),
]  # fmt: skip

MAINS = {command.name: helpers_bad.main_of(command.name) for command in COMMANDS}  # imported before anything is patched


# --- What changes: a file ---


def save_text(encoding: str, end: str) -> Callable[[Path, random.Random], None]:
    def change(path: Path, draw: random.Random) -> None:
        path.write_bytes(end.join(path.read_text().split("\n")).encode(encoding))

    return change


def save_array(**settings: Any) -> Callable[[Path, random.Random], None]:
    def change(path: Path, draw: random.Random) -> None:
        values = array(path)
        with h5py.File(path, "w") as file:
            file.create_dataset(files.key_of(path.name), data=values, **settings)

    return change


def under_another_key(path: Path, draw: random.Random) -> None:
    with h5py.File(path, "r+") as file:
        file.move(files.key_of(path.name), "features")


def behind_a_link(path: Path, draw: random.Random) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def beside_it(path: Path, draw: random.Random) -> None:
    for name in (f"._{path.name}", f"{path.name}~", ".DS_Store", f".{path.name}.a1b2c3d4.part"):
        path.with_name(name).write_bytes(b"\0\5\26\7")


def touch(path: Path, draw: random.Random) -> None:
    os.utime(path, (draw.choice([0, 2e9]),) * 2)


def instead(make: Callable[[Path], object]) -> Callable[[Path, random.Random], None]:
    def change(path: Path, draw: random.Random) -> None:
        path.unlink()
        make(path)

    return change


def cut(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content) or 1)])


def unreadable(path: Path, draw: random.Random) -> None:
    path.chmod(0)


def flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(draw.choice([1, 20]) if content else 0):
        content[draw.randrange(len(content))] = draw.randrange(256)
    path.write_bytes(content)


def replace_a_value(path: Path, draw: random.Random) -> None:
    """Somewhere in a JSON file, or a line of JSON lines, stands something else."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    number = draw.randrange(len(lines))
    content = within = json.loads(lines[number])
    while isinstance(within, dict | list) and within:
        key = draw.choice(list(within)) if isinstance(within, dict) else draw.randrange(len(within))
        if not isinstance(within[key], dict | list) or draw.random() < 0.2:
            odd = [None, True, -1, 0, 1e308, 10**400, "x", "..", [], {}, [1], {"a": 1}, "\x1b[31m|\\", "\ud800"]
            within[key] = draw.choice(odd)
            break
        within = within[key]
    lines[number] = json.dumps(content)
    path.write_text("\n".join(lines))


TEXT, HDF5, JSON = (".txt", ".json", ".jsonl"), (".h5",), (".json", ".jsonl")

# By name: the change, the endings of the files that it can be done to, and whether a command that goes on has the same
# result. (What it can't notice, such as another bit in a feature, is no reason to refuse.)
CHANGES: dict[str, tuple[Callable[[Path, random.Random], None], tuple[str, ...], bool]] = {
    "with a mark": (save_text("utf-8-sig", "\n"), TEXT, True),
    "with CRLF": (save_text("utf-8", "\r\n"), TEXT, True),
    "in UTF-16": (save_text("utf-16", "\n"), TEXT, True),
    "in chunks": (save_array(chunks=True), HDF5, True),
    "compressed": (save_array(chunks=True, compression="gzip", shuffle=True), HDF5, True),
    "in float64": (save_array(dtype=">f8"), HDF5, True),
    "under another key": (under_another_key, HDF5, True),
    "behind a link": (behind_a_link, ("",), True),
    "with others beside it": (beside_it, ("",), True),
    "touched": (touch, ("",), True),
    "removed": (instead(lambda path: None), ("",), True),
    "empty": (instead(Path.touch), ("",), True),
    "a folder": (instead(Path.mkdir), ("",), True),
    "a pipe": (instead(os.mkfifo), ("",), True),
    "a link to nowhere": (instead(lambda path: path.symlink_to("nowhere")), ("",), True),
    "a link to itself": (instead(lambda path: path.symlink_to(path.name)), ("",), True),
    "a device": (instead(lambda path: path.symlink_to("/dev/zero")), ("",), True),
    "unreadable": (unreadable, ("",), True),
    "cut": (cut, ("",), False),
    "with other bytes": (flip, ("",), False),
    "with another value": (replace_a_value, JSON, False),
}


# --- What changes: the process ---


def limit_files(draw: random.Random) -> None:
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (draw.choice([0, 1, 100, 5_000, 50_000, 300_000]), resource.RLIM_INFINITY)
    )


def redirect(descriptors: tuple[int, ...], path: str) -> Callable[[random.Random], None]:
    def change(draw: random.Random) -> None:
        for descriptor in descriptors:
            os.dup2(os.open(path, os.O_RDWR), descriptor)

    return change


def close(*descriptors: int) -> Callable[[random.Random], None]:
    return lambda draw: [os.close(descriptor) for descriptor in descriptors]


def close_pipe(draw: random.Random) -> None:
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.close(reader)


PROCESS_CHANGES: dict[str, tuple[Callable[[random.Random], object], set[int]]] = {
    "few bytes a file": (limit_files, {0, 2}),
    "output to a full disk": (redirect((1,), "/dev/full"), {2}),
    "both outputs to a full disk": (redirect((1, 2), "/dev/full"), {2}),
    "no output": (close(1), {0, 2}),
    "no output and no errors": (close(0, 1, 2), {0, 2}),
    "output that nobody reads": (close_pipe, {0, 2, EXIT_CLOSED_PIPE, EXIT_INTERRUPTED}),
    "a terminal without accents": (lambda draw: os.environ.update(PYTHONIOENCODING="ascii"), {0, 2}),
    "another umask": (lambda draw: os.umask(0o777 & draw.choice([0o077, 0o000])), {0, 2}),
}


class Process:
    """A command in a process of its own, forked from this one, which has everything imported."""

    def __init__(self, command: Command, world: Path, change: Callable[[], object] = lambda: None) -> None:
        self.errors = world.with_name(f"errors-{time.monotonic_ns()}")
        self.pid = os.fork()
        if self.pid == 0:
            self._be(command, world, change)

    def _be(self, command: Command, world: Path, change: Callable[[], object]) -> None:
        """Be the process: never returns."""
        code = 1
        try:
            os.chdir(world)
            for descriptor, path in enumerate(("/dev/null", "/dev/null", self.errors)):
                os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), descriptor)
            change()
            encoding = os.environ.get("PYTHONIOENCODING", "utf-8")
            sys.stdout, sys.stderr = (_stream(descriptor, encoding) for descriptor in (1, 2))
            with without_privileges():
                code = MAINS[command.name](command.arguments.split())
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
            os._exit(code)

    def wait(self) -> tuple[int, str]:
        """The exit code, negative for a signal, and what was said on standard error."""
        end = time.monotonic() + SECONDS
        while not (done := os.waitpid(self.pid, os.WNOHANG))[0]:
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                pytest.fail(f"took more than {SECONDS} s")
            time.sleep(0.005)
        said = self.errors.read_text(errors="replace")
        self.errors.unlink()
        return os.waitstatus_to_exitcode(done[1]), said


def _stream(descriptor: int, encoding: str) -> io.TextIOWrapper | None:
    try:
        os.fstat(descriptor)
    except OSError:
        return None
    return open(descriptor, "w", encoding=encoding, closefd=False)


# --- The world, and a draw ---


class World:
    """A folder with data, a config and a run of one epoch, as good as new for each draw."""

    def __init__(self, folder: Path, tiny_data: Path) -> None:
        self.path, self.good = folder / "world", folder / "good"
        self.path.mkdir()
        shutil.copytree(tiny_data, self.path / "data")
        config = {"model": {"name": SUPERVISED, **TINY_MODEL}, "train": {"n_epoch": 1, "batch_size": 10}}
        (self.path / "config.json").write_text(json.dumps(config, indent=1))
        (self.path / "out").mkdir()
        train = Command("supv_main", f"{MAIN} --snapshot_pref run", (), None, nothing)
        assert Process(train, self.path).wait() == (0, "")
        self.path.rename(self.good)
        self.results = {}
        for command in COMMANDS:
            self.renew()
            assert Process(command, self.path).wait() == (0, "")
            self.results[command] = self.result(command)

    def renew(self) -> None:
        if self.path.exists():
            for path in (self.path, *self.path.rglob("*")):
                if path.is_dir() and not path.is_symlink():
                    path.chmod(0o700)
            shutil.rmtree(self.path)
        shutil.copytree(self.good, self.path, symlinks=True)

    def result(self, command: Command) -> Any:
        return command.result(self.path / (command.writes or "."))

    def contents(self) -> dict[str, Any]:
        """Everything that lies here: files by their bytes."""
        found = {}
        for path in sorted(self.path.rglob("*")):
            if path.is_symlink():
                what = os.readlink(path)
            else:
                what = path.read_bytes() if path.is_file() else path.stat().st_mode
            found[str(path.relative_to(self.path))] = what
        return found

    def files_of(self, command: Command) -> list[Path]:
        return [
            path
            for name in command.reads
            for path in ([self.path / name, *sorted((self.path / name).rglob("*"))])
            if path.is_file() and "events" not in path.name
        ]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        # Nobody looks at the figures, and drawing them would take most of the time.
        patch.setattr("utils.report.figures.save", lambda metrics, folder: None)
        patch.setattr("dataset.stats.figure.save_figure", lambda statistics, path: write_text(path, "figure"))
        yield World(tmp_path_factory.mktemp("surroundings"), tiny_data)


def check(world: World, command: Command, before: dict[str, Any], code: int, said: str, codes: set[int]) -> None:
    """Whether a command did what it may: `codes` are the exit codes that the change may lead to."""
    assert code in codes, said
    if code == 2:
        assert said.startswith("error: ") or not said, said
        assert said.count("\n") <= 1, said
    elif code == 0:
        assert said == ""
    after = world.contents()
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    allowed = (command.writes,) if command.writes else ()
    assert not [name for name in changed if not name.startswith(allowed)] if allowed else not changed, changed
    assert not [name for name in after.keys() - before.keys() if name.endswith(".part")]
    for name in after.keys() - before.keys() if code == 2 else ():
        path = world.path / name
        if path.suffix == ".h5":
            array(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".tar":
            torch.load(path, weights_only=True)


def file_changes(world: World, command: Command, draw: random.Random) -> None:
    path = draw.choice(world.files_of(command))
    names = [name for name, (_, endings, _) in CHANGES.items() if path.name.endswith(endings)]
    name = draw.choice(names)
    change, _, same = CHANGES[name]
    print(f"{path.relative_to(world.path)} {name}", flush=True)
    change(path, draw)
    before = world.contents() if name != "unreadable" else None
    code, said = Process(command, world.path).wait()
    if name == "unreadable":
        path.chmod(0o600)
        before = world.contents() if code else None
    if before is not None:
        check(world, command, before, code, said, {0, 2})
    if code == 0 and same:
        assert difference(world.result(command), world.results[command]) is None


def process_changes(world: World, command: Command, draw: random.Random) -> None:
    name = draw.choice(list(PROCESS_CHANGES))
    change, codes = PROCESS_CHANGES[name]
    print(name)
    before = world.contents()
    code, said = Process(command, world.path, lambda: change(draw)).wait()
    if code in (EXIT_INTERRUPTED, EXIT_CLOSED_PIPE):
        assert said.count("\n") <= 1
    else:
        check(world, command, before, code, said, codes)
    if code == 0:
        assert difference(world.result(command), world.results[command]) is None


def twice_at_once(world: World, command: Command, draw: random.Random) -> None:
    both = [Process(command, world.path) for _ in range(2)]
    codes = [process.wait() for process in both]
    assert sorted(code for code, _ in codes) in ([0, 0], [0, 2]), codes
    assert difference(world.result(command), world.results[command]) is None


def stopped(world: World, command: Command, draw: random.Random) -> None:
    """Stopped at any moment, a command does the rest when it is called again."""
    number = draw.choice([signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    process = Process(command, world.path)
    time.sleep(draw.uniform(0, 0.6))
    os.kill(process.pid, number)
    code, said = process.wait()
    print(number.name, code)
    assert code in (0, EXIT_INTERRUPTED, -number), said
    assert said.count("\n") <= 2
    if command.writes == "out" and (world.path / "out" / LAST).exists():
        command_again = command._replace(arguments=command.arguments + " --resume last")
    else:
        command_again = command
    assert Process(command_again, world.path).wait() == (0, "")
    assert difference(world.result(command), world.results[command]) is None
    assert not list((world.path / (command.writes or ".")).glob(".*.part"))


KINDS = [file_changes] * 6 + [process_changes] * 2 + [twice_at_once, stopped]


@pytest.mark.parametrize("number", range(DRAWS))
def test_the_same_or_one_line(number: int, world: World):
    draw = random.Random(number)
    command, kind = draw.choice(COMMANDS), draw.choice(KINDS)
    print(command.name, command.arguments)
    world.renew()
    kind(world, command, draw)

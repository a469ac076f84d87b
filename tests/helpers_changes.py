"""What may change around a command: a file that it reads, or the process that it runs in."""

from __future__ import annotations

import fcntl
import json
import os
import random
import resource
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dataset import files
from utils.base.errors import EXIT_CLOSED_PIPE, EXIT_INTERRUPTED

FileChange = Callable[[Path, random.Random], None]


def array(path: Path) -> np.ndarray:
    """The only array of an HDF5 file, whatever its name."""
    with h5py.File(path, "r") as file:
        return file[next(iter(file))][()]


# --- Of a file ---


def save_text(encoding: str, end: str) -> FileChange:
    def change(path: Path, draw: random.Random) -> None:
        path.write_bytes(end.join(path.read_text().split("\n")).encode(encoding))

    return change


def save_array(**settings: Any) -> FileChange:
    def change(path: Path, draw: random.Random) -> None:
        values = array(path)
        with h5py.File(path, "w") as file:
            file.create_dataset(files.key_of(path.name), data=values, **settings)

    return change


def with_room_to_grow(path: Path, draw: random.Random) -> None:
    save_array(chunks=True, maxshape=(None,) * array(path).ndim)(path, draw)


def as_a_column(path: Path, draw: random.Random) -> None:
    values = array(path)
    if path.name in files.ORDERS:
        values = values.reshape(draw.choice([(-1, 1), (1, -1)])).astype(draw.choice(["i8", "f8", ">i4", "f4"]))
    with h5py.File(path, "w") as file:
        file[files.key_of(path.name)] = values


def under_another_key(path: Path, draw: random.Random) -> None:
    with h5py.File(path, "r+") as file:
        file.move(files.key_of(path.name), "features")


def in_another_file(path: Path, draw: random.Random) -> None:
    path.rename(path.with_suffix(".hdf5"))
    with h5py.File(path, "w") as file:
        key = files.key_of(path.name)
        file[key] = h5py.ExternalLink(path.with_suffix(".hdf5").name, key)


def behind_a_link(path: Path, draw: random.Random) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def beside_it(path: Path, draw: random.Random) -> None:
    for name in (f"._{path.name}", f"{path.name}~", ".DS_Store", f".{path.name}.a1b2c3d4.part"):
        path.with_name(name).write_bytes(b"\0\5\26\7")


def touch(path: Path, draw: random.Random) -> None:
    os.utime(path, (draw.choice([0, 2e9]),) * 2)


def instead(make: Callable[[Path], object]) -> FileChange:
    def change(path: Path, draw: random.Random) -> None:
        path.unlink()
        make(path)

    return change


def cut(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content) or 1)])


def unreadable(path: Path, draw: random.Random) -> None:
    path.chmod(0)


def read_only_folder(path: Path, draw: random.Random) -> None:
    path.parent.chmod(0o555)


def with_zeros(path: Path, draw: random.Random) -> None:
    os.truncate(path, path.stat().st_size + draw.choice([1, 2**20]))


def locked(path: Path, draw: random.Random) -> None:
    """As HDF5 locks a file that it writes, until the next draw."""
    global _lock
    _lock = open(path, "rb")  # noqa: SIM115
    fcntl.flock(_lock, fcntl.LOCK_EX)


def never_closed(path: Path, draw: random.Random) -> None:
    """As a process leaves a file that is killed while it writes it by HDF5."""
    values, key = array(path), files.key_of(path.name)
    if process := os.fork():
        os.waitpid(process, 0)
        return
    file = h5py.File(path, "w", libver="latest")
    file[key] = values
    file.flush()
    os._exit(0)


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


TEXT, HDF5, JSON = (".txt", ".csv", ".json", ".jsonl"), (".h5",), (".json", ".jsonl")

# By name: the change, the endings of the files that it can be done to, and whether a command that goes on has the same
# result. (What it can't notice, such as another bit in a feature, is no reason to refuse.)
FILE_CHANGES: dict[str, tuple[FileChange, tuple[str, ...], bool]] = {
    "with a mark": (save_text("utf-8-sig", "\n"), TEXT, True),
    "with CRLF": (save_text("utf-8", "\r\n"), TEXT, True),
    "in UTF-16": (save_text("utf-16", "\n"), TEXT, True),
    "in chunks": (save_array(chunks=True), HDF5, True),
    "compressed": (save_array(chunks=True, compression="gzip", shuffle=True), HDF5, True),
    "in float64": (save_array(dtype=">f8"), HDF5, True),
    "with room to grow": (with_room_to_grow, HDF5, True),
    "as a column": (as_a_column, HDF5, True),
    "under another key": (under_another_key, HDF5, True),
    "in another file": (in_another_file, HDF5, True),
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
    "in a read-only folder": (read_only_folder, ("",), True),
    "with zeros after it": (with_zeros, ("",), True),
    "locked": (locked, HDF5, True),
    "never closed": (never_closed, HDF5, True),
    "cut": (cut, ("",), False),
    "with other bytes": (flip, ("",), False),
    "with another value": (replace_a_value, JSON, False),
}


# --- Of the process ---


def limit_files(draw: random.Random) -> None:
    most = draw.choice([0, 100, 5_000, 50_000, 300_000])
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def limit_descriptors(draw: random.Random) -> None:
    most = len(os.listdir("/proc/self/fd")) + draw.randrange(8)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def set_the_clock_back(draw: random.Random) -> None:
    now, seconds = time.time, draw.choice([100, 10**7])
    time.time = lambda: now() - seconds


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


def forbid_writing(draw: random.Random) -> None:
    """No folder here may be written."""
    for path in (Path.cwd(), *Path.cwd().rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o555)


# By name: the change, made in the process whose current folder is the world, and the exit codes that it may lead to.
PROCESS_CHANGES: dict[str, tuple[Callable[[random.Random], object], set[int]]] = {
    "few bytes a file": (limit_files, {0, 2}),
    "few open files": (limit_descriptors, {0, 2}),
    "output to a full disk": (redirect((1,), "/dev/full"), {2}),
    "both outputs to a full disk": (redirect((1, 2), "/dev/full"), {2}),
    "no output": (close(1), {0, 2}),
    "no output and no errors": (close(0, 1, 2), {0, 2}),
    "output that nobody reads": (close_pipe, {0, 2, EXIT_CLOSED_PIPE, EXIT_INTERRUPTED}),
    "a terminal without accents": (lambda draw: os.environ.update(PYTHONIOENCODING="ascii"), {0, 2}),
    "another umask": (lambda draw: os.umask(0o777 & draw.choice([0o077, 0o000])), {0, 2}),
    "no temporary folder": (lambda draw: os.environ.update(TMPDIR="/nowhere"), {0, 2}),
    "no home": (lambda draw: os.environ.pop("HOME", None), {0, 2}),
    "a home that isn't there": (lambda draw: os.environ.update(HOME="/nowhere"), {0, 2}),
    "warnings that are errors": (lambda draw: warnings.simplefilter("error"), {0, 2}),
    "a clock that was set back": (set_the_clock_back, {0, 2}),
    "nothing may be written": (forbid_writing, {0, 2}),
}

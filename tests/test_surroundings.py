"""What lies around a command changes: it does the same as before, or refuses in one line, and nothing else changes.

A draw takes a command and one change: a file is removed, damaged, retyped or saved by another editor, the disk's limit
is near, output goes nowhere, the command runs twice at once, or is stopped. The suite tries some draws, the same each
time. More of them:

    CMBS_FUZZ_DRAWS=2000 python -m pytest tests/test_surroundings.py
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

import helpers_bad
import pytest
import torch
from helpers_changes import FILE_CHANGES, PROCESS_CHANGES, array
from helpers_runs import difference
from helpers_world import COMMANDS, Command, Process, World, quick_world

from dataset.ingest.make import WORK
from utils.base.errors import EXIT_CLOSED_PIPE, EXIT_INTERRUPTED
from utils.base.paths import LAST

DRAWS = int(os.environ.get("CMBS_FUZZ_DRAWS", "54"))

quick = pytest.fixture(helpers_bad.quick, autouse=True, scope="module")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_data) -> Iterator[World]:
    with quick_world(tmp_path_factory.mktemp("surroundings"), tiny_data) as made:
        yield made


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
        if WORK in path.parts:  # of an ingest, which goes on with it
            continue
        if path.suffix == ".h5":
            array(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".tar":
            torch.load(path, weights_only=True)


def check_result(world: World, command: Command, right: Any) -> None:
    assert difference(world.result(command), right) is None


def file_changes(world: World, command: Command, right: Any, draw: random.Random) -> None:
    path = draw.choice(world.files_of(command))
    names = [name for name, (_, endings, _) in FILE_CHANGES.items() if path.name.endswith(endings)]
    name = draw.choice(names)
    change, _, same = FILE_CHANGES[name]
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
        if command.name in ("dataset.convert", "dataset.ingest") and not path.exists():  # what isn't there is said
            right = {of: values for of, values in right.items() if of not in (path.name, path.stem)}
        check_result(world, command, right)


def process_changes(world: World, command: Command, right: Any, draw: random.Random) -> None:
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
        check_result(world, command, right)


def twice_at_once(world: World, command: Command, right: Any, draw: random.Random) -> None:
    both = [Process(command, world.path) for _ in range(2)]
    codes = [process.wait() for process in both]
    assert sorted(code for code, _ in codes) in ([0, 0], [0, 2]), codes
    check_result(world, command, right)


def stopped(world: World, command: Command, right: Any, draw: random.Random) -> None:
    """Stopped at any moment, a command does the rest when it is called again."""
    number = draw.choice([signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    process = Process(command, world.path)
    time.sleep(draw.uniform(0, 0.6))
    os.kill(process.pid, number)
    code, said = process.wait()
    print(number.name, code)
    assert code in (0, EXIT_INTERRUPTED, -number), said
    assert said.count("\n") <= 2
    again = command
    if command.writes == "out" and (world.path / "out" / LAST).exists():
        again = command._replace(arguments=command.arguments + " --resume last")
    if code != 0:  # else it was done already, and some commands don't write over what is there
        assert Process(again, world.path).wait() == (0, "")
    check_result(world, command, right)
    assert not list((world.path / (command.writes or ".")).glob(".*.part"))


KINDS = [file_changes] * 6 + [process_changes] * 2 + [twice_at_once, stopped]


@pytest.mark.parametrize("number", range(DRAWS))
def test_the_same_or_one_line(number: int, world: World):
    draw = random.Random(number)
    command, kind = draw.choice(draw.choice(COMMANDS)), draw.choice(KINDS)
    print(command.name, command.arguments)
    right = world.right_result(command)
    world.renew(command)
    kind(world, command, right, draw)

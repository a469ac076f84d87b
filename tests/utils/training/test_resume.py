"""A run that was stopped or killed anywhere, and goes on, ends as one that never was: bit for bit on a CPU."""

from __future__ import annotations

import contextlib
import json
import os
import signal

import helpers_bad
import pytest
import torch
from helpers_bad import MAINS
from helpers_runs import difference, outcome

from utils.base.checkpoint import Checkpoint
from utils.base.paths import BEST, LAST
from utils.config.settings import SUPERVISED
from utils.evaluation import run as evaluation_run
from utils.training import loop, record, state

EPOCHS, STEPS = 3, 3  # 24 clips in batches of 10
# A learning rate that changes on the way, an epoch without evaluation, a TensorBoard point each step.
TRAIN = {"n_epoch": EPOCHS, "milestones": [1, 2], "eval_freq": 2, "print_freq": 1}


quick = pytest.fixture(helpers_bad.quick, autouse=True, scope="module")


class Killed(BaseException):
    """Stands for SIGKILL within this process: nothing in the project catches it."""


@pytest.fixture(autouse=True)
def ctrl_c():
    """An interrupted command leaves Ctrl-C to the operating system; here it is pytest's again."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def run(tiny_config, tmp_path):
    """run("folder", *flags) trains the tiny network there and returns the exit code."""

    def start(folder: str, *flags: str, name: str = SUPERVISED, **train) -> int:
        config = tiny_config(name, train={**TRAIN, **train}, data={"features": "host"})
        return MAINS[name](["--config", str(config), "--gpu", "cpu", "--snapshot_pref", str(tmp_path / folder), *flags])

    return start


@contextlib.contextmanager
def killed_at(place: str, count: int):
    """Expect the block to die as it comes to the `count`-th call of a function of the project, or of Adam."""
    owner, name = {"step": (torch.optim.Adam, "step"), "evaluate": (loop, "evaluate"),
                   "line": (record.Recorder, "epoch"), "last": (state.Training, "save"),
                   "best": (state.Training, "save_best"), "test": (evaluation_run, "load_weights")}[place]  # fmt: skip
    whole, calls = getattr(owner, name), []

    def dying(*args, **kwargs):
        calls.append(name)
        if len(calls) == count:
            raise Killed
        return whole(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, dying)
        with pytest.raises(Killed):
            yield


def assert_equal(ours: dict, theirs: dict) -> None:
    assert difference(ours, theirs) is None


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, dict]:
    return {}


@pytest.fixture
def reference(run, uninterrupted, tmp_path):
    """The outcome of a run that nothing stopped, trained once a setting."""

    def outcome_of(name: str = SUPERVISED) -> dict:
        if name not in uninterrupted:
            assert run("whole", name=name) == 0
            uninterrupted[name] = outcome(tmp_path / "whole")
        return uninterrupted[name]

    return outcome_of


@pytest.mark.parametrize("name", MAINS)
@pytest.mark.parametrize("place", ["step", "evaluate", "line", "last", "best", "test"])
def test_killed_anywhere_and_resumed_ends_the_same(name, place, run, reference, tmp_path):
    whole = reference(name)
    count = {"step": 2 * STEPS + 2, "evaluate": 4, "test": 1}.get(place, 3)  # in epoch 3; the test after all
    with killed_at(place, count):
        run("cut", name=name)
    assert run("cut", "--resume", "last", name=name) == 0
    assert_equal(outcome(tmp_path / "cut"), whole)


def test_killed_after_the_first_best_but_every_epoch_again_ends_the_same(run, reference, tmp_path):
    whole = reference()
    with killed_at("best", 2):
        run("cut")
    for place, count in [("line", 1), ("best", 2), ("last", 1), ("step", STEPS)]:
        with killed_at(place, count):
            run("cut", "--resume", "last")
    assert run("cut", "--resume", "last") == 0
    assert_equal(outcome(tmp_path / "cut"), whole)


@pytest.mark.parametrize("name", MAINS)
@pytest.mark.parametrize("step", [1, 2])
def test_saved_within_an_epoch_goes_on_from_that_step(name, step, run, reference, tmp_path):
    whole = reference(name)
    with killed_at("last", STEPS + step + 1):  # a save after each step but the last, and one after the epoch
        run("cut", name=name, save_every_minutes=1e-9)
    position = Checkpoint.load(tmp_path / "cut" / LAST).training["position"]
    assert (position["epoch"], position["step"]) == (1, step)
    assert run("cut", "--resume", "last", name=name) == 0
    assert_equal(outcome(tmp_path / "cut"), whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", ["step", "evaluate"])
def test_a_signal_finishes_the_step_and_saves(number, place, run, reference, tmp_path, monkeypatch, capfd):
    whole = reference()
    owner, name = {"step": (torch.optim.Adam, "step"), "evaluate": (loop, "evaluate")}[place]
    original, calls = getattr(owner, name), []

    def signalled(*args, **kwargs):
        calls.append(name)
        if len(calls) == {"step": STEPS + 2, "evaluate": 1}[place]:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, signalled)
        assert run("cut") == 130
    error = capfd.readouterr().err
    assert "--resume last" in error
    assert "Traceback" not in error
    position = Checkpoint.load(tmp_path / "cut" / LAST).training["position"]
    assert (position["epoch"], position["step"]) == {"step": (1, 2), "evaluate": (1, STEPS)}[place]
    assert run("cut", "--resume", "last") == 0
    assert_equal(outcome(tmp_path / "cut"), whole)


def test_a_second_signal_quits_at_once(run, tmp_path, monkeypatch):
    original = torch.optim.Adam.step

    def twice(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return original(*args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", twice)
    assert run("cut") == 130
    assert not (tmp_path / "cut" / LAST).exists()


def test_sigterm_before_the_first_step_is_an_interruption(run, monkeypatch, capfd):
    monkeypatch.setattr("utils.evaluation.splits.make_batches", lambda *args: os.kill(os.getpid(), signal.SIGTERM))
    assert run("cut") == 130
    assert capfd.readouterr().err.strip() == "interrupted"


@pytest.mark.parametrize(
    ("first", "then"), [("host", "stream"), ("stream", "host"), ("stream", "loader"), ("loader", "loader")]
)
def test_the_order_of_clips_goes_on_wherever_the_features_are_then(first, then, tmp_path, tiny_config):
    def start(folder: str, features: str, *flags: str) -> int:
        config = tiny_config(train={**TRAIN, "n_epoch": 2}, data={"features": features, "workers": 1})
        flags = ["--config", str(config), "--gpu", "cpu", "--snapshot_pref", str(tmp_path / folder), *flags]
        return MAINS[SUPERVISED](flags)

    assert start("whole", first) == 0
    with killed_at("step", STEPS + 2):
        start("cut", first)
    assert start("cut", then, "--resume", "last") == 0
    assert_equal(outcome(tmp_path / "cut"), outcome(tmp_path / "whole"))


def test_more_epochs_after_the_end(run, tmp_path):
    assert run("long", n_epoch=2) == 0
    assert run("short", n_epoch=1) == 0
    assert run("short", "--resume", "last", n_epoch=2) == 0
    long, short = outcome(tmp_path / "long"), outcome(tmp_path / "short")
    assert_equal(short[LAST]["network"], long[LAST]["network"])
    assert [line["epoch"] for line in short["metrics.jsonl"]] == [1, 2]


def test_a_finished_run_only_evaluates_again(run, tmp_path, capsys):
    assert run("run", n_epoch=1) == 0
    before = (tmp_path / "run" / LAST).read_bytes()
    assert run("run", "--resume", "last", n_epoch=1) == 0
    assert (tmp_path / "run" / LAST).read_bytes() == before
    assert "validation protocol" in capsys.readouterr().out


def test_weights_only_start_a_new_run(run, tmp_path, capsys):
    assert run("first", n_epoch=1) == 0
    best = tmp_path / "first" / BEST
    before = {path: path.read_bytes() for path in (tmp_path / "first").iterdir() if path.is_file()}
    assert run("second", "--resume", str(best), "--lr", "1e-9", n_epoch=1) == 0
    assert "holds weights only: a new run starts from them" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (tmp_path / "first").iterdir() if path.is_file()} == before
    ours, theirs = (Checkpoint.load(tmp_path / run / BEST).network for run in ("first", "second"))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-7) for name in ours)


def test_going_on_in_the_folder_that_the_checkpoint_lies_in(run, tmp_path, tiny_config):
    assert run("run", n_epoch=1) == 0
    config = tiny_config(train={**TRAIN, "n_epoch": 2})  # its snapshot_pref is another folder
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    last = moved / LAST
    assert MAINS[SUPERVISED](["--config", str(config), "--gpu", "cpu", "--resume", str(last)]) == 0
    assert json.loads((moved / "config.json").read_text())["train"]["snapshot_pref"] == str(moved)
    assert Checkpoint.load(last).config["train"]["snapshot_pref"] == str(moved)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda random: random[0].update(cuda=[random[0]["torch"]]), "the run was on a GPU and is on a CPU now"),
        (lambda random: random.append(random[0]), "the run had 2 processes and has 1 now"),
    ],
)
def test_going_on_with_other_hardware_says_what_it_cannot_restore(change, words, run, tmp_path, capsys):
    assert run("run", n_epoch=1) == 0
    last = tmp_path / "run" / LAST
    content = Checkpoint.load(last)
    change(content.training["random"])
    content.save(last)
    assert run("run", "--resume", "last", n_epoch=2) == 0
    assert words in capsys.readouterr().out

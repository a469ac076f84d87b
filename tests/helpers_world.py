"""A small world of data, runs, videos and a study; commands in it; and processes that run them in next to no time."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import helpers_bad
import pytest
import sklearn.metrics  # noqa: F401 - as others here: else every forked process would import it anew, for seconds
import torch
import torch._dynamo
from conftest import TINY_MODEL, without_privileges
from helpers_changes import array
from made_clips import clips_of, write_general, write_vggsound_avel

from dataset import files, labels
from model import NETWORKS, build_model
from utils.base import text
from utils.base.atomic import write_text
from utils.base.checkpoint import Checkpoint
from utils.base.paths import LAST
from utils.config import files as config_files
from utils.config.settings import SUPERVISED, WEAK
from utils.study.runs import TABLES
from utils.training import launching, run  # noqa: F401

with contextlib.suppress(ModuleNotFoundError):  # torch 2.11 has none
    import torch.profiler._cupti_monitor

SECONDS = 120  # that no command may take, on however busy a machine
HAS_VIDEOS = importlib.util.find_spec("av") is not None


class Command(NamedTuple):
    """A command line, what it reads (folders and files of the world), where it writes, and the result there."""

    name: str
    arguments: str
    reads: tuple[str, ...]
    writes: str | None = None
    result: Callable[[Path], Any] = lambda folder: None


def arrays(folder: Path) -> dict[str, torch.Tensor]:
    return {path.name: torch.from_numpy(array(path).astype("f8")) for path in sorted(folder.glob("*.h5"))}


def by_clip(folder: Path) -> dict[str, dict[str, Any]]:
    """What a data folder that was ingested holds of each clip."""
    values = arrays(folder)
    split = {int(row): name for name in files.ORDERS for row in values.pop(name, [])}
    clips = enumerate(labels.read_annotations(folder / files.ANNOTATIONS))
    return {
        clip.id: {"split": split[row], "category": clip.category} | {name: rows[row] for name, rows in values.items()}
        for row, clip in clips
    }


def answers(folder: Path) -> list:
    lines = text.read_json_lines(folder / "predictions.jsonl")
    clips = [{key: line[key] for key in ("index", "prediction", "target")} for line in lines]
    return [text.read_json(folder / "metrics.json")["accuracy"], clips]


def weights(folder: Path) -> dict[str, Any]:
    content = torch.load(folder / LAST, weights_only=True)
    return {"epoch": content["epoch"], "network": content["network"]}


def timelines(folder: Path) -> dict[str, Any]:
    return {path.name: text.read_json(path) for path in sorted(folder.glob("*.json"))}


def table(folder: Path) -> list[list[str]]:
    """A study's first table, without its last column, the seconds of an epoch."""
    lines = (folder / TABLES[0]).read_text().partition("\n\n")[0].splitlines()
    return [line.split("|")[:-2] for line in lines]


MAIN = "--gpu cpu --data_root data"
EVALUATION = f"run-{SUPERVISED}/eval-test"
SIZES = "--segments 10 --visual-dim 16 --audio-dim 8 --grid 2 2 --background-only 6"
LISTED = "--table clips/table.csv --visual clips/visual --audio clips/audio --start from --end to"
LABELLED = (
    "--preset vggsound-avel --table zips/table.csv --names zips/names.txt --visual zips/visual --audio zips/audio "
    "--labels zips/labels"
)
FILM = "--weights generated --gpu cpu"


def training(network: str, folder: str = "out") -> Command:
    reads = ("data", f"{network}.json")
    return Command(_main(network), f"{MAIN} --config {network}.json --snapshot_pref {folder}", reads, folder, weights)


def _main(network: str) -> str:
    return "supv_main" if NETWORKS[network].supervision == "full" else "weak_main"


def _evaluation(network: str, more: str = "") -> Command:
    arguments = f"{MAIN} --config {network}.json --evaluate --resume run-{network}/best.pth.tar --output out {more}"
    return Command(_main(network), arguments, ("data", f"run-{network}", f"{network}.json"), "out", answers)


def _going_on(network: str) -> Command:
    arguments = f"{MAIN} --config {network}.json --snapshot_pref run-{network} --resume last --n_epoch 2"
    reads = ("data", f"run-{network}", f"{network}.json")
    return Command(_main(network), arguments, reads, f"run-{network}", weights)


def _study(name: str) -> Command:
    return Command(
        "utils.study",
        f"{name}.json {MAIN} --cluster debug",
        (f"{name}.json", f"{SUPERVISED}.json", "data"),
        name,
        table,
    )


STUDY = _study("study")

# In groups of which each is drawn as often.
COMMANDS = [
    [Command("dataset.check", "--root data", ("data",))],
    [Command("dataset.stats", "--root data --figure out/figure.png", ("data",), "out")],
    [Command("dataset.convert", "--root data --to out", ("data",), "out", arrays)],
    [Command("dataset.synthetic", f"--annotations data/Annotations.txt --out out {SIZES}", ("data",), "out", arrays)],
    [
        Command("dataset.ingest", f"{LISTED} --to out", ("clips",), "out", by_clip),
        Command("dataset.ingest", f"{LABELLED} --to out", ("zips",), "out", by_clip),
    ],
    [_evaluation(SUPERVISED), _evaluation(WEAK, "--localize combined")],
    [_evaluation(name) for name in NETWORKS],
    [training(name) for name in NETWORKS],
    [_going_on(name) for name in NETWORKS],
    [Command("utils.recorder", f"compare run-{SUPERVISED} run-{WEAK}", (f"run-{SUPERVISED}", f"run-{WEAK}"))],
    [Command("utils.report", EVALUATION, (EVALUATION,), EVALUATION, answers)],
    [Command("utils.compare", f"{EVALUATION} run-avel_supv/eval-test", (EVALUATION, "run-avel_supv/eval-test"))],
    [Command("utils.release", f"run-{SUPERVISED} --to out/new", (f"run-{SUPERVISED}",), "out")],
    [STUDY._replace(reads=(*STUDY.reads, "study")), _study("out")],
]
if HAS_VIDEOS:
    extract = f"films --to out --annotations lines.txt {FILM}"
    predict = f"films --checkpoint film.pth.tar --output out --html out/page.html {FILM}"
    COMMANDS += [
        [Command("dataset.extract", extract, ("films", "lines.txt"), "out", arrays)],
        [Command("utils.predict", predict, ("films", "film.pth.tar"), "out", timelines)],
    ]
ALL = [command for group in COMMANDS for command in group]
MAINS = {command.name: helpers_bad.main_of(command.name) for command in ALL}  # imported before anything is patched


class Process:
    """A command in a process of its own, forked from this one, which has everything imported."""

    def __init__(self, command: Command, world: Path, change: Callable[[], object] = lambda: None) -> None:
        self.errors = world.with_name(f"errors-{time.monotonic_ns()}")
        self.errors.touch()  # it may be killed before it opens it
        self.pid = os.fork()
        if self.pid == 0:
            os.chdir(world)
            nowhere, errors = os.open("/dev/null", os.O_RDWR), os.open(self.errors, os.O_WRONLY | os.O_CREAT)
            _become(command.name, command.arguments.split(), (nowhere, nowhere, errors), change)

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


class StudyProcess:
    """In subprocess.Popen's place: a run of a study, forked too. It ends with the study, also with a killed one."""

    def __init__(self, arguments: list[str], stdout: io.BufferedWriter, **settings: Any) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            signal.signal(signal.SIGINT, signal.default_int_handler)
            out = stdout.fileno()
            _become(Path(arguments[1]).stem, arguments[2:], (0, out, out), lambda: None)

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _become(name: str, arguments: list[str], streams: tuple[int, ...], change: Callable[[], object]) -> None:
    """Be the process of a command: never returns."""
    code = 1
    try:
        for descriptor, stream in enumerate(streams):
            os.dup2(stream, descriptor)
        change()
        encoding = os.environ.get("PYTHONIOENCODING", "utf-8")
        sys.stdout, sys.stderr = (_stream(descriptor, encoding) for descriptor in (1, 2))
        with without_privileges():
            code = MAINS[name](arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BaseException):
                stream.flush()
        os._exit(code)


def _stream(descriptor: int, encoding: str) -> io.TextIOWrapper | None:
    try:
        os.fstat(descriptor)
    except OSError:
        return None
    return open(descriptor, "w", encoding=encoding, closefd=False)


class World:
    """What a command reads, as good as new for each draw."""

    def __init__(self, folder: Path, tiny_data: Path) -> None:
        self.path, self.good = folder / "odd $x^2$ | \\ 'é' #%20&", folder / "good"
        shutil.copytree(tiny_data, self.good / "data")
        for name, network in NETWORKS.items():
            model = {"name": name, **TINY_MODEL} | ({"grid": [2, 2]} if "grid" in network.settings.model_fields else {})
            self._write(f"{name}.json", {"model": model, "train": {"n_epoch": 1, "batch_size": 10}})
        for name in ("study", "out"):
            runs = {"CMBS": f"{SUPERVISED}.json"}
            self._write(f"{name}.json", {"title": "t", "output": str(self.path / name), "seeds": [1], "runs": runs})
        self._make_clips()
        if HAS_VIDEOS:
            self._make_film()
        self.results: dict[Command, Any] = {}

    def _write(self, name: str, content: dict[str, Any]) -> None:
        (self.good / name).write_text(json.dumps(content, indent=1))

    def _make_clips(self) -> None:
        of_splits = list({clip.split: clip for clip in clips_of(self.good / "data")}.values())
        names = labels.category_names(self.good / "data")
        write_general(self.good / "clips", of_splits, names)
        write_vggsound_avel(self.good / "zips", of_splits, names)

    def _make_film(self) -> None:
        from made_videos import moving_disc, steady, tone, write_video

        (self.good / "films").mkdir()
        write_video(self.good / "films" / "a.mp4", steady(4, 1), tone(4, 1, 2), picture=moving_disc, rate=1)
        (self.good / "lines.txt").write_text("Dog&a&good&1&3\n")
        config = config_files.build({"model": {"name": SUPERVISED, "d_model": 16, "categories": 3}}, "test")
        state = build_model(config.model).state_dict()
        film = Checkpoint(state, config=config.model_dump(), epoch=1, categories=["Dog", "Bell", "Horn"])
        film.save(self.good / "film.pth.tar")

    def renew(self, command: Command) -> None:
        """Have here what a command reads, and nothing else."""
        for name in command.reads:
            if not (self.good / name).exists():
                self._make(Path(name).parts[0])
        if self.path.exists():
            for path in (self.path, *self.path.rglob("*")):
                if path.is_dir() and not path.is_symlink():
                    path.chmod(0o700)
            shutil.rmtree(self.path)
        (self.path / "out").mkdir(parents=True)
        for name in command.reads:
            source, target = self.good / name, self.path / name
            target.parent.mkdir(exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)

    def _make(self, name: str) -> None:
        """Make a run, or the study."""
        command = STUDY if name == "study" else training(name.removeprefix("run-"), name)
        self.renew(command)
        self._run(command)
        shutil.copytree(self.path / name, self.good / name)

    def _run(self, command: Command) -> None:
        code, said = Process(command, self.path).wait()
        assert (code, said) == (0, ""), (command, code, said)

    def right_result(self, command: Command) -> Any:
        """The result where nothing has changed."""
        if command not in self.results:
            self.renew(command)
            self._run(command)
            self.results[command] = self.result(command)
        return self.results[command]

    def result(self, command: Command) -> Any:
        return command.result(self.path / (command.writes or "."))

    def contents(self) -> dict[str, Any]:
        """Everything that lies here: files by their bytes."""
        found = {}
        for path in sorted(self.path.rglob("*")):
            if path.is_symlink():
                what = os.readlink(path)
            else:
                what = path.read_bytes() if path.is_file() else stat.S_IFMT(path.stat().st_mode)
            found[str(path.relative_to(self.path))] = what
        return found

    def files_of(self, command: Command) -> list[Path]:
        """The files that a command may read."""
        there = [path for name in command.reads for path in (self.path / name, *sorted((self.path / name).rglob("*")))]
        return [path for path in there if path.is_file() and "events" not in path.name]


@contextlib.contextmanager
def quick_world(folder: Path, tiny_data: Path) -> Iterator[World]:
    """A world in which no figure is drawn, videos have made-up features, and a study forks its runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.report.figures.save", lambda metrics, folder: None)
        patch.setattr("dataset.stats.figure.save_figure", lambda statistics, path: write_text(path, "figure"))
        fake = types.SimpleNamespace(Popen=StudyProcess, STDOUT=subprocess.STDOUT)
        patch.setattr("utils.study.jobs.subprocess", fake)
        if HAS_VIDEOS:
            from made_features import ClipFeatures

            patch.setattr("dataset.extract.features.FeatureExtractor", ClipFeatures)
            patch.setattr("dataset.extract.data_folder.FeatureExtractor", ClipFeatures)
        yield World(folder, tiny_data)

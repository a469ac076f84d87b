"""Everything that a user can get wrong: one line on stderr, exit code 2, nothing lost and nothing half-written.

CASES is the table: what is wrong, how to make it so, the flags, and the words that the message must hold.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import re
import typing
from collections.abc import Callable
from pathlib import Path

import h5py
import helpers_bad
import numpy as np
import pytest
import torch
from conftest import TINY_MODEL, official_state_dict
from helpers_bad import COMMANDS, MAINS, Code, World, cut, flip, last, main_of, one_line, recheck, rewrite, set_key
from pydantic import BaseModel

from dataset import files
from utils.config.settings import SUPERVISED, WEAK, Config

V, A, L, M = files.VISUAL, files.AUDIO, files.LABELS, files.CLIP_LABELS
NV, NA, NL, TXT = files.NOISY_VISUAL, files.NOISY_AUDIO, files.NOISY_LABELS, files.ANNOTATIONS
TRAIN, VAL, TEST = (files.order_file(split) for split in files.SPLITS)

quick = pytest.fixture(helpers_bad.quick, autouse=True, scope="module")

Case = tuple[Callable[[World], object], list[str], list[str]]
CASES: dict[str, Case] = {}


def case(name: str, prepare: Callable[[World], object], *words: str, flags: str = "") -> None:
    """Add a row to the table. In `flags`, {x} is the path x in the world's folder."""
    assert name not in CASES
    CASES[name] = (prepare, flags.split(), list(words))


def nothing(world: World) -> None:
    pass


# --- Settings: every key with a wrong type and a wrong spelling, and values out of range ---


def keys(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        inner = [t for t in (field.annotation, *typing.get_args(field.annotation)) if isinstance(t, type)]
        section = next((t for t in inner if issubclass(t, BaseModel)), None)
        found += keys(section, f"{prefix}{name}.") if section else [prefix + name]
    return found


GENERATE = {"train": 24, "val": 8, "test": 8, "background_only": 6, "categories": 3}


def setting(key: str, value: object) -> Callable[[World], None]:
    def prepare(world: World) -> None:
        if key.startswith("data.generate."):
            set_key(world.config, "data.generate", dict(GENERATE))
        set_key(world.config, key, value)

    return prepare


for key in keys():
    section, name = key.rsplit(".", 1)
    case(f"{key} of a wrong type", setting(key, {"a": 1}), "config.json", repr(key))
    misspelt = name[:-2] + name[-1:] if len(name) > 4 else name + "x"
    case(f"{key} misspelt", setting(f"{section}.{misspelt}", 1), f"unknown key '{section}.{misspelt}'", f"mean '{key}'")

for key, value in [
    ("model.name", "main_model"), ("model.d_model", 6), ("model.d_model", 2**40), ("model.video_inputdim", 18),
    ("model.audio_inputdim", 0), ("model.alpha", 1.5), ("model.gamma", -1), ("model.beta", -0.1),
    ("model.categories", 0), ("data.placement", "disk"), ("data.workers", -1), ("data.root", ""), ("data.root", "a\0b"),
    ("data.root", "\ud800"), ("data.root", "x" * 300), ("data.generate.train", 0), ("train.n_epoch", 0),
    ("train.n_epoch", 1e3), ("train.n_epoch", True), ("train.n_epoch", "10"), ("train.batch_size", -4),
    ("train.batch_size", 10**30), ("train.lr", 0), ("train.lr", "1e-3"), ("train.lr", 1e300),
    ("train.milestones", [-1]), ("train.milestones", 10), ("train.lr_decay", 2), ("train.clip_gradient", 0),
    ("train.weight_decay", -1), ("train.seed", -1), ("train.seed", 2**32), ("train.precision", "float16"),
    ("train.snapshot_pref", ""), ("train.snapshot_pref", 7), ("train.print_freq", 0), ("train.eval_freq", 0),
    ("train.save_every_minutes", 0), ("train.loss_weights", {"event": -1}), ("eval.split", "dev"),
    ("eval.test_batch_size", 0), ("eval.threshold", "2"), ("eval.exclude_leaked", 1),
]:  # fmt: skip
    case(f"{key} = {json.dumps(value)[:30]}", setting(key, value), "config.json", f"'{key}")

case("a key in the wrong section", setting("model.lr", 0.1), "'lr' belongs in the section 'train'")
case("a section that isn't there", setting("optimizer.lr", 0.1), "unknown key 'optimizer'")
case("a section that isn't an object", setting("train", [1]), "'train'")
case("no model", lambda w: w.config.pop("model"), "'model' is missing")
case(
    "model mistyped",
    lambda w: w.config.update(mdoel=w.config.pop("model")),
    "unknown key 'mdoel'; did you mean 'model'",
)
case("no model.name", lambda w: w.config["model"].pop("name"), "'model.name' is missing")
case("the other setting's config", setting("model.name", WEAK), "weak_main.py")
case(
    "two numbers of categories",
    lambda w: set_key(w.config, "data.generate", GENERATE | {"categories": 4}),
    "data.generate.categories is 4", "model.categories 3",
)  # fmt: skip
case("a weak key for the supervised network", setting("eval.gate_threshold", 0.5), "eval.threshold", "weak_main_model")


def text(content: str | bytes) -> Callable[[World], object]:
    raw = content.encode() if isinstance(content, str) else content
    return lambda world: world.path().write_bytes(raw)


case("not JSON", text('{"model": {'), "config.json, line 1", "not valid JSON")
case("an empty config", text(""), "config.json", "not valid JSON")
case("a config that is a list", text("[]"), "a config is a JSON object")
case("a config with a key twice", text('{"model": {}, "model": {}}'), "stands there twice")
case("a config with NaN", text('{"train": {"lr": NaN}}'), "NaN is not a number")
case("a number of 5000 digits", text('{"train": {"seed": ' + "1" * 5000 + "}}"), "config.json")
case("a config in Latin-1", text(b'{"data": {"root": "\xe9"}}'), "not UTF-8")
case("a config of nulls", text(b"\0" * 100), "config.json")
case("a config nested too deeply", text('{"a":' * 100000), "config.json")
case("extends itself", text('{"extends": "config.json"}'), "extends itself")
case(
    "extends a missing file",
    text('{"extends": "mian.json"}'),
    "mian.json: no such config file (extended by ",
    "config.json)",
)
case("extends a number", text('{"extends": 1}'), '"extends" must be the name')
case("a config that is a folder", lambda w: w.path().mkdir(), "config.json", "is a folder")
case("a config in UTF-16", text('{"train": {}}'.encode("utf-16")), "config.json", "is UTF-16 text")
case("a config that is a pipe", lambda w: os.mkfifo(w.path()), "config.json", "is a pipe or a device")
case("no such config", nothing, "nothing.json", "no such config file", flags="--config {nothing.json}")


# --- Flags ---

for name, flags, *words in [
    ("unknown", "--batchsize 8", "unknown flag --batchsize", "did you mean --batch_size?"),
    ("unknown, like nothing", "--zzz", "unknown flag --zzz"),
    ("abbreviated", "--snapshot x", "unknown flag --snapshot"),
    ("without its value", "--lr", "--lr", "expected one argument"),
    ("a word for a number", "--n_epoch many", "--n_epoch", "many"),
    ("a fraction for a whole number", "-b 1.5", "--batch_size", "1.5"),
    ("nan", "--lr nan", "--lr nan"),
    ("out of range", "--batch_size 0", "--batch_size 0", "greater than 0"),
    ("a negative seed", "--seed -1", "--seed -1"),
    ("unknown precision", "--precision half", "--precision half", "bfloat16"),
    ("unknown split", "--evaluate --split dev", "--split dev"),
    ("an empty folder name", "--snapshot_pref=", "--snapshot_pref", "it is empty"),
    ("an empty checkpoint name", "--resume=", "--resume", "it is empty"),
    ("a checkpoint name that is too long", "--resume " + 300 * "x", "--resume", "too long"),
    ("an empty output name", "--evaluate --output=", "--output", "it is empty"),
    ("an argument without a flag", "run1", "run1"),
    ("a GPU that isn't a number", "--gpu cuda:0", "--gpu cuda:0:"),
    ("a negative GPU", "--gpu=-1", "--gpu -1"),
    ("a CPU and a GPU", "--gpu cpu,0", "--gpu cpu,0"),
    ("the same flag twice", "--lr 1 --lr 2", "--lr", "stands there twice"),
    ("the same flag under both names", "-b 8 --batch_size 16", "--batch_size", "stands there twice"),
    ("evaluate and learn", "--evaluate --lr 0.1", "--evaluate", "--lr"),
    ("evaluate and train longer", "--evaluate --n_epoch 3", "--evaluate", "--n_epoch"),
    ("evaluate in training batches", "--evaluate -b 8", "--evaluate", "--test_batch_size"),
]:
    case(f"flag: {name}", nothing, *words, flags=flags)


# --- The data folder ---


def data(name: str, change: Callable[[Path], object], weak: bool = False) -> Callable[[World], None]:
    def prepare(world: World) -> None:
        world.name = WEAK if weak else SUPERVISED
        world.config["model"]["name"] = world.name
        change(world.data / name)

    return prepare


def array(name: str, change: Callable[[np.ndarray], np.ndarray], weak: bool = False):
    return data(name, lambda path: rewrite(path, change), weak)


def lines(change: Callable[[list[str]], list[str]]) -> Callable[[World], None]:
    return data(TXT, lambda path: path.write_text("\n".join(change(path.read_text().splitlines()))))


def at(index: object, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[index] = value
        return values

    return change


def move(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.h5")


def page(path: Path) -> None:
    path.write_bytes(b"<!DOCTYPE html><title>Google Drive - Quota exceeded</title>")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def words_for_numbers(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file[files.KEY] = np.full((40, 10, 8), b"loud")


def two_arrays(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = file["b"] = np.zeros((40, 10, 2, 2, 16))


case("data: no such folder", setting("data.root", "/nowhere/at/all"), "/nowhere/at/all", "dataset.download")
for name in (V, A, TRAIN, TEST):
    case(f"data: no {name}", data(name, move), name, "no such file", "dataset.download")
for name in (NV, NA, NL):
    case(f"data: no {name} (weak)", data(name, move, weak=True), name, "no such file", "dataset.download")
case("data: a link to nowhere", data(V, dangle), V, "is a link to nowhere.h5")
case("data: an HTML page", data(V, page), V, "HTML page", "quota")
case("data: an empty file", data(A, lambda path: path.write_bytes(b"")), A, "is empty")
case("data: a text file", data(A, lambda path: path.write_text("hello " * 99)), A, "not an HDF5 file")
case("data: a folder", data(A, folder), A, "is a folder")
case("data: cut short", data(V, lambda path: cut(path, 0.5)), V, "truncated")
case("data: two arrays under other keys", data(V, two_arrays), V, "'avadataset'", "'a', 'b'")
case("data: a dimension less", array(V, lambda x: x.reshape(40, 10, 2, -1)), V, "5 dimensions")
case("data: cells and features in one", array(V, lambda x: x.reshape(40, 10, -1)), V, "has 64", "video_inputdim = 16")
case("data: features before the grid", array(V, lambda x: x.transpose(0, 1, 4, 2, 3)), V, "--channels-first")
case("data: the files swapped", array(A, lambda x: x[:, :, None, None]), A, "3 dimensions")
case("data: words for numbers", data(A, words_for_numbers), A, "values of type")
case("data: complex numbers", array(A, lambda x: x.astype(complex)), A, "values of type")
case("data: fewer clips", array(A, lambda x: x[:30]), A, "30 clips", "40")
case("data: fewer segments", array(A, lambda x: x[:, :9]), A, "9 segments", "10")
case("data: visual features of another network", array(V, lambda x: x[..., :12]), V, "12", "model.video_inputdim", "16")
case("data: audio features of another network", array(A, lambda x: x[..., :5]), A, "5", "model.audio_inputdim", "8")
case("data: other categories", setting("model.categories", 28), "data: has 3 categories", "model.categories = 28")
case("data: labels that aren't one-hot", array(L, lambda x: x / 2), L, "one-hot")
case("data: labels of several categories", array(L, np.ones_like), L, "one-hot")
case("data: labels of fewer clips", array(L, lambda x: x[:20]), L, "20 clips")
case("data: labels of fewer segments", array(L, lambda x: x[:, :5]), L, "5 segments")
case("data: labels in another order", array(L, lambda x: x[:, :, [1, 2, 0, 3]]), L, "differs from Annotations.txt")
case("data: labels without background", array(L, lambda x: x[:, :, :3]), L)
case("data: clip labels of fewer clips", array(M, lambda x: x[:20], weak=True), M, "20 clips")
case("data: clip labels in another order", array(M, lambda x: x[:, [1, 2, 0, 3]], weak=True), M, "differs from")
case("data: no labels of any kind", lambda w: (move(w.data / L), (w.data / TXT).unlink()), L, "no such file")
case("data: background-only clips with events", array(NL, lambda x: x[:, ::-1], weak=True), NL, "must be background")
case("data: other background-only clips", array(NV, lambda x: x[:, :, :1], weak=True), NV, "different data sets")
case("data: fewer background-only sounds", array(NA, lambda x: x[:3], weak=True), NA, "3 background-only clips")
case("data: an order of fractions", array(TRAIN, lambda x: x + 0.5), TRAIN, "whole numbers")
case("data: a negative row", array(TRAIN, at(0, -1)), TRAIN, "whole numbers >= 0")
case("data: a row past the end", array(TEST, at(0, 999)), TEST, "row 999", "40 clips")
case("data: a row twice", array(TRAIN, lambda x: np.repeat(x[:12], 2)), TRAIN, "more than once")
case("data: an empty split", array(VAL, lambda x: x[:0]), VAL, "no clip")
case("data: splits that overlap", lambda w: (w.data / VAL).write_bytes((w.data / TEST).read_bytes()), "disjoint")
case("data: an annotation without a field", lines(lambda t: ["Doorbell&x&good&1", *t[1:]]), f"{TXT}, line 1", "fields")
case("data: an annotation in words", lines(lambda t: [*t[:1], "Doorbell&x&good&a&b", *t[2:]]), f"{TXT}, line 2")
case("data: an event that ends first", lines(lambda t: ["Doorbell&x&good&5&2", *t[1:]]), f"{TXT}, line 1", "5 to 2")
case("data: an event past the clip", lines(lambda t: [*t[:-1], "Doorbell&x&good&5&20"]), TXT, "20")
case("data: an annotation missing", lines(lambda t: t[:-1]), TXT, "39", "40")
case("data: no annotation at all", lines(lambda t: []), TXT, "no annotation")
case("data: annotations in UTF-16", data(TXT, lambda p: p.write_text(p.read_text(), "utf-16")), TXT, "is UTF-16 text")
case("data: annotations from a pipe", data(TXT, pipe), TXT, "is a pipe or a device")
case("data: features from a pipe", data(V, pipe), V, "is a pipe or a device")
case("data: annotations in Latin-1", data(TXT, lambda p: p.write_bytes(b"\xe9" * 50)), TXT, "not UTF-8")


def short_clips(world: World) -> None:
    (world.data / TXT).unlink()
    for name in (V, A, L):
        rewrite(world.data / name, lambda x: x[:, :3])


case("data: clips of three segments", short_clips, "3 segments", "at least 4")
case(
    "data: a demo where other data lie",
    lambda w: (set_key(w.config, "data.generate", GENERATE), rewrite(w.data / A, lambda x: x[:, :9])),
    "data", A,
)  # fmt: skip
case(
    "data: a demo with other settings",
    lambda w: set_key(w.config, "data.generate", GENERATE | {"seed": 5}),
    "generated with other settings", flags="--data_root {data}",
)  # fmt: skip


# --- Checkpoints ---


def change_last(change: Callable[[dict], object]) -> Callable[[World], None]:
    return lambda world: recheck(last(world), change)


def in_last(*path: str | int, value: object) -> Callable[[World], None]:
    def change(content: dict) -> None:
        *inner, final = path
        for key in inner:
            content = content[key]
        content[final] = value

    return change_last(change)


def saved(content: object, name: str = "x.pth") -> Callable[[World], object]:
    return lambda world: torch.save(content() if callable(content) else content, world.path(name))


def with_code(world: World) -> None:
    torch.save({"format": "cmbs-1", "network": Code(world.path("canary"))}, world.path("x.pth"))


def with_code_in_an_old_file(world: World) -> None:
    world.path("x.pth").write_bytes(pickle.dumps(Code(world.path("canary"))))


def with_model_object(world: World) -> None:
    torch.save(torch.nn.Linear(2, 2), world.path("x.pth"))


def another_width(world: World) -> None:
    last(world)
    world.config["model"]["d_model"] = 32


def other_run(name: str) -> Callable[[World], object]:
    def prepare(world: World) -> None:
        world.with_run(name)

    return prepare


def official(setting_name: str, change: Callable[[dict], object] = lambda state: None) -> Callable[[World], None]:
    def prepare(world: World) -> None:
        state = official_state_dict(setting_name)
        change(state)
        torch.save(state, world.path("x.pth"))
        world.config["model"] = {"name": SUPERVISED}

    return prepare


LAST, X = "--resume {run/last.pth.tar}", "--evaluate --resume {x.pth}"
case("resume: nothing to go on with", nothing, "run/last.pth.tar", "no such checkpoint", flags="--resume last")
case("resume: no such file", nothing, "x.pth", "no such checkpoint", flags="--resume {x.pth}")
case("resume: a folder", nothing, "is a folder", "best.pth.tar", flags="--resume {data}")
case("resume: a pipe", lambda w: os.mkfifo(w.path("x.pth")), "x.pth", "is a pipe or a device", flags=X)
case("resume: an empty file", lambda w: w.path("x.pth").touch(), "is empty", flags=X)
case("resume: an HTML page", lambda w: page(w.path("x.pth")), "HTML page", flags=X)
case("resume: a text", lambda w: w.path("x.pth").write_text("weights " * 99), "not a checkpoint", flags=X)
case("resume: an HDF5 file", nothing, "not a checkpoint", flags=f"--evaluate --resume {{data/{A}}}")
for part in (0.001, 0.3, 0.9, 0.999):
    case(f"resume: cut at {part}", lambda w, part=part: cut(last(w), part), "truncated", flags=LAST)
for part in (0.2, 0.5, 0.8):
    case(f"resume: a byte changed at {part}", lambda w, part=part: flip(last(w), part), "damaged", flags=LAST)
case("resume: code", with_code, "holds code", "system", flags=X)
case("resume: code, in an old file", with_code_in_an_old_file, "holds code", "system", flags=X)
case("resume: a whole model object", with_model_object, "holds code", "Linear", flags=X)
case("resume: a tensor", saved(torch.zeros(3)), "holds a Tensor", flags=X)
case("resume: a list", saved([1, 2]), "holds a list", flags=X)
case("resume: an empty dict", saved({}), "not a checkpoint", flags=X)
case("resume: a dict of something else", saved({"a": 1}), "its keys are 'a'", flags=X)
case("resume: somebody's network", saved({"fc.weight": torch.zeros(2, 2)}), "x.pth", flags=X)
case("resume: a later format", in_last("format", value="cmbs-9"), "'cmbs-9'", flags=LAST)
case("resume: no config in it", in_last("config", value=None), "'config'", flags=LAST)
case("resume: a bad config in it", in_last("config", "train", "lr", value=-1), "its config", "'train.lr'", flags=LAST)
case("resume: no weights in it", change_last(lambda c: c.pop("network") and None), "'network'", flags=LAST)
case(
    "resume: a weight missing",
    change_last(lambda c: c["network"].popitem() and None),
    "weights are damaged",
    flags=LAST,
)
case(
    "resume: a weight of another shape",
    in_last("network", "event_classifier.bias", value=torch.zeros(9)),
    "weights are damaged", "event_classifier.bias", flags=LAST,
)  # fmt: skip
case("resume: a weight that is text", in_last("network", "event_classifier.bias", value="x"), "damaged", flags=LAST)
case("resume: no optimiser", in_last("training", "optimizer", value={}), "training state is damaged", flags=LAST)
case(
    "resume: an optimiser of other shapes",
    in_last("training", "optimizer", "state", 0, "exp_avg", value=torch.zeros(3)),
    "training state is damaged", "exp_avg", flags=LAST,
)  # fmt: skip
case("resume: no random state", in_last("training", "random", 0, "torch", value=None), "state is damaged", flags=LAST)
case("resume: a position in words", in_last("training", "position", "epoch", value="two"), "damaged", flags=LAST)
case("resume: a negative step", in_last("training", "position", "step", value=-2), "damaged", flags=LAST)
case("resume: a training state that is a list", in_last("training", value=[1]), "damaged", flags=LAST)
case("resume: the other setting's", other_run(WEAK), "of weak_main_model", "weak_main.py", flags=LAST)
case("resume: another width", another_width, "model.d_model (32 here, 16 there)", flags=LAST)
case("resume: another seed", last, "train.seed (5 here, 43 there)", "another run", flags="--resume last --seed 5")
case("resume: another batch size", last, "train.batch_size", "another run", flags="--resume last -b 4")
case("resume: best weights into their own run", last, "holds a run already", flags="--resume {run/best.pth.tar}")
case("evaluate: another width", another_width, "model.d_model (32 here, 16 there)", flags="--evaluate " + LAST)
case("resume: into another folder", last, "goes on in its own folder", flags=LAST + " --snapshot_pref {elsewhere}")
case(
    "resume: an older state",
    lambda w: (w.path("run/older.pth").write_bytes(last(w).read_bytes())),
    "would overwrite", "last.pth.tar", flags="--resume {run/older.pth}",
)  # fmt: skip
case(
    "resume: with other data",
    lambda w: (last(w), rewrite(w.data / A, lambda x: x.astype("f8"))),
    "trained on other data", A, flags="--resume last",
)  # fmt: skip
case(
    "resume: with other splits",
    lambda w: (last(w), rewrite(w.data / TRAIN, lambda x: x[::-1])),
    "trained on other data", TRAIN, flags="--resume last",
)  # fmt: skip
case(
    "resume: a damaged run.json",
    lambda w: (last(w), w.path("run/run.json").write_text("{")),
    "run.json", flags="--resume last --n_epoch 3",
)  # fmt: skip
case("evaluate: nothing there", nothing, "no checkpoint to evaluate", "supv_train.sh", flags="--evaluate")
case("authors': of the other setting", official("weak"), "x.pth", flags=X)
case("authors': a tensor missing", official("supv", lambda s: s.popitem()), "x.pth", flags=X)
case("authors': a shape of another network", official("supv", lambda s: s.update(dict.fromkeys(list(s)[:1], torch.zeros(2)))), "x.pth", flags=X)  # fmt: skip # noqa: E501


# --- Folders ---


def in_the_way(name: str) -> Callable[[World], object]:
    return lambda world: world.path(name).write_text("mine")


def pipe(name: str) -> Callable[[World], object]:
    def prepare(world: World) -> None:
        world.path(name).parent.mkdir()
        os.mkfifo(world.path(name))

    return prepare


case("folder: a file", in_the_way("run"), "run: could not be written", "file of that name")
case("folder: under a file", in_the_way("file"), "a part of the path is a file", flags="--snapshot_pref {file/run}")
case("folder: holds a run", last, "holds a run already (1 epochs)", "--resume last", "--snapshot_pref")
case(
    "folder: holds somebody's best",
    lambda w: (last(w).unlink(), w.path("run/metrics.jsonl").unlink()),
    "best.pth.tar", "would be overwritten",
)  # fmt: skip
case(
    "folder: holds somebody's best on val",
    lambda w: (last(w).unlink(), w.path("run/best.pth.tar").unlink()),
    "best-val.pth.tar", "would be overwritten",
)  # fmt: skip
case("folder: its log is a pipe", pipe("run/log.txt"), "log.txt: is in the way")
case("folder: its name isn't UTF-8", nothing, "caf\\xe9: its name isn't UTF-8", flags="--snapshot_pref {caf\udce9}")
case("folder: of the kernel", nothing, "/proc/run: could not be written", flags="--snapshot_pref /proc/run")
case(
    "output: a file", lambda w: (last(w), in_the_way("out")(w)), "out: could not be", flags="--evaluate --output {out}"
)
case(
    "output: a folder in the way",
    lambda w: (last(w), w.path("out/predictions.jsonl").mkdir(parents=True)),
    "predictions.jsonl: could not be written", "folder of that name", flags="--evaluate --output {out}",
)  # fmt: skip


@pytest.fixture(scope="module")
def good_runs(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of one epoch for each setting."""
    runs = {}
    for name, main in MAINS.items():
        folder = tmp_path_factory.mktemp("runs")
        config = {"model": {"name": name, **TINY_MODEL}, "train": {"n_epoch": 1, "batch_size": 10}}
        (folder / "config.json").write_text(json.dumps(config))
        flags = ["--config", str(folder / "config.json"), "--gpu", "cpu", "--data_root", str(tiny_data)]
        assert main([*flags, "--snapshot_pref", str(folder / "run")]) == 0
        runs[name] = folder / "run"
    return runs


@pytest.fixture
def world(tmp_path: Path, tiny_data: Path, good_runs: dict[str, Path]) -> World:
    config = {"model": {"name": SUPERVISED, **TINY_MODEL}, "data": {}, "train": {"n_epoch": 1, "batch_size": 10}}
    return World(tmp_path, tiny_data, config, good_runs)


@pytest.mark.parametrize("name", CASES)
def test_one_line_exit_2_nothing_touched(name: str, world: World, capfd):
    prepare, flags, words = CASES[name]
    prepare(world)
    flags = [re.sub(r"\{(.*)\}", lambda match: str(world.path(match[1])), flag) for flag in flags]
    argv = world.arguments(*flags) if "--config" not in flags else flags
    before = world.contents()
    capfd.readouterr()
    assert MAINS[world.name](argv) == 2
    error = one_line(capfd)
    for word in words:
        assert word in error, error
    assert world.contents() == before


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_names_a_wrong_flag_in_one_line(name: str, capfd):
    assert main_of(name)(["--no-such-flag"]) == 2
    assert f"(all flags: python -m {name} --help)" in one_line(capfd)


def test_every_command_is_among_them():
    roots = [Path(__file__).parent.parent / folder for folder in ("dataset", "utils")]
    folders = {f"{root.name}.{path.parent.name}" for root in roots for path in root.glob("*/__main__.py")}
    paths = [path for root in roots for path in root.glob("*.py")]
    files = {f"{path.parent.name}.{path.stem}" for path in paths if "Parser(" in path.read_text()}
    assert folders | files == set(COMMANDS)


def test_the_table_is_long_enough():
    assert len(CASES) >= 60


def test_a_gpu_that_is_not_there(world: World, capfd, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    argv = [*world.arguments()[:2], "--gpu", "3"]
    assert MAINS[SUPERVISED](argv) == 2
    assert "GPUs 0 to 1" in one_line(capfd)


def test_a_folder_in_use(world: World, capfd):
    world.run.mkdir()
    with open(world.run / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = world.contents()
        assert world.start() == 2
        assert "another process" in one_line(capfd)
        assert world.contents().keys() == before.keys() | {"config.json"}

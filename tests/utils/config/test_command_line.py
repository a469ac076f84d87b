"""Command lines as they are typed: the authors' flags, any key by --set, and where relative paths lead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TINY_MODEL

from utils.base.errors import UserError
from utils.base.paths import config_path, project_path
from utils.config.command_line import parse
from utils.config.settings import KEYS, SUPERVISED, WEAK
from utils.study.runs import Study


def supervised(*argv: str):
    return parse(argv, "", "configs/main.json", "full")


def weak(*argv: str):
    return parse(argv, "", "configs/weak.json", "weak")


def test_the_authors_command_lines_are_read():
    line = (
        "--gpu 0 --lr 0.0007 --clip_gradient 0.5 --snapshot_pref Exps/Supv/exp1/ --n_epoch 200 --b 64 "
        "--test_batch_size 16 --print_freq 1"
    )
    config, options = supervised(*line.split())
    assert (config.train.batch_size, config.train.print_freq, options.gpu) == (64, 1, "0")
    line = "--gpu 0 --test_batch_size 64 --evaluate --resume Exps/Supv/expe/best.pth.tar --print_freq 1"
    _, options = supervised(*line.split())
    assert (options.evaluate, options.resume) == (True, "Exps/Supv/expe/best.pth.tar")


@pytest.mark.parametrize(
    ("flags", "key", "value"),
    [
        ("-b 8", "batch_size", 8), ("--b 8", "batch_size", 8), ("--batch_size 8", "batch_size", 8),
        ("--wd 0.5", "weight_decay", 0.5), ("--weight_decay .5", "weight_decay", 0.5), ("--lr 1", "lr", 1.0),
        ("--lr 7e-4", "lr", 7e-4), ("--seed 007", "seed", 7), ("--precision float64", "precision", "float64"),
        ("--set train.compile=true", "compile", True), ("--set train.clip_gradient=null", "clip_gradient", None),
        ("--set train.milestones=[1,2]", "milestones", [1, 2]),
        ("--set train.precision=float64", "precision", "float64"),
        ("--set train.snapshot_pref=123", "snapshot_pref", "123"),
        ('--set train.snapshot_pref="a=b"', "snapshot_pref", "a=b"),
        ("--set train.n_epoch=3 --n_epoch 3", "n_epoch", 3), ('--set train={"lr":0.5}', "lr", 0.5),
        ("--set train.gate_loss=0.5", "loss_weights", {"event": 1, "gate": 0.5, "category": 1, "av_category": 1}),
    ],
)  # fmt: skip
def test_a_flag_sets_its_key(monkeypatch, flags, key, value):
    monkeypatch.chdir(ROOT)
    assert getattr(supervised(*flags.split())[0].train, key) == value


def test_set_reaches_every_section():
    config, options = weak("--set", "model.quirks.own_gate=false", "--set", "eval.gate_threshold=0.25")
    assert (config.model.quirks.own_gate, config.model.quirks.scale_input) == (False, True)
    assert (config.eval.localize, config.eval.threshold) == ("gate", 0.25)
    assert options.named == {"model.quirks.own_gate", "eval.localize", "eval.threshold"}


@pytest.mark.parametrize(
    ("own", "flags", "found"),
    [
        ({"gate_threshold": 0.5}, "", ("gate", 0.5)),
        ({"gate_threshold": 0.5}, "--localize authors", ("authors", None)),
        ({"localize": "gate", "threshold": 0.5}, "--localize relative", ("relative", None)),
        ({"localize": "gate", "threshold": 0.5}, "--localize gate", ("gate", 0.5)),
        ({"localize": "gate", "threshold": 0.5}, "--localize relative --set eval.threshold=-1.0", ("relative", -1.0)),
        ({"threshold": 0.5}, "--localize gate", ("gate", 0.5)),
    ],
)
def test_a_threshold_belongs_to_its_rule(own, flags, found, tmp_path):
    (tmp_path / "weak.json").write_text(json.dumps({"model": {"name": "weak_main_model"}, "eval": own}))
    config, _ = weak("--config", str(tmp_path / "weak.json"), *flags.split())
    assert (config.eval.localize, config.eval.threshold) == found


def test_a_rule_without_threshold_and_a_threshold_contradict_each_other():
    with pytest.raises(UserError, match="'authors' has no threshold"):
        weak("--localize", "authors", "--set", "eval.threshold=0.5")


def test_checkpoint_is_resume():
    assert supervised("--checkpoint", "a.pth.tar")[1].resume == "a.pth.tar"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--set train.lrr=1", "--set train.lrr=1: unknown key 'train.lrr'; did you mean 'train.lr'?"),
        ("--set optimizer.lr=1", "--set optimizer.lr=1: unknown key 'optimizer'"),
        ("--set alpha=1", "--set alpha=1: unknown key 'alpha'; 'alpha' belongs in the section 'model'"),
        ("--set train.lr", "--set train.lr: is not KEY=VALUE"),
        ("--set train.lr=fast", "--set train.lr=fast: 'train.lr' is \"fast\""),
        ("--set train.lr=NaN", "--set train.lr=NaN: 'train.lr' is NaN"),
        ("--set train.milestones=[1,-1]", "--set train.milestones=[1,-1]: 'train.milestones.1' is -1"),
        ("--set model.quirks.own_gate=false", "unknown key 'model.quirks.own_gate'"),
        ("--set model=5", "--set model=5: 'model'"),
        ("--set data.root=", "--set data.root=: 'data.root'"),
        ("--lr 1 --set train.lr=2", "--lr 1 and --set train.lr=2 contradict each other"),
        ("--set train.lr=2 --set train.lr=3", "contradict each other"),
        ("--wd 1 --weight_decay 2", "stands there twice"),
        ("--resume a --checkpoint b", "stands there twice"),
        ("--evaluate --set train.lr=2", "--evaluate trains nothing, so --set train.lr=2 contradicts it"),
        ("--evaluate --set train.loss_weights.gate=0", "--evaluate trains nothing"),
        ("--localize gate", "main.json with --localize gate: 'eval.localize' is 'gate': it is for a weak network"),
        ("--set train.skip_nonfinite=true", "--set train.skip_nonfinite=true: 'train.skip_nonfinite' is no more"),
    ],
)
def test_a_mistake_names_the_flag(flags, message):
    with pytest.raises(UserError) as error:
        supervised(*flags.split())
    assert message in str(error.value)


def test_a_mistake_in_the_file_names_the_file_whatever_the_flags(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"model": {"name": SUPERVISED, "alpha": 2}}))
    with pytest.raises(UserError, match=r"mine.json: 'model.alpha' is 2"):
        supervised("--config", str(path), "--lr", "0.1")


def test_help_names_every_flag_with_its_key(capsys):
    with pytest.raises(SystemExit):
        supervised("--help")
    told = " ".join(capsys.readouterr().out.split())
    for name, _, key in KEYS.values():
        for flag in key.flags:
            assert flag in told
            assert f"({name})" in told


# --- Relative paths ---


def test_a_typed_path_is_relative_to_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "mine.json").write_text(
        json.dumps({"extends": str(ROOT / "configs" / "main.json"), "train": {"snapshot_pref": "Exps/of-config"}})
    )
    monkeypatch.chdir(tmp_path)
    config, _ = supervised("--config", "mine.json", "--data_root", "here")
    assert config.data.folder == Path("here")
    assert config.data.root == str(tmp_path / "here")  # it means the same from anywhere
    assert config.train.folder == ROOT / "Exps" / "of-config"
    assert supervised("--set", "data.root=here")[0].data == config.data

    monkeypatch.chdir(ROOT / "utils")
    config, _ = supervised("--data_root", "../data/x", "--snapshot_pref", "run")
    assert (config.data.root, config.train.snapshot_pref) == ("data/x", "utils/run")
    assert (config.data.folder, config.train.folder) == (ROOT / "data" / "x", Path("run"))

    monkeypatch.chdir(ROOT)
    assert supervised()[0].data.folder == Path("data")
    assert weak()[0].train.folder == Path("Exps/WeaklySupv/exp1")


def test_a_path_survives_a_link(tmp_path, monkeypatch):
    (tmp_path / "far" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "inner")
    monkeypatch.chdir(tmp_path)
    assert project_path(config_path("link/../data")).resolve() == tmp_path / "far" / "data"
    assert project_path(config_path("link")).name == "link"


def test_a_config_of_the_project_is_named_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"did you mean {ROOT / 'configs' / 'weak.json'}?"):
        weak("--config", "configs/weak.json")
    with pytest.raises(UserError, match=f"are in {ROOT / 'configs'}/"):
        weak("--config", "nothing.json")


def test_a_study_from_another_folder(tmp_path, monkeypatch):
    study = {"title": "t", "output": "Exps/Study/t", "seeds": [1]}
    study["runs"] = {"beside": "mine.json", "in the project": "configs/main.json"}
    (tmp_path / "study.json").write_text(json.dumps(study))
    (tmp_path / "mine.json").write_text(json.dumps({"model": {"name": SUPERVISED, "alpha": 0.7}}))
    monkeypatch.chdir(tmp_path)
    beside, project = Study("study.json").runs
    assert (beside.config.model.alpha, project.config.model.alpha) == (0.7, 0.1)
    assert beside.folder == beside.config.train.folder == ROOT / "Exps" / "Study" / "t" / "beside" / "seed-1"
    assert beside.config.train.snapshot_pref == "Exps/Study/t/beside/seed-1"


def test_a_study_by_its_old_name():
    new = Study(str(ROOT / "configs" / "studies" / "weak_generated.json")).runs
    assert Study(str(ROOT / "configs" / "study_weak_generated.json")).runs == new


@pytest.mark.parametrize("setting", ["supv", "weak"])
def test_scripts_work_through_a_link_and_from_another_folder(tiny_data, tmp_path, setting):
    """Everything that is typed is relative to where the user stands, and so is what is said."""
    (tmp_path / "bin").mkdir()
    for script in ("train", "test"):
        (tmp_path / "bin" / script).symlink_to(ROOT / f"{setting}_{script}.sh")
    work = tmp_path / "work"
    work.mkdir()
    (work / "data").symlink_to(tiny_data)
    name = SUPERVISED if setting == "supv" else WEAK
    sections = {"model": {"name": name, **TINY_MODEL}, "train": {"n_epoch": 1, "batch_size": 10}}
    (work / "base.json").write_text(json.dumps(sections))
    (work / "configs").mkdir()
    (work / "configs" / "mine.json").write_text(json.dumps({"extends": "../base.json"}))

    def run(script: str, *flags: str) -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [str(tmp_path / "bin" / script), "--config", "configs/mine.json", "--data_root", "data", *flags],
            cwd=work, env={**os.environ, "PATH": path, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "results: run/eval-test/metrics.json" in run("train", "--snapshot_pref", "run")
    assert "results: out/metrics.json" in run("test", "--checkpoint", "run/best.pth.tar", "--output", "out")
    assert "run/best.pth.tar" in run("test", "--snapshot_pref", "run")
    assert json.loads((work / "out" / "metrics.json").read_text())["clips"] == 8


# --- How soon ---


@pytest.mark.parametrize("main", ["supv_main", "weak_main"])
@pytest.mark.parametrize(
    "flags",
    [
        ["--help"],
        ["--lrr", "1"],
        ["--lr", "x"],
        ["--config", "none.json"],
        ["--set", "model.alhpa=0"],
        ["--set", "model.name=x"],
        ["--localize", "x"],
        ["--set", "train.loss_weights.x=1"],
        ["--set", "eval.threshold=2"],
    ],
)
def test_help_and_mistakes_are_told_without_importing_torch(main, flags):
    """Importing it takes seconds."""
    code = (
        "import atexit, sys\n"
        f"import {main}\n"
        "slow = {'torch', 'h5py', 'numpy'}\n"
        "atexit.register(lambda: print('imported:', slow & sys.modules.keys(), file=sys.stderr))\n"
        f"sys.exit({main}.main({flags!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == (0 if flags == ["--help"] else 2), done.stderr
    assert done.stderr.endswith("imported: set()\n")

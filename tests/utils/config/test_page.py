"""The page of every key, and what declarations say of two runs."""

from __future__ import annotations

import pytest
from conftest import ROOT

from model import NETWORKS
from utils.config import files as config_files
from utils.config.__main__ import main
from utils.config.keys import declared
from utils.config.page import page
from utils.config.settings import KEYS, SUPERVISED, Config, declaration


def test_the_page_in_the_repository_is_what_the_declarations_say(capsys):
    assert main([]) == 0
    written = (ROOT / "configs" / "README.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == written, "python -m utils.config > configs/README.md"


def test_the_page_has_every_key_with_its_sentence():
    lines = [line.split(" | ") for line in page().splitlines() if line.startswith("| `")]
    sentences = {line[0].removeprefix("| ").strip("`"): line[3] for line in lines if len(line) > 3}
    keys = {key.name for network in NETWORKS.values() for key in declared(network.settings)}
    keys |= {name.partition(".")[2] for name in KEYS if not name.startswith("model") and "." in name}
    assert sentences.keys() == keys
    assert all(len(sentence) > 10 for sentence in sentences.values())


@pytest.mark.parametrize(
    ("key", "may_differ"),
    [
        ("model.alpha", "no"), ("model.quirks.own_gate", "no"), ("train.lr", "no"), ("train.loss_weights.gate", "no"),
        ("eval.localize", "no"), ("data.root", "going on"), ("train.n_epoch", "going on"),
        ("eval.split", "going on"), ("data.placement", "always"), ("data.generate.seed", "always"),
        ("train.snapshot_pref", "always"), ("eval.test_batch_size", "always"),
    ],
)  # fmt: skip
def test_whether_two_runs_may_differ_in_a_key(key, may_differ):
    assert declaration(key).may_differ == may_differ


def test_a_difference_is_told_for_the_keys_that_are_asked_for():
    def config(**train: object) -> Config:
        return config_files.build({"model": {"name": SUPERVISED}, "train": train}, "test")

    ours, theirs = config(), config(lr=0.5, n_epoch=3, print_freq=7)
    assert len(config_files.difference(ours, theirs)) == 3
    assert config_files.difference(ours, theirs, ["no"]) == ["train.lr (0.0007 here, 0.5 there)"]
    told = config_files.difference(ours, theirs, ["no", "going on"])
    assert told == ["train.n_epoch (200 here, 3 there)", "train.lr (0.0007 here, 0.5 there)"]


def test_weak_supervision_has_its_own_defaults_whichever_network():
    for name, network in NETWORKS.items():
        train = config_files.build({"model": {"name": name}}, "test").train
        assert (train.lr, train.seed) == ((6e-4, 666) if network.supervision == "weak" else (7e-4, 43))

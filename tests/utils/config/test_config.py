"""Configs: the recipe, what extends what, and how a mistake is told."""

from __future__ import annotations

import json

import pytest
from conftest import ROOT

from model import network_settings
from utils.base.errors import UserError
from utils.config import files as config_files
from utils.config.settings import SUPERVISED, WEAK, Config

CONFIGS = ROOT / "configs"


def load(path):
    return config_files.build(config_files.read_json(path), source=str(path))


@pytest.mark.parametrize(("file", "name"), [("main.json", SUPERVISED), ("weak.json", WEAK)])
def test_the_main_configs_spell_out_the_defaults(file, name):
    """So the authors' JSON files, which hold only a model section, mean the same as ours."""
    assert load(CONFIGS / file) == config_files.build({"model": {"name": name}}, source="defaults")
    written = json.loads((CONFIGS / file).read_text())
    defaults = config_files.build({"model": {"name": name}}, source="defaults").model_dump()
    of_the_other_setting = {
        SUPERVISED: {"eval.threshold", "eval.localize", "data.label_regime"},
        WEAK: set(),
    }[name]
    for section, values in defaults.items():
        missing = {f"{section}.{key}" for key in values if key not in written[section]}
        assert missing <= of_the_other_setting | {"data.generate"}


def test_the_recipe():
    """The numbers of the published checkpoints."""
    supervised, weak = load(CONFIGS / "main.json"), load(CONFIGS / "weak.json")
    for config, lr, milestones, seed in ((supervised, 7e-4, [10, 20, 30], 43), (weak, 6e-4, [10, 20, 40], 666)):
        train = config.train
        assert (train.n_epoch, train.batch_size, train.clip_gradient, train.lr_decay) == (200, 64, 0.5, 0.5)
        assert (train.lr, train.milestones, train.seed, train.weight_decay) == (lr, milestones, seed, 0)
        assert config.eval.test_batch_size == 16
    assert (supervised.model.alpha, supervised.model.gamma, supervised.model.beta) == (0.1, 0.3, 0.4)
    assert (weak.model.alpha, weak.model.gamma, weak.model.beta) == (0.2, 0.5, 0.5)


def test_every_config_in_the_repository_is_valid():
    paths = [path for path in CONFIGS.rglob("*.json") if path.parent.name != "studies"]
    assert len(paths) > 20
    for path in paths:
        load(path)


def test_extends_names_only_what_differs(tmp_path):
    (tmp_path / "base.json").write_text(json.dumps({"model": {"name": SUPERVISED, "alpha": 0.3}, "train": {"lr": 0.1}}))
    (tmp_path / "mine.json").write_text(json.dumps({"extends": "base.json", "train": {"n_epoch": 3}}))
    config = load(tmp_path / "mine.json")
    assert (config.model.alpha, config.train.lr, config.train.n_epoch, config.train.seed) == (0.3, 0.1, 3, 43)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model": {"name": "supv_main_model", "gama": 0.1}}', "unknown key 'model.gama'; did you mean 'model.gamma'"),
        ('{"model": {"name": "supv_main_model"}, "data": {"lr": 1}}', "'lr' belongs in the section 'train'"),
        ('{"model": {"name": "supv_main_model"}, "train": {"lr": "1"}}', "'train.lr'"),
        ('{"model": {"name": "supv_main_model"}, "train": {"lr": NaN}}', "NaN"),
        ('{"model": {"name": "supv_main_model"}, "train": {"lr": 1, "lr": 2}}', "twice"),
        ('{"model": {"name": "supv_main_model"},}', "line 1, column"),
        ('{"extends": "config.json"}', "extends itself"),
        ("[]", "JSON object"),
    ],
)
def test_mistakes_name_the_key_and_the_file(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load(path)
    assert message in str(error.value)
    assert "config.json" in str(error.value)


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ({"gate_threshold": 0.5}, {"localize": "gate", "threshold": 0.5}),
        ({"localize": "authors", "gate_threshold": 0.5}, {"localize": "gate", "threshold": 0.5}),
        ({"localize": "gate", "gate_threshold": 0.5}, {"localize": "gate", "threshold": 0.5}),
        ({"localize": "relative", "gate_threshold": None}, {"localize": "relative"}),
    ],
)
def test_the_old_name_of_the_threshold_works(tmp_path, old, now):
    """In a config, in one that it extends, and in the config of a checkpoint."""
    (tmp_path / "base.json").write_text(json.dumps({"model": {"name": WEAK}, "eval": old}))
    (tmp_path / "mine.json").write_text(json.dumps({"extends": "base.json"}))
    wanted = config_files.build({"model": {"name": WEAK}, "eval": now}, "now")
    assert load(tmp_path / "base.json") == load(tmp_path / "mine.json") == wanted
    assert config_files.build({"model": {"name": WEAK}, "eval": old}, "a checkpoint") == wanted


def test_a_config_overrides_the_old_name_by_the_new_one_and_the_other_way_round(tmp_path):
    sections = {"old.json": {"gate_threshold": 0.5}, "new.json": {"localize": "gate", "threshold": 0.3}}
    for base, values in sections.items():
        (tmp_path / base).write_text(json.dumps({"model": {"name": WEAK}, "eval": values}))
        for mine, own in sections.items():
            (tmp_path / "mine.json").write_text(json.dumps({"extends": base, "eval": own}))
            assert load(tmp_path / "mine.json").eval.threshold == (0.5 if mine == "old.json" else 0.3)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"threshold": 0.5}, "has no threshold"),
        ({"localize": "gate", "threshold": 1.5}, "between 0 and 1"),
        ({"localize": "relative", "threshold": 0.5}, "between -inf and 0"),
        ({"threshold": 0.5, "gate_threshold": 0.5}, "both are there"),
        ({"localize": "gates"}, "'eval.localize'"),
    ],
)
def test_a_threshold_that_the_rule_cannot_have(section, message):
    with pytest.raises(UserError, match=message):
        config_files.build({"model": {"name": WEAK}, "eval": section}, "a config")


def test_a_switch_that_the_network_does_not_have():
    with pytest.raises(UserError) as error:
        config_files.build({"model": {"name": WEAK, "quirks": {"gate_as_logit": False}}}, "a config")
    assert "unknown key 'model.quirks.gate_as_logit'" in str(error.value)
    assert "of weak_main_model has scale_input, own_gate, probs_as_logits" in str(error.value)


def test_a_config_is_made_of_a_networks_settings_too():
    """Not only of JSON: the recipe is the network's all the same."""
    settings = network_settings({"name": WEAK})
    assert config_files.build({"model": settings}, "settings") == config_files.build({"model": {"name": WEAK}}, "JSON")


def test_clips_are_generated_from_annotations_or_from_numbers():
    numbers = {"train": 3, "val": 2, "test": 2, "categories": 3}

    def config(generate: dict) -> Config:
        sections = {"model": {"name": SUPERVISED, "categories": 3}, "data": {"generate": generate}}
        return config_files.build(sections, source="mine.json")

    assert config(numbers).data.generate.annotations is None
    assert config({"annotations": "data/Annotations.txt"}).data.generate.train is None
    for name in numbers:
        with pytest.raises(UserError, match=f"mine.json: .*{name!r} is missing; name it, or 'annotations'"):
            config({key: value for key, value in numbers.items() if key != name})
        with pytest.raises(UserError, match=f"'annotations' says what {name!r} says"):
            config({"annotations": "data/Annotations.txt", name: numbers[name]})

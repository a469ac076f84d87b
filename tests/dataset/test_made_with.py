"""What made a data folder's features: written down, carried by checkpoints, and told by the values themselves."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from dataset import convert, files, made_with
from dataset.check import __main__ as check_command
from dataset.writing import write_array
from utils.base.errors import UserError

MADE = {
    "visual": {"backbone": "vgg19", "sha256": "a" * 64, "grid": [7, 7, 512], "precision": "float32"},
    "audio": {"network": "vggish", "final_relu": True, "hop_seconds": 0.96},
    "decoder": {"pyav": "18.1.0", "ffmpeg": "8.1.2"},
}


def changed(part: str, key: str, value: object) -> made_with.MadeWith:
    other = copy.deepcopy(MADE)
    other[part][key] = value
    return other


def test_what_differs_is_told_by_how_much_it_matters():
    assert made_with.differences(MADE, MADE) == ([], [])
    assert made_with.differences({}, MADE) == ([], [])
    assert made_with.differences(MADE, {"decoder": {}}) == ([], []), "what one of them doesn't say"
    for part, key, value in [
        ("visual", "backbone", "timm/resnet18"),
        ("visual", "sha256", "b" * 64),
        ("visual", "grid", [14, 14, 192]),
        ("audio", "final_relu", False),
        ("audio", "hop_seconds", 1.0),
    ]:
        (line,), none = made_with.differences(MADE, changed(part, key, value))
        assert line.startswith(f"{part}.{key} was ")
        assert none == []
    none, lines = made_with.differences(MADE, changed("decoder", "ffmpeg", "7.0"))
    assert (none, lines) == ([], ["decoder.ffmpeg was 8.1.2 and is 7.0"])
    assert made_with.differences(MADE, changed("visual", "precision", "bfloat16"))[0] == []


def test_a_folder_says_it_or_not(tmp_path):
    assert made_with.read(tmp_path) is None
    made_with.write(tmp_path, MADE)
    assert made_with.read(tmp_path) == MADE
    for damaged in ("{", "[]", '{"visual": 3}', '{"visual": {"grid": "7x7"}}', '{"visual": {"grid": [7, "7"]}}'):
        (tmp_path / files.MADE_WITH).write_text(damaged)
        with pytest.raises(UserError, match=r"features\.json: .*remove it"):
            made_with.read(tmp_path)


def audio_like(kind: str) -> np.ndarray:
    values = np.random.default_rng(0).normal(0, 1, (30, 10, 128))
    return {
        "final ReLU": np.maximum(values, 0),
        "PCA, cut off": np.clip(values, -2, 2),
        "8-bit": np.rint(np.clip(values, -2, 2) * 63.75 + 127.5),
        "before": values * 3,
    }[kind]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("final ReLU", "VGGish after the final ReLU, without PCA"),
        ("PCA, cut off", "VGGish after PCA, cut off at -2 and 2"),
        ("8-bit", "VGGish 8-bit numbers after PCA"),
        ("before", "VGGish before the final ReLU"),
    ],
)
def test_the_check_says_which_vggish_it_is(tmp_path, capsys, kind, words):
    write_array(tmp_path / files.AUDIO, audio_like(kind))
    check_command.main(["--root", str(tmp_path)])
    assert words in capsys.readouterr().out


def test_the_check_shows_what_made_them_and_two_kinds_in_one_folder(tmp_path, capsys):
    write_array(tmp_path / files.AUDIO, audio_like("final ReLU"))
    write_array(tmp_path / files.NOISY_AUDIO, audio_like("before"))
    made_with.write(tmp_path, MADE)
    check_command.main(["--root", str(tmp_path)])
    said = capsys.readouterr().out
    assert "features.json: visual: backbone vgg19, sha256 aaaaaaaaaaaa..., grid [7, 7, 512]" in said
    assert "decoder: pyav 18.1.0, ffmpeg 8.1.2" in said
    assert f"{files.NOISY_AUDIO}: is of another kind than {files.AUDIO}" in said


@pytest.mark.skipif("CMBS_AVE_DIR" not in os.environ, reason="CMBS_AVE_DIR names no folder with AVE's files")
def test_aves_own_audio_is_after_the_final_relu(tmp_path, capsys):
    shutil.copy(Path(os.environ["CMBS_AVE_DIR"]) / files.NOISY_AUDIO, tmp_path)
    check_command.main(["--root", str(tmp_path)])
    assert "values from 0 to 4.54: VGGish after the final ReLU" in capsys.readouterr().out


def test_a_converted_folder_keeps_it(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    write_array(root / files.AUDIO, audio_like("before"))
    made_with.write(root, MADE)
    assert convert.main(["--root", str(root), "--to", str(tmp_path / "to")]) == 0
    assert made_with.read(tmp_path / "to") == MADE

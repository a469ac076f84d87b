"""What comes before a network is built: the data that a config describes."""

from __future__ import annotations

import json

import pytest

from dataset import files
from utils.base.errors import UserError
from utils.config.settings import DataSettings, GenerateSettings
from utils.training.generated import generate_once


def test_clips_of_somebodys_annotations_are_generated_once(tiny_data, tmp_path):
    settings = {"grid": [1, 2], "visual_dim": 4, "audio_dim": 4, "background_only": 2}
    clips = GenerateSettings(annotations=str(tiny_data / files.ANNOTATIONS), **settings)
    data = DataSettings(root=str(tmp_path / "data"), generate=clips)
    generate_once(data)
    for name in (files.ANNOTATIONS, files.LABELS, files.order_file("test")):
        assert (tmp_path / "data" / name).read_bytes() == (tiny_data / name).read_bytes()
    told = json.loads((tmp_path / "data" / files.GENERATED).read_text())
    assert told["real"] == ["categories, event times and splits"]
    before = (tmp_path / "data" / files.VISUAL).stat().st_mtime_ns
    generate_once(data)
    assert (tmp_path / "data" / files.VISUAL).stat().st_mtime_ns == before

    nowhere = clips.model_copy(update={"annotations": str(tmp_path / "nowhere.txt")})
    with pytest.raises(UserError, match=r"nowhere\.txt"):
        generate_once(data.model_copy(update={"generate": nowhere}))

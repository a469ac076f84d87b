"""Visual backbones of timm: made with random weights (`pretrained=False`), whose features mean nothing."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="videos need the packages of requirements-video.txt")

from made_videos import moving_disc, steady, tone, write_video

import supv_main
from dataset import files, made_with
from dataset.arrays import array_file
from dataset.extract import __main__ as extract_command
from dataset.extract import timm_backbone
from utils.base.errors import UserError
from utils.base.paths import BEST
from utils.predict import __main__ as predict_command

try:  # a torchvision that is of another torch fails with RuntimeError
    import timm
except (ImportError, RuntimeError):
    timm = None
needs_timm = pytest.mark.skipif(timm is None, reason="timm isn't installed, or torchvision doesn't fit torch")


def test_without_timm_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "timm", None)
    write_video(tmp_path / "a.mp4", steady(4, 1), rate=1)
    flags = ["--to", str(tmp_path / "out"), "--weights", "generated", "--gpu", "cpu", "--visual"]
    assert extract_command.main([str(tmp_path), *flags, "timm/resnet18"]) == 2
    error = capsys.readouterr().err
    assert "--visual timm/resnet18 needs the package timm" in error
    assert error.endswith("pip install -r requirements-timm.txt\n")
    assert error.count("\n") == 1
    assert extract_command.main([str(tmp_path), *flags, "resnet18"]) == 2
    assert "--visual resnet18: is neither vgg19 nor timm/NAME" in capsys.readouterr().err


@needs_timm
@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("resnet18", (7, 7, 512)),
        ("vit_tiny_patch16_224", (14, 14, 192)),  # tokens
        ("swin_tiny_patch4_window7_224", (7, 7, 768)),  # channels last within timm
        ("convnext_atto", (7, 7, 320)),
    ],
)
def test_the_grid_is_that_of_the_last_stage_of_what_timms_own_transform_gives(name, grid):
    from PIL import Image
    from timm.data import create_transform, resolve_model_data_config

    backbone = timm_backbone.TimmBackbone(name, "generated")
    frame = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    found = backbone(backbone.prepare(frame)[None])
    assert found.shape == (1, *grid)
    assert found.dtype == torch.float32
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(1)
        network = timm.create_model(name, pretrained=False).eval()
    transform = create_transform(**resolve_model_data_config(network), is_training=False)
    with torch.inference_mode():
        stage = network.forward_features(transform(Image.fromarray(frame))[None])
    if stage.dim() == 3:
        stage = stage[:, network.num_prefix_tokens :].reshape(1, *grid)
    elif stage.shape[1] == grid[-1]:
        stage = stage.permute(0, 2, 3, 1)
    torch.testing.assert_close(found, stage, rtol=1e-4, atol=1e-4)


@needs_timm
@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet18", "vgg19.h5", r"is for VGG-19; timm fetches the weights of timm/resnet18 itself"),
        ("nothing_of_the_kind", "generated", r"can't make it \(Unknown model"),
        ("resnet18", "pretrained", r"can't make it \(no network\).*the cache of the Hugging Face hub"),
    ],
)
def test_what_timm_cannot_make_is_one_line(monkeypatch, name, weights, message):
    make = timm.create_model

    def offline(name, pretrained):
        if pretrained:
            raise OSError("no network\nand much more")
        return make(name, pretrained=False)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=message):
        timm_backbone.TimmBackbone(name, weights)


@needs_timm
def test_from_videos_to_timelines(tmp_path, capsys):
    """Extraction, training and a timeline with one backbone; a checkpoint of another version's transform is refused."""
    videos, root, run_folder = tmp_path / "videos", tmp_path / "data", tmp_path / "run"
    videos.mkdir()
    for name in "abc":
        write_video(videos / f"{name}.mp4", steady(10, 0.5), tone(10, 2, 7), picture=moving_disc, rate=1)
    (tmp_path / "lines.txt").write_text("Dog&a&good&2&7\nBell&b&good&2&7\nDog&c&good&2&7\n")
    generated = ["--weights", "generated", "--gpu", "cpu"]
    extract = [str(videos), "--to", str(root), "--annotations", str(tmp_path / "lines.txt"), *generated]
    assert extract_command.main([*extract, "--visual", "timm/convnext_atto"]) == 0
    assert array_file(root / files.VISUAL).shape == (3, 10, 7, 7, 320)
    made = made_with.read(root)["visual"]
    assert made["backbone"] == "timm/convnext_atto"
    assert made["package"] == f"timm {timm.__version__}"
    assert made["transform"]["interpolation"] == "bicubic"

    settings = ["model.categories=2", "model.d_model=8", "model.video_inputdim=320", "train.n_epoch=1"]
    train = ["--data_root", str(root), "--snapshot_pref", str(run_folder), "--gpu", "cpu"]
    assert supv_main.main([*train, *(flag for setting in settings for flag in ("--set", setting))]) == 0
    predict = [str(videos / "a.mp4"), "--checkpoint", str(run_folder / BEST), *generated]
    assert predict_command.main(predict) == 0
    assert json.loads((run_folder / "predict" / "a.json").read_text())["features"] == made_with.read(root)

    made_with.write(root, {"visual": {**made, "transform": {**made["transform"], "crop_pct": 0.5}}})
    capsys.readouterr()
    assert supv_main.main([*train[:-2], "--gpu", "cpu", "--evaluate", "--config", str(run_folder / "config.json")]) == 0
    assert "visual.transform.crop_pct was 0.875 and is 0.5" in capsys.readouterr().out

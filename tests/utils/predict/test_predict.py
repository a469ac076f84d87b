"""python -m utils.predict: from videos of any length to timelines, as text, JSON and a page."""

from __future__ import annotations

import json
import os
import re
import shutil
from fractions import Fraction
from urllib.parse import unquote

import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="videos need the packages of requirements-video.txt")

from made_features import ClipFeatures, generated_extractor
from made_videos import moving_disc, steady, tone, write_video

from dataset import files
from dataset.arrays import array_file
from dataset.extract import __main__ as extract_command
from dataset.extract import data_folder
from dataset.extract import features as extract_features
from dataset.extract.decoding import squeezed
from dataset.extract.features import Features
from dataset.extract.video import read_clip
from dataset.fingerprint import fingerprint
from model import NETWORKS, build_model
from model.localization import Localization
from model.official import to_official
from utils.base.checkpoint import Checkpoint
from utils.base.errors import UserError
from utils.config import files as config_files
from utils.config import settings as config_settings
from utils.predict import __main__ as predict_command
from utils.predict import network as predict_network
from utils.predict.page import write_page
from utils.predict.timeline import Answer, clip_starts, clock, decide, events, merge, timeline_of
from utils.predict.videos import as_json


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Checkpoints of both settings, ours and the authors', with random weights; name -> (file, network)."""
    tmp_path = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(7)
    made = {}
    for setting in (config_settings.SUPERVISED, config_settings.WEAK):
        settings = {"model": {"name": setting}, "data": {"root": str(tmp_path / "no data")}}
        whole = config_files.build(settings, "test")
        network = build_model(whole.model).eval()
        ours, theirs = tmp_path / f"{setting}.pth.tar", tmp_path / f"official-{setting}.pth.tar"
        Checkpoint(network.state_dict(), config=whole.model_dump(), epoch=1).save(ours)
        torch.save(to_official(network), theirs)
        made |= {setting: (ours, network), f"official {setting}": (theirs, network)}
    return made


def run(*arguments):
    return predict_command.main([*map(str, arguments), "--weights", "generated", "--gpu", "cpu"])


def test_clips_cover_every_second():
    assert clip_starts(1, 5) == [0]
    assert clip_starts(10, 5) == [0]
    assert clip_starts(11, 5) == [0, 1]
    assert clip_starts(23, 5) == [0, 5, 10, 13]
    assert clip_starts(30, 10) == [0, 10, 20]
    for seconds in range(10, 60):
        for hop in range(1, 11):
            covered = {start + t for start in clip_starts(seconds, hop) for t in range(10)}
            assert covered == set(range(seconds))


def test_merging_takes_means_and_the_clip_with_the_event_decides():
    attention = np.full((10, 1, 2), 0.5)
    event = np.repeat([0.9, 0.1], 5)
    early = Answer(0, event, np.outer(event, [0.8, 0.2, 0]), attention)
    event = np.repeat([0.7, 0.1], 5)
    late = Answer(5, event, np.outer(event, [0.1, 0.9, 0]), attention + np.array([0.2, -0.2]))
    event, joint, where = merge([early, late], 15)
    assert event.tolist() == pytest.approx([0.9] * 5 + [0.4] * 5 + [0.1] * 5)
    assert joint[0] == pytest.approx([0.72, 0.18, 0])
    assert joint[7] == pytest.approx([(0.08 + 0.07) / 2, (0.02 + 0.63) / 2, 0])
    assert where[7, 0] == pytest.approx([0.6, 0.4])
    segments = decide(event, joint, categories=2, threshold=0.3)
    assert segments.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    found = list(events(segments, joint, categories=2))
    assert [(e.start, e.end, e.category) for e in found] == [(0, 5, 0), (5, 10, 1)]
    assert [e.probability for e in found] == pytest.approx([0.72, 0.325])


def test_events_at_the_ends_and_none():
    joint = np.ones((4, 2))
    assert [(e.start, e.end) for e in events(np.array([1, 2, 2, 0]), joint, 2)] == [(0, 1), (3, 4)]
    assert list(events(np.full(4, 2), joint, 2)) == []


def test_clock():
    assert [clock(t) for t in (0, 7.9, 71, 3600, 3723)] == ["0:00", "0:07", "1:11", "1:00:00", "1:02:03"]


@pytest.mark.parametrize(
    "state",
    [
        None,
        {},
        {"localize": "gate", "threshold": 0.3},
        {"localize": "background"},
        {"localize": "activation", "threshold": 0.01},
        {"localize": "relative", "threshold": -0.01},
        {"localize": "combined", "threshold": -0.01},
    ],
    ids=lambda state: "supervised" if state is None else state.get("localize", "authors"),
)
def test_one_clip_is_the_networks_own_prediction(tmp_path, checkpoints, state):
    _, network = checkpoints[config_settings.SUPERVISED if state is None else config_settings.WEAK]
    localization = Localization(network) if state is None else Localization.of_state(network, state)
    check_one_clip(tmp_path, network, localization)


@pytest.mark.parametrize("name", [name for name in NETWORKS if not name.endswith("_main_model")])
def test_one_clip_is_any_networks_own_prediction(tmp_path, name):
    torch.manual_seed(1)
    network = build_model({"name": name}).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # so that segments differ
            parameter.mul_(2)
    check_one_clip(tmp_path, network, Localization(network))


def test_a_network_of_another_grid_is_told(tmp_path, capsys):
    save_network(tmp_path / "x.tar", name="avel_supv", grid=[4, 4])
    assert run(tmp_path, "--checkpoint", tmp_path / "x.tar") == 2
    assert "grid of 4x4 cells" in capsys.readouterr().err


def check_one_clip(tmp_path, network, localization):
    path = write_video(tmp_path / "a.mp4", steady(10, 1), rate=1)
    extractor = ClipFeatures()
    timeline = timeline_of(path, network, localization, extractor, 28, 5, localization.event_threshold)
    assert extractor.clips == [0]
    visual, audio = ClipFeatures()(read_clip(path, 10))
    with torch.inference_mode():
        output, explanation = network.explain(torch.from_numpy(visual)[None], torch.from_numpy(audio)[None])
        own = localization(output, explanation)
    assert timeline.segments.tolist() == own.segments[0].tolist()
    np.testing.assert_allclose(timeline.event, own.event_probability[0], rtol=1e-5)
    np.testing.assert_allclose(timeline.attention, explanation.attention[0], rtol=1e-5)
    assert timeline.joint.shape == (10, 28)


def test_a_long_video_is_merged_from_overlapping_clips(tmp_path, checkpoints):
    _, network = checkpoints[config_settings.SUPERVISED]
    path = write_video(tmp_path / "a.mp4", steady(17, 1), rate=1)
    extractor = ClipFeatures()
    timeline = timeline_of(path, network, Localization(network), extractor, 28, hop=5, threshold=0.5)
    assert extractor.clips == [0, 5, 7]
    assert timeline.event.shape == timeline.segments.shape == (17,)
    assert timeline.attention.shape == (17, 7, 7)
    np.testing.assert_allclose(timeline.attention.sum((1, 2)), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["supv_main_model", "weak_main_model"])
def test_our_checkpoint_and_the_authors_give_the_same_timeline(tmp_path, checkpoints, monkeypatch, name):
    monkeypatch.setattr(extract_features, "FeatureExtractor", ClipFeatures)
    path = write_video(tmp_path / "a.mp4", steady(12, 1), rate=1)
    answers = []
    for kind in (name, f"official {name}"):
        file, _ = checkpoints[kind]
        assert run(path, "--resume", file, "--output", tmp_path / "out") == 0
        answers.append(json.loads((tmp_path / "out" / "a.json").read_text()))
        assert answers[-1].pop("checkpoint") == str(file)
    assert answers[0] == answers[1]
    assert len(answers[0]["segments"]) == 12


def test_the_whole_path_agrees_with_the_data_folder(tmp_path, checkpoints, monkeypatch, capsys):
    """mp4 -> HDF5 -> network is mp4 -> timeline, with the real architectures."""
    monkeypatch.setattr(data_folder, "FeatureExtractor", lambda *_: generated_extractor())
    monkeypatch.setattr(extract_features, "FeatureExtractor", lambda *_: generated_extractor())
    rate = Fraction(1, 10)  # one picture keeps this quick
    path = write_video(tmp_path / "a.mp4", steady(10, rate), tone(10, 3, 7), picture=moving_disc, rate=rate)
    assert (
        extract_command.main([str(path), "--to", str(tmp_path / "data"), "--weights", "generated", "--gpu", "cpu"]) == 0
    )
    file, network = checkpoints[config_settings.SUPERVISED]
    assert run(path, "--resume", file, "--threshold", "0") == 0
    written = json.loads((file.parent / "predict" / "a.json").read_text())

    visual, audio = (
        torch.from_numpy(array_file(tmp_path / "data" / name).read()) for name in (files.VISUAL, files.AUDIO)
    )
    with torch.inference_mode():
        output = network(visual, audio)
    assert written["event_probability"] == pytest.approx(output.event_logits.sigmoid()[0].tolist(), abs=1e-3)
    category = int(output.category_logits.argmax())
    assert written["segments"] == [f"category {category}"] * 10
    said = capsys.readouterr().out
    probability = written["events"][0]["probability"]
    assert f"  0:00-0:10 category {category} {probability:.2f}" in said
    assert "note: has fewer than 1 frame a second (1 in 10.0 s)" in said
    assert "categories are numbered" in said


def test_the_weak_network_is_read_as_its_run_or_an_evaluation_did(tmp_path, checkpoints, monkeypatch, capsys):
    monkeypatch.setattr(extract_features, "FeatureExtractor", ClipFeatures)
    path = write_video(tmp_path / "a.mp4", steady(10, 1), rate=1)
    file, _ = checkpoints[config_settings.WEAK]
    content = Checkpoint.load(file)
    trained = tmp_path / "trained.pth.tar"
    localization = {"localize": "relative", "threshold": -0.01, "chosen_by": "chosen by a test"}
    content.localization = localization
    content.save(trained)
    evaluation = tmp_path / "eval-test"
    evaluation.mkdir()
    metrics = {
        "localize": "activation",
        "threshold": 100.0,
        "chosen_by": "a test",
        "checkpoint": str(trained),
        "epoch": 1,
    }
    (evaluation / "metrics.json").write_text(json.dumps(metrics))

    said = {}
    for name, arguments in {
        "as the authors": ["--resume", file],
        "as its run": ["--resume", trained],
        "as an evaluation": ["--checkpoint", trained, "--localization", evaluation],
        "by its old name": ["--checkpoint", trained, "--reading", evaluation],
    }.items():
        assert run(path, *arguments, "--output", tmp_path / name) == 0
        said[name] = json.loads((tmp_path / name / "a.json").read_text())
    assert "every segment has its clip's category" in said["as the authors"]["localization"]
    assert len(set(said["as the authors"]["segments"])) == 1
    assert (
        "lies 0.01 or more below its highest in the clip (threshold chosen by a test)"
        in said["as its run"]["localization"]
    )
    assert "background" in said["as its run"]["segments"]
    assert "is not above 100 (threshold a test)" in said["as an evaluation"]["localization"]
    assert said["as an evaluation"]["events"] == []
    assert said["as an evaluation"] == said["by its old name"]

    # Inside the project an evaluation names its checkpoint relative to the project's folder.
    with monkeypatch.context() as patch:
        patch.setattr(predict_network, "ROOT", tmp_path)
        (evaluation / "metrics.json").write_text(json.dumps({**metrics, "checkpoint": trained.name}))
        elsewhere = shutil.copytree(evaluation, tmp_path / "results" / "of the evaluation")
        assert run(path, "--checkpoint", trained, "--localization", elsewhere) == 0

    # The run was moved, with its evaluation; then its checkpoint was overwritten by a later epoch's.
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copy(trained, moved)
    shutil.copytree(evaluation, moved / "eval-test")
    trained.rename(tmp_path / "elsewhere.pth.tar")
    arguments = ["--checkpoint", moved / trained.name, "--localization", moved / "eval-test"]
    assert run(path, *arguments) == 0
    content.epoch = 2
    content.save(moved / trained.name)
    capsys.readouterr()
    assert run(path, *arguments) == 2
    assert (
        f"is an evaluation of {trained.name}, epoch 1, not of {moved / trained.name}, epoch 2"
        in capsys.readouterr().err
    )

    supervised_file, _ = checkpoints[config_settings.SUPERVISED]
    older = {key: value for key, value in metrics.items() if key != "localize"}
    for folder, values in {"eval-val": {**metrics, "supervision": "full"}, "eval-train": older}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "metrics.json").write_text(json.dumps(values))
    capsys.readouterr()
    for arguments, message in [
        (["--resume", supervised_file, "--localization", evaluation], "--localization is for a weakly supervised"),
        (["--resume", file, "--localization", tmp_path / "eval-val"], "is an evaluation of a supervised network"),
        (["--resume", file, "--localization", tmp_path / "eval-train"], "is an evaluation of a supervised network"),
        (["--resume", file, "--localization", tmp_path], "is not an evaluation's folder"),
        (
            ["--resume", file, "--localization", evaluation],
            f"is an evaluation of {trained.name}, epoch 1, not of {file}",
        ),
    ]:
        assert run(path, *arguments) == 2, message
        assert message in capsys.readouterr().err


def page_data(path):
    (data,) = re.findall(r"const timelines = (.*);\n", path.read_text())
    return json.loads(data)


def test_the_page_holds_the_timelines_and_finds_the_videos(tmp_path, checkpoints, monkeypatch):
    monkeypatch.setattr(extract_features, "FeatureExtractor", ClipFeatures)
    folder = tmp_path / "my videos"
    folder.mkdir()
    path = write_video(folder / "50% <script> #1 ü.mp4", steady(10, 1), rate=1)
    names = tmp_path / "names.txt"
    names.write_text("".join(f"<b>name {i}</b>&x&good&0&1\n" for i in range(28)))
    file, _ = checkpoints[config_settings.SUPERVISED]
    page = tmp_path / "pages" / "timeline.html"
    arguments = [folder, "--resume", file, "--html", page, "--annotations", names, "--threshold", "0"]
    assert run(*arguments) == 0
    (timeline,) = page_data(page)
    assert timeline["events"][0]["category"].startswith("<b>name ")
    assert (page.parent / unquote(timeline["source"])).resolve() == path.resolve()
    assert np.array(timeline["attention"]).shape == (10, 7, 7)
    script = page.read_text().split("<script>")[1]
    assert script.count("</script>") == 1, "no text of a timeline ends the script"
    assert "http" not in page.read_text().replace("http://www.w3.org/2000/svg", ""), "nothing is fetched"


def test_a_name_that_is_not_utf_8(tmp_path, checkpoints, monkeypatch):
    monkeypatch.setattr(extract_features, "FeatureExtractor", ClipFeatures)
    path = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    write_video(tmp_path / "a.mp4", steady(10, 1), rate=1).rename(path)
    file, _ = checkpoints[config_settings.WEAK]
    page = tmp_path / "timeline.html"
    assert run(tmp_path, "--resume", file, "--html", page, "--output", tmp_path / "out") == 0
    (timeline,) = page_data(page)
    assert timeline["video"] == f"{tmp_path}/caf\\xe9.mp4"
    assert timeline["source"] == "caf%E9.mp4"
    assert [made.name for made in (tmp_path / "out").iterdir()] == ["caf\\xe9.json"]


def test_a_broken_video_is_reported_and_left_out(tmp_path, checkpoints, monkeypatch, capsys):
    monkeypatch.setattr(extract_features, "FeatureExtractor", ClipFeatures)
    good = write_video(tmp_path / "good.mp4", steady(10, 1), rate=1)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    file, _ = checkpoints[config_settings.WEAK]
    assert run(tmp_path / "bad.mp4", good, "--resume", file) == 0
    said = capsys.readouterr().out
    assert "left out: " in said
    assert f"{good} (0:10)" in said
    assert run(tmp_path / "bad.mp4", "--resume", file) == 2
    assert "none of the 1 videos can be read" in capsys.readouterr().err


def save_network(path, categories=("a", "b", "c"), **model):
    """A checkpoint of a network with random weights that knows the names of its categories."""
    model = {"name": config_settings.SUPERVISED, "categories": len(categories), **model}
    config = config_files.build({"model": model}, "test")
    weights = build_model(config.model).state_dict()
    Checkpoint(weights, config=config.model_dump(), epoch=1, categories=list(categories)).save(path)


def test_the_checkpoint_names_its_categories(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(extract_features, "FeatureExtractor", ClipFeatures)
    video = write_video(tmp_path / "a.mp4", steady(10, 1), rate=1)
    names = ["rain", "kettle", "drum"]
    save_network(tmp_path / "named.tar", categories=names)
    (tmp_path / files.ANNOTATIONS).write_text("".join(f"{name}&x&good&0&1\n" for name in names))
    for more in ([], ["--data_root", tmp_path], ["--annotations", tmp_path / files.ANNOTATIONS]):
        assert run(video, "--checkpoint", tmp_path / "named.tar", "--threshold", "0", *more) == 0
        written = json.loads((tmp_path / "predict" / "a.json").read_text())
        assert {event["category"] for event in written["events"]} <= set(names)
        assert "numbered" not in capsys.readouterr().out
    (tmp_path / files.ANNOTATIONS).write_text("kettle&x&good&0&1\n")
    (tmp_path / files.CATEGORIES).write_text("\n".join(names))
    assert run(video, "--checkpoint", tmp_path / "named.tar", "--data_root", tmp_path) == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_finds_a_timeline(name, tmp_path, monkeypatch):
    monkeypatch.setattr(extract_features, "FeatureExtractor", ClipFeatures)
    video = write_video(tmp_path / "a.mp4", steady(12, 1), rate=1)
    save_network(tmp_path / "x.tar", name=name)
    page = tmp_path / "page.html"
    assert run(video, "--checkpoint", tmp_path / "x.tar", "--html", page) == 0
    (timeline,) = page_data(page)
    assert len(timeline["segments"]) == len(timeline["event_probability"]) == 12


def test_a_network_without_attention_has_a_page_without_it(tmp_path, checkpoints):
    _, network = checkpoints[config_settings.SUPERVISED]
    path = write_video(tmp_path / "a.mp4", steady(12, 1), rate=1)

    class Without(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def explain(self, visual, audio):
            output, explanation = network.explain(visual, audio)
            return output, explanation._replace(attention=None, scores={}, activations={})

    timeline = timeline_of(path, Without(), Localization(network), ClipFeatures(), 28, hop=5, threshold=0.5)
    assert timeline.attention is None
    written = as_json(timeline, [str(i) for i in range(28)], {"threshold": 0.5})
    assert written["attention"] is None
    write_page(tmp_path / "page.html", [(path, written)])
    assert page_data(tmp_path / "page.html")[0]["attention"] is None


@pytest.mark.parametrize("grid", [[1, 1], [7, 7]])
def test_a_network_of_another_grid_is_refused(tmp_path, checkpoints, grid):
    """CMBS could take any grid, and would make something of features that it never saw."""
    path, _ = checkpoints[config_settings.SUPERVISED]
    checkpoint = Checkpoint.load(path)
    checkpoint.data = {files.VISUAL: {"shape": [40, 10, *grid, 512]}}
    checkpoint.save(tmp_path / "checkpoint.pth.tar")
    if grid == [7, 7]:
        assert predict_network.load_network(tmp_path / "checkpoint.pth.tar").categories == 28
        return
    with pytest.raises(UserError, match=r"features on a grid of 1 x 1, but those .* have 7 x 7"):
        predict_network.load_network(tmp_path / "checkpoint.pth.tar")


def test_features_without_a_grid_give_a_timeline_without_attention(tmp_path):
    def extractor(clip):
        return Features(np.ones((10, 1, 1, 16), np.float32), np.ones((10, 8), np.float32))

    extractor.prepare = squeezed
    sizes = {"video_inputdim": 16, "audio_inputdim": 8, "d_model": 16, "categories": 3}
    network = build_model({"name": "avel_supv", "grid": [1, 1], **sizes}).eval()
    path = write_video(tmp_path / "a.mp4", steady(12, 1), rate=1)
    timeline = timeline_of(path, network, Localization(network), extractor, 3, hop=5, threshold=0.5)
    assert timeline.attention is None
    assert len(timeline.segments) == 12


def test_a_network_of_generated_clips_is_said_to_be_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(extract_features, "FeatureExtractor", ClipFeatures)
    video = write_video(tmp_path / "a.mp4", steady(10, 1), rate=1)
    save_network(tmp_path / "demo.tar")
    checkpoint = Checkpoint.load(tmp_path / "demo.tar")
    checkpoint.config["data"]["generate"] = {"train": 1, "val": 1, "test": 1, "categories": 3}
    checkpoint.save(tmp_path / "demo.tar")
    assert run(video, "--checkpoint", tmp_path / "demo.tar") == 0
    assert "demo.tar learned from generated clips, so what it finds in a video means nothing" in capsys.readouterr().out


@pytest.mark.parametrize(("learned", "said"), [("what is there", True), ("other data", False), (None, True)])
def test_a_folder_of_generated_clips_says_it_of_what_learned_from_them(learned, said, tiny_data, tmp_path, monkeypatch):
    for check in ("_try", "_check_grid"):  # whether it can read the features of videos
        monkeypatch.setattr(predict_network, check, lambda *_: None)
    (generated := tmp_path / "data").mkdir()
    for file in tiny_data.iterdir():
        (generated / file.name).symlink_to(file)
    (generated / files.GENERATED).touch()
    save_network(tmp_path / "a.tar")
    checkpoint = Checkpoint.load(tmp_path / "a.tar")
    checkpoint.config["data"]["root"] = str(generated)
    checkpoint.data = learned and fingerprint(generated, None)
    if learned == "other data":
        checkpoint.data[files.AUDIO]["sha256"] = "of other features"
    checkpoint.save(tmp_path / "a.tar")
    assert predict_network.load_network(tmp_path / "a.tar").generated == said


def trained_on(path, visual=(), decoder=(), **model):
    """Save a checkpoint that says what made its features: what `ClipFeatures` says, but for some of it."""
    save_network(path, **model)
    content = Checkpoint.load(path)
    made = ClipFeatures().made_with
    content.features = {**made, "visual": {**made["visual"], **dict(visual)}, "decoder": dict(decoder)}
    content.save(path)
    return path


def test_features_are_made_as_those_of_the_training(tmp_path, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(
        extract_features, "FeatureExtractor", lambda *args: made.append(ClipFeatures(*args)) or made[-1]
    )
    video = write_video(tmp_path / "a.mp4", steady(10, 1), rate=1)
    save_network(tmp_path / "silent.tar")
    assert run(video, "--checkpoint", tmp_path / "silent.tar") == 0
    assert "doesn't say what made the features that it learned from" in capsys.readouterr().out

    same = trained_on(tmp_path / "same.tar", decoder={"ffmpeg": "8"}, visual={"precision": "bfloat16"})
    assert run(video, "--checkpoint", same) == 0
    said = capsys.readouterr().out
    assert not any(words in said for words in ("learned from", "last digits"))
    assert (made[-1].recipe.visual, made[-1].recipe.precision) == ("vgg19", "bfloat16")
    assert json.loads((tmp_path / "predict" / "a.json").read_text())["features"] == made[-1].made_with

    older = trained_on(tmp_path / "older.tar", decoder={"ffmpeg": "7"})
    assert run(video, "--checkpoint", older) == 0
    assert "warning: the features may differ in their last digits" in capsys.readouterr().out

    for visual, message in [
        ({"backbone": "timm/resnet18"}, "visual.backbone was timm/resnet18 and is vgg19"),
        ({"backbone": "clip", "grid": [1, 1, 512]}, "--visual clip: is neither vgg19 nor timm/NAME"),
    ]:
        if visual["backbone"] == "clip":
            monkeypatch.undo()
        other = trained_on(tmp_path / "other.tar", visual=visual)
        assert run(video, "--checkpoint", other) == 2
        assert message in capsys.readouterr().err
    narrow = trained_on(tmp_path / "narrow.tar", visual={"grid": [7, 7, 320]}, video_inputdim=64)
    assert run(video, "--checkpoint", narrow) == 2
    assert (
        "model.video_inputdim is 64, but the features that are made of videos here have 320" in capsys.readouterr().err
    )


def test_mistakes_are_one_line(tmp_path, checkpoints, monkeypatch, capsys):
    monkeypatch.setattr(extract_features, "FeatureExtractor", ClipFeatures)
    video = write_video(tmp_path / "a.mp4", steady(10, 1), rate=1)
    few = tmp_path / "few.txt"
    few.write_text("Dog&x&good&0&1\n")
    file, _ = checkpoints[config_settings.SUPERVISED]
    narrow, named, names = tmp_path / "narrow.tar", tmp_path / "named.tar", tmp_path / "names.txt"
    save_network(narrow, video_inputdim=64)
    save_network(named, categories=["rain", "kettle", "drum"])
    names.write_text("".join(f"{name}&x&good&0&1\n" for name in ("rain", "drum", "kettle")))
    for arguments, message in [
        ([video, "--resume", tmp_path / "none.tar"], "none.tar: no such checkpoint"),
        ([video, "--resume", video], "not a checkpoint"),
        ([tmp_path / "none.mp4", "--resume", file], "none.mp4: no such video"),
        ([video, "--resume", file, "--annotations", few], "names 1 categories, but the network has 28"),
        ([video, "--resume", file, "--hop", "11"], "--hop 11"),
        ([video, "--resume", file, "--threshold", "nan"], "--threshold nan"),
        ([video, "--resume", file, "--data_root", tmp_path], "Annotations.txt: no such file"),
        ([video, "--checkpoint", narrow], "narrow.tar: is of a network whose model.video_inputdim is 64"),
        ([video, "--checkpoint", named, "--annotations", names], "whose category 1 is 'kettle', not 'drum'"),
    ]:
        assert run(*arguments) == 2, message
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1

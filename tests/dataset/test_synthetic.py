"""Generated data: the AVE format, what is planted in it, reproducibility, and what a killed run leaves."""

import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from dataset import files, labels, writing
from dataset.arrays import array_file, read_order
from dataset.ave import AVEDataset, WeakAVEDataset
from dataset.synthetic import __main__ as synthetic_command
from dataset.synthetic import generate, planted
from dataset.synthetic.clips import Settings, lay_out
from utils.base.errors import UserError

TINY = Settings(train=24, val=8, test=8, background_only=5, categories=3, grid=(3, 3))
FILES = generate._FILES


def changed(**changes) -> Settings:
    return Settings(**{**TINY.__dict__, **changes})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return generate.generate(tmp_path_factory.mktemp("data") / "tiny", TINY)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# The format


def test_holds_every_file_of_the_ave_format_contiguous_and_uncompressed(tiny):
    assert {path.name for path in tiny.iterdir()} == set(FILES)
    shapes = {
        files.VISUAL: (40, 10, 3, 3, 512),
        files.AUDIO: (40, 10, 128),
        files.LABELS: (40, 10, 4),
        files.CLIP_LABELS: (40, 4),
        files.NOISY_VISUAL: (5, 10, 3, 3, 512),
        files.NOISY_AUDIO: (5, 10, 128),
        files.NOISY_LABELS: (5, 4),
        files.order_file("train"): (24,),
        files.order_file("val"): (8,),
        files.order_file("test"): (8,),
    }
    for name, shape in shapes.items():
        with array_file(tiny / name).open() as array:
            assert array.shape == shape
            assert array.dtype == (np.int64 if "order" in name else np.float32)
            assert array.chunks is None
            assert array.compression is None
            assert list(array.file) == [files.key_of(name)]


def test_both_data_sets_read_it(tiny):
    visual, audio, label = AVEDataset(tiny, "val")[3]
    assert (visual.shape, audio.shape, label.shape) == ((10, 3, 3, 512), (10, 128), (10, 4))
    weak = WeakAVEDataset(tiny, "train")
    assert len(weak) == 24 + 5
    assert [weak[i][2].argmax().item() for i in range(24, 29)] == [3] * 5


def test_splits_share_no_clip_and_every_category_is_in_the_training_split(tiny):
    orders = [read_order(tiny, split) for split in files.SPLITS]
    assert sorted(np.concatenate(orders)) == list(range(40))
    assert set(array_file(tiny / files.CLIP_LABELS).read()[orders[0]].argmax(1)) == {0, 1, 2}


def test_labels_follow_from_the_annotations(tiny):
    expected = labels.labels_from_annotations(tiny / files.ANNOTATIONS)
    assert np.array_equal(array_file(tiny / files.LABELS).read(), expected)
    assert 0.5 < 1 - expected[..., -1].mean() < 0.95


def test_dtype_only_rounds(tmp_path, tiny):
    wanted = array_file(tiny / files.VISUAL).read()
    for dtype in ("float16", "float64"):
        stored = array_file(generate.generate(tmp_path / dtype, changed(dtype=dtype)) / files.VISUAL).read()
        assert stored.dtype == dtype
        assert np.array_equal(stored, wanted.astype(dtype))


# What is planted


@st.composite
def events(draw):
    segments, categories = draw(st.integers(4, 20)), draw(st.integers(2, 30))
    start = draw(st.integers(0, segments))
    end, category = draw(st.integers(start, segments)), draw(st.integers(0, categories - 1))
    return category, start, end, segments, categories, np.random.default_rng(draw(st.integers(0, 2**32)))


def seen_and_heard(script: planted.Script, segments: int, categories: int) -> np.ndarray:
    """[T, C]: in which segments can which category be seen and heard at the same time?"""
    seen, heard = np.zeros((2, segments, categories), bool)
    for flags, tracks in ((seen, script.objects), (heard, script.sounds)):
        for category, on in tracks:
            flags[:, category] |= on
    return seen & heard


@given(events())
def test_a_category_is_seen_and_heard_together_exactly_in_its_event(event):
    category, start, end, segments, categories, _ = event
    wanted = np.zeros((segments, categories), bool)
    wanted[start:end, category] = True
    assert np.array_equal(seen_and_heard(planted.event_script(*event), segments, categories), wanted)


@given(st.integers(4, 20), st.integers(2, 30), st.integers(0, 2**32))
def test_no_category_of_a_background_only_clip_is_both_seen_and_heard(segments, categories, seed):
    script = planted.background_script(segments, categories, np.random.default_rng(seed))
    assert script.objects or script.sounds
    assert not {track.category for track in script.objects} & {track.category for track in script.sounds}


def test_each_modality_alone_misleads():
    rng = np.random.default_rng(0)
    scripts = [planted.event_script(1, 3, 8, 10, 5, rng) for _ in range(400)]
    for tracks in ([script.objects for script in scripts], [script.sounds for script in scripts]):
        assert 0.4 < np.mean([len(each) == 2 for each in tracks]) < 0.6, "another category is often there too"
        assert 0.3 < np.mean([each[0].on[0] for each in tracks]) < 0.5, "the clip's own is often there without event"


def test_an_object_covers_a_few_neighbouring_cells_and_drifts():
    world = planted.make_world(3, 64, 16, np.random.default_rng(0))
    on, off = np.ones(10, bool), np.zeros(10, bool)
    places = set()
    for seed in range(20):
        shown, empty = (
            planted.visual_features(
                world, planted.Script([planted.Track(2, flags)], []), 10, (7, 7), np.random.default_rng(seed)
            )
            for flags in (on, off)
        )
        covered = (shown != empty).any(-1)
        for segment in covered:
            rows, columns = np.nonzero(segment)
            assert 1 <= len(rows) <= 25
            assert max(np.ptp(rows), np.ptp(columns)) <= 4
        places.add(covered.tobytes() != np.repeat(covered[:1], 10, 0).tobytes())
    assert places == {True}


@pytest.mark.parametrize("categories", [3, 28])
def test_features_look_like_vgg_and_vggish_after_relu(tmp_path, categories):
    data = generate.generate(tmp_path / "data", changed(train=40, categories=categories, grid=(7, 7), visual_dim=128))
    visual, audio = array_file(data / files.VISUAL).read(), array_file(data / files.AUDIO).read()
    assert visual.min() == 0
    assert 0.6 < (visual == 0).mean() < 0.9
    # The real background-only clips of AVE: mean 0.122, standard deviation 0.262, 65 % zeros, largest 4.5.
    assert audio.min() == 0
    assert 0.09 < audio.mean() < 0.16
    assert 0.2 < audio.std() < 0.36
    assert 0.55 < (audio == 0).mean() < 0.75
    assert audio.max() < 12


# Reproducible


def test_the_number_of_threads_changes_no_byte(tmp_path, tiny):
    assert contents(generate.generate(tmp_path / "data", TINY, threads=1)) == contents(tiny)
    assert contents(generate.generate(tmp_path / "more", TINY, threads=5)) == contents(tiny)


def test_a_clip_does_not_depend_on_how_many_there_are(tmp_path, tiny):
    more = generate.generate(tmp_path / "data", changed(train=30))
    for name in (files.VISUAL, files.AUDIO):
        assert np.array_equal(array_file(more / name).read()[:40], array_file(tiny / name).read())


def test_another_seed_changes_every_feature_file(tmp_path, tiny):
    other = contents(generate.generate(tmp_path / "data", changed(seed=1)))
    for name in (files.VISUAL, files.AUDIO, files.NOISY_VISUAL, files.NOISY_AUDIO, files.order_file("train")):
        assert other[name] != contents(tiny)[name]


# Whole or not there


@pytest.fixture
def copy(tmp_path, tiny) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def test_a_second_run_leaves_the_same_data_alone(copy):
    before = (copy / files.VISUAL).stat()
    generate.generate(copy, TINY)
    assert (copy / files.VISUAL).stat() == before


def test_other_settings_replace_generated_data_only_when_forced(copy):
    before = contents(copy)
    with pytest.raises(UserError, match=r"other settings.*--force"):
        generate.generate(copy, changed(seed=1))
    assert contents(copy) == before
    generate.generate(copy, changed(seed=1), force=True)
    assert contents(copy)[files.VISUAL] != before[files.VISUAL]
    assert set(contents(copy)) == set(FILES)


def test_files_that_were_not_generated_stay_even_when_forced(copy, tmp_path):
    (copy / files.AUDIO).write_bytes(b"the real features")
    own = tmp_path / "own"
    own.mkdir()
    (own / files.ANNOTATIONS).write_text("Bell&a&good&0&10\n")
    for folder, name in ((copy, files.AUDIO), (own, files.ANNOTATIONS)):
        before = contents(folder)
        with pytest.raises(UserError, match=f"{name}, which was not generated"):
            generate.generate(folder, TINY, force=True)
        assert contents(folder) == before


@pytest.mark.parametrize("left", range(len(FILES)))
def test_a_run_killed_while_putting_files_in_place_is_made_good(copy, tiny, left):
    for name in FILES[left:]:
        (copy / name).unlink()
    assert contents(generate.generate(copy, TINY)) == contents(tiny)


def test_other_files_in_the_folder_stay(tmp_path):
    (tmp_path / "README.md").write_text("what goes here")
    generate.generate(tmp_path, TINY)
    assert set(contents(tmp_path)) == {*FILES, "README.md"}


def test_a_failing_run_leaves_nothing(tmp_path, monkeypatch):
    features = planted.audio_features
    calls = []

    def break_off(*args):
        calls.append(args)
        if len(calls) > 20:
            raise KeyboardInterrupt
        return features(*args)

    monkeypatch.setattr(planted, "audio_features", break_off)
    with pytest.raises(KeyboardInterrupt):
        generate.generate(tmp_path / "data", TINY)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_killed_run_leaves_nothing_that_looks_whole(tmp_path, tiny):
    out = tmp_path / "data"
    command = [sys.executable, "-m", "dataset.synthetic", "--out", out, "--train", "4000"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as run:
        begun, deadline = f".generating.*.part/{files.AUDIO}", time.monotonic() + 60
        while not list(out.glob(begun)) and time.monotonic() < deadline:
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
    assert all(path.name.startswith(".") for path in out.iterdir())
    assert contents(generate.generate(out, TINY)) == contents(tiny)


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    with writing.alone(tmp_path), pytest.raises(UserError, match="another run"):
        generate.generate(tmp_path, TINY)


def test_a_disk_too_small_is_said_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**8))
    out = tmp_path / "not" / "there"
    assert synthetic_command.main(["--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert "0.58 GB are needed, but only 0.10 GB are free" in message
    assert message.count("\n") == 1
    assert not out.parent.exists()


@pytest.mark.parametrize("limit", [0, 2000, 50_000, 2**20])
def test_a_limit_on_file_sizes_is_named_and_nothing_is_left(tmp_path, limit):
    command = [sys.executable, "-m", "dataset.synthetic", "--out", tmp_path / "data", "--train", "24"]
    limited = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        timeout=120,
    )
    assert limited.returncode == 2
    assert limited.stderr.splitlines()[-1].startswith("error: ")
    assert "the file may not become that large (ulimit -f)" in limited.stderr
    assert list((tmp_path / "data").iterdir()) == []


# With annotations


@pytest.fixture
def annotated(tmp_path) -> Path:
    """A folder like AVE's, with 6 clips; one event has no segment, as one of AVE's has."""
    folder = tmp_path / "ave"
    folder.mkdir()
    (folder / files.ANNOTATIONS).write_text(
        "Bell&a&good&0&10\nCat&b&good&2&5\nBell&c&good&4&4\nHorse, pony&d&good&0&3\nCat&e&good&7&10\nBell&f&good&0&10\n"
    )
    for split, rows in (("train", [4, 0, 2]), ("val", [1]), ("test", [5, 3])):
        writing.write_array(folder / files.order_file(split), np.array(rows))
    return folder


def with_annotations(folder: Path, **changes) -> Settings:
    return changed(**{"annotations": folder / files.ANNOTATIONS, "background_only": 4, **changes})


def test_annotations_give_categories_times_and_splits(annotated, tmp_path):
    data = generate.generate(tmp_path / "data", with_annotations(annotated))
    for name in (files.ANNOTATIONS, *map(files.order_file, files.SPLITS)):
        assert (data / name).read_bytes() == (annotated / name).read_bytes()
    assert array_file(data / files.CLIP_LABELS).read().argmax(1).tolist() == [0, 1, 0, 2, 1, 0]
    assert array_file(data / files.LABELS).read().argmax(2)[1].tolist() == [3, 3, 1, 1, 1, 3, 3, 3, 3, 3]
    assert array_file(data / files.NOISY_LABELS).read().tolist() == [[0, 0, 0, 1]] * 4
    assert len(AVEDataset(data, "test")) == 2


def test_changed_splits_are_other_data(annotated, tmp_path):
    generate.generate(tmp_path / "data", with_annotations(annotated))
    writing.write_array(annotated / files.order_file("val"), np.array([2]))
    with pytest.raises(UserError, match="other settings"):
        generate.generate(tmp_path / "data", with_annotations(annotated))


def test_real_background_audio_beside_the_annotations_is_used(annotated, tmp_path, capsys):
    audio = np.random.default_rng(0).random((7, 10, 128))
    writing.write_array(annotated / files.NOISY_AUDIO, audio)
    writing.write_array(annotated / files.NOISY_LABELS, np.eye(4, dtype=np.float32)[[3] * 7])
    out = tmp_path / "data"
    arguments = ["--out", str(out), "--annotations", str(annotated / files.ANNOTATIONS), "--grid", "2", "3"]
    assert synthetic_command.main(arguments) == 0
    assert "real: audio and labels of the background-only clips" in capsys.readouterr().out
    for name in (files.NOISY_AUDIO, files.NOISY_LABELS):
        assert (out / name).read_bytes() == (annotated / name).read_bytes()
    assert array_file(out / files.NOISY_VISUAL).read().shape == (7, 10, 2, 3, 512)
    with pytest.raises(UserError, match="holds 7 clips of 10 segments with 128 features"):
        generate.generate(tmp_path / "other", with_annotations(annotated))


def test_generated_background_audio_beside_the_annotations_is_not_taken_for_real(tiny):
    settings = Settings(annotations=tiny / files.ANNOTATIONS)
    assert lay_out(settings).real_background is None
    assert lay_out(settings).background_only == 178


def test_annotations_without_their_splits_are_an_error(annotated, tmp_path):
    (annotated / files.order_file("val")).unlink()
    with pytest.raises(UserError, match=r"val_order\.h5 isn't there"):
        generate.generate(tmp_path / "data", with_annotations(annotated))
    writing.write_array(annotated / files.order_file("val"), np.array([6]))
    with pytest.raises(UserError, match="which has 6"):
        generate.generate(tmp_path / "data", with_annotations(annotated))


def test_ave_itself(ave_files):
    layout = lay_out(Settings(annotations=ave_files / files.ANNOTATIONS))
    assert [len(layout.orders[split]) for split in files.SPLITS] == [3339, 402, 402]
    assert (layout.background_only, layout.real_background) == (178, ave_files)


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "2"], "2 training clips cannot show 8 categories"),
        (["--test", "0"], "test is 0; it must be at least 1"),
        (["--seed", "-1"], "seed is -1"),
        (["--segments", "3"], "segments is 3; it must be at least 4"),
        (["--grid", "7", "0"], r"grid is (7, 0)"),
        (["--annotations", "nowhere.txt"], "nowhere.txt: no such file"),
        (["--annotations", "nowhere.txt", "--val", "3"], "--val: with --annotations"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys, arguments, message):
    assert synthetic_command.main(["--out", str(tmp_path / "data"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_a_file_in_the_way_is_one_line_and_exit_code_2(tmp_path, capsys):
    (tmp_path / "data").write_text("")
    assert synthetic_command.main(["--out", str(tmp_path / "data" / "demo")]) == 2
    assert "a part of the path is a file" in capsys.readouterr().err


def test_an_array_is_stored_under_the_key_of_its_name(tmp_path):
    writing.write_array(tmp_path / files.order_file("val"), np.arange(3))
    with h5py.File(tmp_path / files.order_file("val")) as file:
        assert file[files.ORDER_KEY][()].tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", [files.CATEGORIES, files.MADE_WITH])
def test_no_file_of_other_data_is_taken_for_a_generated_one(name, tmp_path):
    (tmp_path / name).write_text("of other data")
    with pytest.raises(UserError, match=f"holds {name}, which was not generated here"):
        generate.generate(tmp_path, changed())
    assert [path.name for path in tmp_path.iterdir()] == [name]

"""The feature networks: layer by layer and number by number against second implementations, with random weights."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import urllib.error
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="features need the packages of requirements-video.txt")
from made_features import generated_extractor

from dataset.extract import vgg19, vggish, weights
from dataset.extract.video import Clip
from dataset.extract.weights import sha256_of
from utils.base.errors import UserError


def second_implementation(name):
    """A file of the package torchvggish, without its package, which needs an audio library that nothing here does."""
    package = importlib.util.find_spec("torchvggish")
    if package is None:
        pytest.skip("the second implementation isn't installed: pip install --no-deps torchvggish")
    path = f"{package.submodule_search_locations[0]}/{name}.py"
    spec = importlib.util.spec_from_file_location(f"second_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sounds():
    t = np.arange(160000) / 16000
    noise = np.random.default_rng(0).normal(0, 0.1, len(t))
    return {
        "silence": np.zeros_like(t),
        "noise": noise,
        "tone that stops": np.where(t < 5, 0.5 * np.sin(2 * np.pi * 440 * t), 0),
        "sweep": np.sin(2 * np.pi * (50 + 390 * t) * t) + noise,
        "one click": (t == 3).astype(float),
    }


def test_log_mel_equals_googles_code():
    reference = second_implementation("mel_features")
    for name, sound in sounds().items():
        spectra = reference.log_mel_spectrogram(
            sound,
            audio_sample_rate=16000,
            log_offset=0.01,
            window_length_secs=0.025,
            hop_length_secs=0.010,
            num_mel_bins=64,
            lower_edge_hertz=125,
            upper_edge_hertz=7500,
        )
        expected = reference.frame(spectra, window_length=96, hop_length=96)
        found = vggish.log_mel_examples(sound)
        assert found.shape == (10, 96, 64), name
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6, err_msg=name)  # float32 of values up to 5


def test_log_mel_equals_numbers_from_googles_code():
    """The same where that code isn't installed: a second of a sweep, by Google's mel_features.py in float64."""
    t = np.arange(16000) / 16000
    found = vggish.log_mel_examples(0.5 * np.sin(2 * np.pi * (100 + 3500 * t) * t))[0]
    expected = {
        (0, 0): 3.450411,
        (0, 1): 3.752589,
        (5, 10): 3.846514,
        (20, 30): 0.948297,
        (40, 40): 1.906730,
        (50, 0): -4.603475,
        (60, 45): -4.193250,
        (95, 57): -4.286761,
        (95, 58): -3.985275,
        (95, 63): -0.132378,
    }
    assert [found[place] for place in expected] == pytest.approx(list(expected.values()), abs=2e-6)


@pytest.mark.parametrize(("seconds", "examples"), [(1, 1), (4, 4), (8, 8), (10, 10), (12, 12), (24, 24), (25, 26)])
def test_examples_in_so_many_seconds(seconds, examples):
    assert len(vggish.log_mel_examples(np.zeros(seconds * 16000))) == examples


def test_a_tone_is_in_its_example_and_its_band():
    t = np.arange(160000) / 16000
    examples = vggish.log_mel_examples(np.where((t >= 3.84) & (t < 4.8), np.sin(2 * np.pi * 1000 * t), 0))
    energy = examples.mean((1, 2))
    assert energy.argmax() == 4
    assert np.delete(examples, 4, 0)[[0, 1, 2, 4, 5]] == pytest.approx(np.log(0.01))
    hertz = 700 * np.expm1(np.linspace(*np.log1p(np.array([125, 7500]) / 700), 66)[1:-1])
    assert abs(hertz[examples[4].mean(0).argmax()] - 1000) < 60


def test_vggish_equals_a_second_implementation():
    network = generated_extractor().vggish
    other = second_implementation("torchvggish")._vgg(postprocess=False).eval()
    other.load_state_dict(network.state_dict())
    examples = torch.from_numpy(vggish.log_mel_examples(sounds()["sweep"]))[:2]
    with torch.inference_mode():
        found, expected = network(examples), other(examples[:, None])
    assert found.shape == (2, 128)
    assert (found >= 0).all()
    assert found.max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras under numpy 2
def test_vgg19_is_keras_own(tmp_path, monkeypatch):
    """The file that Keras writes is read, and gives what Keras' own network and preprocessing give."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="the second implementation isn't installed: pip install keras")
    theirs = keras.applications.VGG19(include_top=False, weights=None)
    path = keras_file(tmp_path / "vgg19.h5", generated_extractor().visual.network)
    theirs.load_weights(path)
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    images = keras.applications.vgg19.preprocess_input(frames.astype(np.float32), data_format="channels_last")
    with torch.inference_mode():
        expected = theirs(images, training=False)
    found = vgg19.VGG19(str(path))(frames)
    assert found.shape == (2, 2, 3, 512)
    assert found.std() > 1, "the signal reached the last layer"
    torch.testing.assert_close(found, expected.to(found.device), rtol=1e-4, atol=1e-3)


def keras_file(path, network):
    """Weights in the layout of the published file: a group a layer, weights named in attributes."""
    convolutions = iter(layer for layer in network if isinstance(layer, torch.nn.Conv2d))
    names = ["input_1"]
    for block, widths in enumerate(vgg19.BLOCKS, 1):
        names += [*(f"block{block}_conv{conv}" for conv in range(1, 1 + len(widths))), f"block{block}_pool"]
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in names]
        for name in names:
            group = file.create_group(name)
            weights = {}
            if "conv" in name:
                layer = next(convolutions)
                weights = {"W": layer.weight.permute(2, 3, 1, 0), "b": layer.bias}
            group.attrs["weight_names"] = [f"{name}_{kind}_1:0".encode() for kind in weights]
            for kind, value in weights.items():
                group[f"{name}_{kind}_1:0"] = value.detach().numpy()
    return path


def test_bfloat16_differs_in_the_third_digit():
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    exact = generated_extractor().visual(frames)
    coarse = vgg19.VGG19("generated", dtype=torch.bfloat16)(frames)
    assert coarse.dtype == torch.float32
    assert 1e-4 < float((coarse - exact).norm() / exact.norm()) < 2e-2


def test_the_hash_of_weights_is_that_of_every_tensor():
    layer = torch.nn.Linear(3, 2)
    before = sha256_of(layer)
    assert before == sha256_of(layer)
    with torch.no_grad():
        layer.bias[1] += 1e-3
    assert sha256_of(layer) != before


def test_batches_become_smaller_until_they_fit():
    """As on a GPU whose memory runs out: the same features, and no larger batch is tried again."""
    extractor, tried = copy.copy(generated_extractor()), []
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    expected = extractor.visual(frames).numpy()

    def of_two_at_most(part):
        tried.append(len(part))
        if len(part) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return generated_extractor().visual(part)

    extractor.visual, extractor.batch, extractor.device = of_two_at_most, None, torch.device("cuda")
    for _ in range(2):
        np.testing.assert_allclose(extractor._by_frame(frames), expected, rtol=1e-4, atol=1e-3)
    assert tried == [5, 2, 2, 1, 2, 2, 1]
    extractor.visual = lambda part: of_two_at_most([0, 0, 0])
    with pytest.raises(UserError, match="one frame doesn't fit"):
        extractor._by_frame(frames)


def test_features_of_a_clip_are_means_over_its_sampled_frames():
    extractor = generated_extractor()
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (3, 64, 64, 3), np.uint8)  # small frames, small grid
    index = np.array([[0] * 16, [0] * 4 + [1] * 12, [2] * 16, [1] * 8 + [2] * 8])
    clip = Clip(0, frames, index, rng.normal(0, 0.1, 4 * 16000).astype(np.float32), ())
    visual, audio = extractor(clip)
    assert (visual.shape, visual.dtype, audio.shape, audio.dtype) == ((4, 2, 2, 512), np.float32, (4, 128), np.float32)
    a, b, c = extractor.visual(frames).numpy()
    np.testing.assert_allclose(visual, [a, a / 4 + b * 3 / 4, c, (b + c) / 2], rtol=1e-4, atol=1e-3)
    assert (audio >= 0).all()


def test_vgg19_says_so_when_a_weights_file_does_not_fit(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.create_group("block1_conv1").attrs["weight_names"] = ["w", "b"]
        file["block1_conv1/w"], file["block1_conv1/b"] = np.zeros((3, 3, 1, 1)), np.zeros(3)
    (tmp_path / "text.h5").write_text("no HDF5")
    (tmp_path / "none").mkdir()
    for name in ("other.h5", "text.h5", "none"):
        with pytest.raises(UserError, match=rf"{name}: doesn't hold VGG-19's weights"):
            vgg19.VGG19(str(tmp_path / name))


def test_vggish_loads_the_published_file_and_no_other(tmp_path, monkeypatch):
    network = generated_extractor().vggish
    path = tmp_path / vggish.PUBLISHED.name
    torch.save(network.state_dict(), path)
    with pytest.raises(UserError, match=r"isn't the published vggish-10086976\.pth"):
        vggish.load_vggish(path)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    monkeypatch.setattr(vggish, "PUBLISHED", vggish.PUBLISHED._replace(digest=digest))
    loaded = vggish.load_vggish(path).state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(loaded[name], value), name


def test_published_weights_are_fetched_once_and_verified(tmp_path, monkeypatch):
    good, asked = b"the weights", []
    file = weights.Published("w.h5", "https://example.org/w.h5", "md5", hashlib.md5(good).hexdigest())

    def fetch(answer):
        def download(url, target):
            asked.append(url)
            if isinstance(answer, Exception):
                raise answer
            Path(target).write_bytes(answer)

        monkeypatch.setattr(torch.hub, "download_url_to_file", download)

    fetch(urllib.error.URLError("no network"))
    with pytest.raises(UserError, match=r"could not be fetched \(.*no network.*put it into"):
        weights.fetched(file, tmp_path)
    fetch(b"a page of the hotel's network")
    with pytest.raises(UserError, match=r"isn't the published w\.h5"):
        weights.fetched(file, tmp_path)
    assert not (tmp_path / "w.h5").exists()
    fetch(good)
    assert weights.fetched(file, tmp_path) == weights.fetched(file, tmp_path) == tmp_path / "w.h5"
    assert asked == [file.url] * 3
    (tmp_path / "w.h5").write_bytes(b"not the weights")
    with pytest.raises(UserError, match="remove it and fetch"):
        weights.fetched(file, tmp_path)


def test_the_published_files():
    # torch.hub's own convention: the file's name holds the first digits of the hash of its content
    assert f"vggish-{vggish.PUBLISHED.digest[:8]}.pth" == vggish.PUBLISHED.name
    assert vggish.PUBLISHED.url.endswith(vggish.PUBLISHED.name)
    assert vgg19.PUBLISHED.url.endswith(vgg19.PUBLISHED.name)

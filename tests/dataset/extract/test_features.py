"""The feature networks: layer by layer and number by number against second implementations, with random weights."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import urllib.error

import h5py
import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="features need the packages of requirements-video.txt")
os.environ["KERAS_BACKEND"] = "torch"  # without it Keras looks for TensorFlow
keras = pytest.importorskip("keras", reason="features need the packages of requirements-video.txt")

from made_features import generated_extractor  # noqa: E402

from dataset.extract import vgg19, vggish  # noqa: E402
from dataset.extract.video import Clip  # noqa: E402
from utils.base.errors import UserError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras under numpy 2

# VGG-19's convolutions and poolings, configuration E of Simonyan & Zisserman (2015).
CONFIGURATION_E = [64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M"]


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


def test_vgg19_layer_by_layer():
    """Keras' layers against torch's own convolutions: names, order, shapes and numbers, preprocessing included."""
    network = generated_extractor().vgg19
    names = [layer.name for layer in network.network.layers[1:]]
    assert names[-1] == "block5_pool"
    assert len(names) == len(CONFIGURATION_E) == 21
    frames = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    bgr = frames[..., ::-1].astype(np.float32) - np.array([103.939, 116.779, 123.68], np.float32)
    x = torch.from_numpy(bgr.copy()).permute(0, 3, 1, 2)
    taps = keras.Model(network.network.inputs, [network.network.get_layer(name).output for name in names])
    with torch.inference_mode():
        found = taps(torch.from_numpy(bgr.copy()))
        for layer, width, value in zip(network.network.layers[1:], CONFIGURATION_E, found, strict=True):
            if width == "M":
                x = torch.nn.functional.max_pool2d(x, 2)
            else:
                kernel, bias = (torch.from_numpy(weight) for weight in layer.get_weights())
                assert kernel.shape == (3, 3, x.shape[1], width)
                x = torch.nn.functional.conv2d(x, kernel.permute(3, 2, 0, 1), bias, padding=1).relu()
            torch.testing.assert_close(value.permute(0, 3, 1, 2), x, rtol=1e-4, atol=1e-2, msg=layer.name)
    assert x.std() > 1, "the signal reached the last layer"
    torch.testing.assert_close(network(frames).permute(0, 3, 1, 2), x, rtol=1e-4, atol=1e-2)
    assert sum(weight.numel() for weight in map(torch.from_numpy, network.network.get_weights())) == 20_024_384


def test_features_of_a_clip_are_means_over_its_sampled_frames():
    extractor = generated_extractor()
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (3, 64, 64, 3), np.uint8)  # small frames, small grid
    index = np.array([[0] * 16, [0] * 4 + [1] * 12, [2] * 16, [1] * 8 + [2] * 8])
    clip = Clip(0, frames, index, rng.normal(0, 0.1, 4 * 16000).astype(np.float32), ())
    visual, audio = extractor(clip)
    assert (visual.shape, visual.dtype, audio.shape, audio.dtype) == ((4, 2, 2, 512), np.float32, (4, 128), np.float32)
    a, b, c = extractor.vgg19(frames).numpy()
    np.testing.assert_allclose(visual, [a, a / 4 + b * 3 / 4, c, (b + c) / 2], rtol=1e-4, atol=1e-3)
    assert (audio >= 0).all()


def test_vgg19_reads_keras_own_weights_file(tmp_path):
    """The layout of the published file: a group a layer, weights named in attributes."""
    network = generated_extractor().vgg19
    path = tmp_path / vgg19.WEIGHTS_FILE
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in network.network.layers]
        for layer in network.network.layers:
            group = file.create_group(layer.name)
            values = dict(zip((f"{layer.name}_W_1:0", f"{layer.name}_b_1:0"), layer.get_weights(), strict=False))
            group.attrs["weight_names"] = [name.encode() for name in values]
            for name, value in values.items():
                group[name] = value
    loaded = vgg19.VGG19(path)
    for expected, found in zip(network.network.get_weights(), loaded.network.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_vgg19s_weights_are_verified_by_keras(tmp_path, monkeypatch):
    """A wrong file in Keras' folder isn't used: it is fetched again, and what comes is verified."""
    from keras.src.utils import file_utils

    monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(tmp_path))
    (tmp_path / "models").mkdir()
    stored = tmp_path / "models" / vgg19.WEIGHTS_FILE
    asked = []

    def fetch(answer):
        def retrieve(url, target, progress):
            asked.append(url)
            answer(target)

        stored.write_bytes(b"not the weights")
        monkeypatch.setattr(file_utils, "urlretrieve", retrieve)
        with pytest.raises(UserError, match=r"ImageNet weights could not be fetched.*put it into") as caught:
            vgg19.VGG19("imagenet")
        return str(caught.value)

    def no_network(target):
        raise urllib.error.URLError("no network")

    def other_file(target):
        with open(target, "wb") as file:
            file.write(b"a page of the hotel's network")

    assert "no network" in fetch(no_network)
    assert "hash does not match" in fetch(other_file)
    assert asked == [vgg19.WEIGHTS_URL] * 2


def test_vgg19_says_so_when_a_weights_file_does_not_fit(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.attrs["layer_names"] = [b"another"]
        file.create_group("another").attrs["weight_names"] = [b"w"]
        file["another/w"] = np.zeros(3)
    with pytest.raises(UserError, match=r"other\.h5: doesn't hold VGG-19's weights"):
        vgg19.VGG19(tmp_path / "other.h5")


def test_vggish_loads_the_published_file_and_no_other(tmp_path, monkeypatch):
    network = generated_extractor().vggish
    path = tmp_path / vggish.WEIGHTS_FILE
    torch.save(network.state_dict(), path)
    with pytest.raises(UserError, match=r"isn't the published VGGish file"):
        vggish.load_vggish(path)
    with open(path, "rb") as file:
        monkeypatch.setattr(vggish, "WEIGHTS_SHA256", hashlib.file_digest(file, "sha256").hexdigest())
    loaded = vggish.load_vggish(path).state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(loaded[name], value), name


def test_vggish_is_fetched_with_its_whole_hash(tmp_path, monkeypatch):
    asked = []

    def fetch(url, target, hash_prefix):
        asked.append((url, hash_prefix))
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with pytest.raises(UserError, match=r"could not be fetched \(.*no network.*put it into"):
        vggish.load_vggish()
    assert asked == [(vggish.WEIGHTS_URL, vggish.WEIGHTS_SHA256)]
    # torch.hub's own convention: the file's name holds the first digits of the hash of its content
    assert f"vggish-{vggish.WEIGHTS_SHA256[:8]}.pth" == vggish.WEIGHTS_FILE

"""VGGish as the data set's authors used it: log-mel examples of 0.96 s -> the 128 values after the last ReLU, no PCA.

The network (Hershey et al., CNN architectures for large-scale audio classification, ICASSP 2017) and its front end
follow the constants that Google published with it. The weights are the PyTorch conversion of Google's checkpoint
that the torchvggish project released (290 MB); the parameter names here are that file's.
"""

from __future__ import annotations

import hashlib
import math
import os
import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dataset.extract.decoding import SAMPLE_RATE
from utils.base.errors import UserError

WINDOW, HOP = 400, 160  # samples: 25 ms windows every 10 ms
FFT = 512
BANDS = 64
LOWEST, HIGHEST = 125.0, 7500.0  # Hz, edges of the mel bands
LOG_OFFSET = 0.01
EXAMPLE = 96  # spectra in an example, 0.96 s; examples don't overlap
EMBEDDING = 128

WEIGHTS_FILE = "vggish-10086976.pth"
WEIGHTS_URL = f"https://github.com/harritaylor/torchvggish/releases/download/v0.1/{WEIGHTS_FILE}"
WEIGHTS_SHA256 = "10086976245803799d9194e9a73d9b6c1549c71d1b80106f5cade5608a561f4b"


def log_mel_examples(waveform: np.ndarray) -> np.ndarray:
    """Mono audio [samples] at 16 kHz in [-1, 1] -> float32 [examples, 96, 64]; an unfilled last example is left out.

    10 s give 10 examples; example k starts at 0.96 k s.
    """
    windows = np.lib.stride_tricks.sliding_window_view(waveform.astype(np.float64), WINDOW)[::HOP]
    periodic_hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    magnitude = np.abs(np.fft.rfft(windows * periodic_hann, FFT))
    log_mel = np.log(magnitude @ _mel_bands() + LOG_OFFSET)
    examples = len(log_mel) // EXAMPLE
    return log_mel[: examples * EXAMPLE].reshape(examples, EXAMPLE, BANDS).astype(np.float32)


def _mel(hertz: np.ndarray | float) -> np.ndarray:
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)


def _mel_bands() -> np.ndarray:
    """[257, 64]: triangles that are straight lines on the mel scale (not in Hz), each half overlapping the next."""
    bins = _mel(np.arange(FFT // 2 + 1) * SAMPLE_RATE / FFT)
    edges = np.linspace(_mel(LOWEST), _mel(HIGHEST), BANDS + 2)
    position = (bins[:, None] - edges) / (edges[1] - edges[0])  # in band widths from each edge
    bands = np.maximum(0, 1 - np.abs(position[:, 1:-1]))
    bands[0] = 0  # no constant component
    return bands


class VGGish(nn.Module):
    """Log-mel examples [n, 96, 64] -> embeddings [n, 128], all >= 0.

    Six 3x3 convolutions in four blocks, each ending in a 2x2 max pooling, then three linear layers; a ReLU
    after each of the nine.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for block in ((64,), (128,), (256, 256), (512, 512)):
            for width in block:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        flat = channels * (EXAMPLE // 16) * (BANDS // 16)
        self.embeddings = nn.Sequential(
            *(nn.Linear(flat, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, EMBEDDING), nn.ReLU())
        )

    def forward(self, examples: Tensor) -> Tensor:
        maps = self.features(examples.unsqueeze(1))
        return self.embeddings(maps.permute(0, 2, 3, 1).flatten(1))  # time, band, channel: TensorFlow's order


def load_vggish(weights: str | os.PathLike = "pretrained", device: torch.device | str = "cpu") -> VGGish:
    """VGGish ready to use.

    Args:
        weights: "pretrained" fetches `WEIGHTS_URL` once, into torch.hub's folder, and verifies its SHA-256; a path
            to that file is verified the same; "generated" are random ones for trying things out.

    Raises:
        UserError: the file can't be fetched, is missing, or isn't the published one.
    """
    if weights == "generated":
        network = VGGish()
        _generate(network)
    else:
        path = _fetched() if weights == "pretrained" else Path(weights)
        network = _from_file(path, WEIGHTS_SHA256)
    return network.eval().requires_grad_(False).to(device)


def _fetched() -> Path:
    """The published weights in torch.hub's folder, fetched if they aren't there."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / WEIGHTS_FILE
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(WEIGHTS_URL, str(path), hash_prefix=WEIGHTS_SHA256)
        except (OSError, RuntimeError) as error:  # no network, no space; another hash
            raise UserError(
                f"VGGish's weights could not be fetched ({error}); fetch {WEIGHTS_URL} on a machine with "
                f"internet access and put it into {folder}"
            ) from error
    return path


def _from_file(path: Path, sha256: str) -> VGGish:
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); fetch it from {WEIGHTS_URL}") from error
    if found != sha256:
        raise UserError(
            f"{path}: isn't the published VGGish file (SHA-256 {found[:16]}..., not {sha256[:16]}...); "
            f"remove it and fetch {WEIGHTS_URL}"
        )
    network = VGGish()
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: doesn't hold VGGish's weights ({error}); fetch {WEIGHTS_URL}") from error
    return network


def _generate(network: VGGish) -> None:
    """Random weights, the same on every machine, that keep the scale of what flows through (He et al., 2015)."""
    generator = torch.Generator().manual_seed(128)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, 0, math.sqrt(2 / layer.weight[0].numel()), generator)
            nn.init.zeros_(layer.bias)

"""VGGish as the data set's authors used it: log-mel examples of 0.96 s -> the 128 values after the last ReLU, no PCA.

The network (Hershey et al., CNN architectures for large-scale audio classification, ICASSP 2017) and its front end
follow the constants that Google published with it. The weights are the PyTorch conversion of Google's checkpoint
that the torchvggish project released (290 MB); the parameter names here are that file's.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dataset.extract.decoding import SAMPLE_RATE
from dataset.extract.flags import GENERATED, PRETRAINED
from dataset.extract.weights import Published, fetched, generate, require_published, sha256_of
from utils.base.errors import UserError

WINDOW, HOP = 400, 160  # samples: 25 ms windows every 10 ms
FFT = 512
BANDS = 64
LOWEST, HIGHEST = 125.0, 7500.0  # Hz, edges of the mel bands
LOG_OFFSET = 0.01
EXAMPLE = 96  # spectra in an example, 0.96 s; examples don't overlap
EMBEDDING = 128

PUBLISHED = Published(
    "vggish-10086976.pth",
    "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth",
    "sha256",
    "10086976245803799d9194e9a73d9b6c1549c71d1b80106f5cade5608a561f4b",
)


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


def load_vggish(weights: str | os.PathLike = PRETRAINED, device: torch.device | str = "cpu") -> VGGish:
    """VGGish ready to use.

    Args:
        weights: "pretrained" fetches `PUBLISHED` once, into torch.hub's folder, and verifies it; a path to that file is
            verified the same; "generated" are random ones for trying things out.

    Raises UserError when the file can't be fetched, is missing, or isn't the published one.
    """
    network = VGGish()
    if weights == GENERATED:
        generate(network, seed=128)
    else:
        path = fetched(PUBLISHED, Path(torch.hub.get_dir()) / "checkpoints") if weights == PRETRAINED else Path(weights)
        require_published(path, PUBLISHED)
        try:
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except (RuntimeError, pickle.UnpicklingError) as error:
            raise UserError(f"{path}: doesn't hold VGGish's weights ({error}); fetch {PUBLISHED.url}") from error
    return network.eval().requires_grad_(False).to(device)


def made_with(network: VGGish) -> dict[str, Any]:
    """Which kind of VGGish features these are: several kinds are in use."""
    return {
        "network": "vggish",
        "sha256": sha256_of(network),
        "final_relu": True,
        "pca": False,
        "quantized_to_8_bits": False,
        "hop_seconds": EXAMPLE * HOP / SAMPLE_RATE,
    }

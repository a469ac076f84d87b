"""VGG-19's block5_pool as the data set's authors computed it: Keras' weights and preprocessing.

The weights are Keras' ImageNet file (80 MB, in `~/.keras/models`, where Keras keeps it too). The layers are PyTorch's,
in the memory format channels_last; that they give what Keras' own network gives is tested.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from dataset.extract.decoding import SIZE, squeezed
from dataset.extract.flags import GENERATED, PRETRAINED
from dataset.extract.weights import Published, fetched, generate, sha256_of
from utils.base.errors import UserError

PUBLISHED = Published(
    "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "https://storage.googleapis.com/tensorflow/keras-applications/vgg19/"
    "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "md5",
    "253f8cb515780f3b799900260a226db6",
)
# Configuration E of Simonyan & Zisserman (2015): the widths of each block's convolutions; a block ends in a pooling.
BLOCKS = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)
MEANS_BGR = (103.939, 116.779, 123.68)  # of ImageNet, in grey levels


class VGG19:
    """RGB frames uint8 [n, 224, 224, 3] -> block5_pool float32 [n, 7, 7, 512] on `device`.

    Args:
        weights: "pretrained"; "generated", random ones for trying things out; or a path to Keras' weights file
            (`PUBLISHED`), which isn't verified.
        device: where to compute. dtype: of the weights and what flows through.

    Raises UserError when the weights can't be fetched or don't fit.
    """

    prepare = staticmethod(squeezed)  # a frame of any size -> the frames that this takes

    def __init__(self, weights: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.network = layers()
        if weights == GENERATED:
            generate(self.network, seed=19)
        else:
            keras_folder = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models"
            _read(self.network, fetched(PUBLISHED, keras_folder) if weights == PRETRAINED else Path(weights))
        self.made_with: dict[str, Any] = {
            "backbone": "vgg19",
            "layer": "block5_pool",
            "sha256": sha256_of(self.network),
            "transform": f"squeezed to {SIZE}x{SIZE}, bilinear without a low-pass filter; BGR less ImageNet's means",
        }
        self.network.eval().requires_grad_(False).to(device, dtype, memory_format=torch.channels_last)
        self.means = torch.tensor(MEANS_BGR, device=device).view(1, 3, 1, 1)

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> Tensor:
        images = torch.from_numpy(frames).to(self.means.device).permute(0, 3, 1, 2)  # channels last in memory
        images = images.flip(1).float() - self.means
        return self.network(images.to(self.network[0].weight.dtype)).float().permute(0, 2, 3, 1)


def layers() -> nn.Sequential:
    """The convolutions and poolings. The last ReLU of a block follows its pooling, which gives the same, sooner."""
    made: list[nn.Module] = []
    channels = 3
    for widths in BLOCKS:
        for width in widths:
            made += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        made.insert(-1, nn.MaxPool2d(2))
    return nn.Sequential(*made)


def _read(network: nn.Sequential, path: Path) -> None:
    """Read Keras' file: a group a layer, which names its kernel [3, 3, in, out] and its bias [out] in an attribute."""
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    names = [f"block{block}_conv{conv}" for block, widths in enumerate(BLOCKS, 1) for conv in range(1, 1 + len(widths))]
    try:
        with h5py.File(path, "r") as file:
            for name, layer in zip(names, convolutions, strict=True):
                kernel, bias = (torch.from_numpy(file[name][key][()]) for key in file[name].attrs["weight_names"])
                layer.load_state_dict({"weight": kernel.permute(3, 2, 0, 1), "bias": bias})
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"{path}: doesn't hold VGG-19's weights ({str(error).splitlines()[0]}); give Keras' file {PUBLISHED.name}"
        ) from error

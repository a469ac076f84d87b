"""VGG-19's block5_pool as the data set's authors computed it: Keras' own network, weights and preprocessing.

Keras 3 runs it on PyTorch. Keras fetches the ImageNet weights (80 MB, into `~/.keras/models`) and verifies
their MD5 sum, also that of a file already there.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from utils.base.errors import UserError

os.environ["KERAS_BACKEND"] = "torch"  # read when keras is imported
try:
    import keras
    from keras.applications import vgg19
except ImportError:
    raise UserError("VGG-19 features need the package keras: pip install -r requirements-video.txt") from None

WEIGHTS_FILE = "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
WEIGHTS_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg19/{WEIGHTS_FILE}"


class VGG19:
    """RGB frames uint8 [n, 224, 224, 3] -> block5_pool float32 [n, 7, 7, 512] on `device`.

    Args:
        weights: "imagenet"; "generated", random ones for trying things out; or a path to Keras' weights file
            (`WEIGHTS_FILE`), which isn't verified.
        device: where to compute.

    Raises:
        UserError: the weights can't be fetched or don't fit, or Keras runs on another backend than PyTorch.
    """

    def __init__(self, weights: str | os.PathLike = "imagenet", device: torch.device | str = "cpu") -> None:
        if keras.backend.backend() != "torch":
            raise UserError(
                f"Keras runs on {keras.backend.backend()}, but the features need PyTorch: "
                f"import dataset.extract.vgg19 before anything that imports keras"
            )
        self.device = torch.device(device)
        keras.config.set_image_data_format("channels_last")
        with self._on_device():
            generated = weights == "generated"
            try:
                self.network = vgg19.VGG19(include_top=False, weights=None if generated else weights)
            except Exception as error:  # Keras raises bare Exception for a failed download, ValueError for the rest
                raise _weights_error(weights, error) from error
            if generated:
                _generate(self.network)
        self.network.trainable = False

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> torch.Tensor:
        with self._on_device():
            images = torch.from_numpy(frames).to(self.device).float()
            # RGB -> BGR minus the ImageNet means, no scaling: Keras' own
            images = vgg19.preprocess_input(images, data_format="channels_last")
            return self.network(images, training=False)

    def _on_device(self):
        return keras.device("cpu" if self.device.type == "cpu" else f"cuda:{self.device.index or 0}")


def _weights_error(weights: str | os.PathLike, error: Exception) -> UserError:
    if weights != "imagenet":
        return UserError(f"{weights}: doesn't hold VGG-19's weights ({error}); give Keras' file {WEIGHTS_FILE}")
    folder = Path(os.environ.get("KERAS_HOME", "~/.keras")) / "models"
    return UserError(
        f"VGG-19's ImageNet weights could not be fetched ({error}); fetch {WEIGHTS_URL} on a machine with "
        f"internet access and put it into {folder}"
    )


def _generate(network: keras.Model) -> None:
    """Random weights, the same on every machine, that keep the scale of what flows through (He et al., 2015)."""
    generator = np.random.default_rng(19)
    for layer in network.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            scale = np.sqrt(2 / np.prod(kernel.shape[:3]))
            layer.set_weights([generator.normal(0, scale, kernel.shape).astype(np.float32), np.zeros_like(bias)])

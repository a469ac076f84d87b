"""Any visual backbone of the package timm: frames through its own transform -> the grid of its last stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.extract.flags import GENERATED, PRETRAINED
from dataset.extract.weights import sha256_of
from utils.base.errors import UserError

PREFIX = "timm/"
_SEED = 1


class TimmBackbone:
    """RGB frames uint8 [n, S, S, 3] -> the last stage's features float32 [n, h, w, D] on `device`.

    Args:
        name: of a model of timm, such as resnet50.a1_in1k.
        weights: "pretrained", fetched by timm, or "generated", random ones for trying things out.
        device: where to compute. dtype: of the weights and what flows through.

    Raises UserError where timm or the model isn't there, its weights can't be fetched, or it gives no grid.
    """

    def __init__(
        self, name: str, weights: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        try:
            import timm
            from PIL import Image
            from timm.data import create_transform, resolve_model_data_config
        except (ImportError, RuntimeError) as error:  # a torchvision for another torch fails with RuntimeError
            raise UserError(
                f"--visual {PREFIX}{name} needs the package timm ({str(error).splitlines()[0]}): "
                f"pip install -r requirements-timm.txt"
            ) from None
        if weights not in (GENERATED, PRETRAINED):
            raise UserError(f"--vgg19 {weights}: is for VGG-19; timm fetches the weights of {PREFIX}{name} itself")
        try:
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(_SEED)
                network = timm.create_model(name, pretrained=weights == PRETRAINED)
        except (RuntimeError, OSError) as error:  # no such model; no network
            raise UserError(
                f"--visual {PREFIX}{name}: timm {timm.__version__} can't make it ({str(error).splitlines()[0]}); "
                f"timm.list_models() has the names, and a machine without a network needs the weights in the cache of "
                f"the Hugging Face hub"
            ) from error
        settings = resolve_model_data_config(network)
        # Without the last steps, which make float32 of a frame: clips that wait are small.
        transform = create_transform(**settings, is_training=False, use_prefetcher=True)
        self._transform = lambda frame: transform(Image.fromarray(frame))
        self.made_with: dict[str, Any] = {
            "backbone": f"{PREFIX}{name}",
            "layer": "last stage",
            "sha256": sha256_of(network),
            "transform": {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()},
            "package": f"timm {timm.__version__}",
        }
        self.network = network.eval().requires_grad_(False).to(device, dtype)
        self.dtype = dtype
        as_grey_levels = torch.tensor([settings["mean"], settings["std"]], device=device) * 255
        self.mean, self.std = as_grey_levels.view(2, 1, 3, 1, 1)

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        """A frame of any size, RGB uint8 [h, w, 3], resized and cropped as the model wants it."""
        return np.asarray(self._transform(frame)).transpose(1, 2, 0)

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> Tensor:
        images = torch.from_numpy(frames).to(self.mean.device).permute(0, 3, 1, 2)
        images = ((images - self.mean) / self.std).to(self.dtype)
        (grid,) = self.network.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)
        return grid.float().permute(0, 2, 3, 1)

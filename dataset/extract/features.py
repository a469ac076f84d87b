"""From a clip of a video to what the networks read: visual [T, h, w, D] and audio [T, 128] features."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dataset.extract import decoding, timm_backbone, vggish
from dataset.extract.flags import PRETRAINED
from dataset.extract.vgg19 import VGG19
from dataset.extract.video import FRAMES_A_SECOND, Clip
from utils.base.errors import UserError, is_out_of_memory

VGG19_NAME = "vgg19"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}  # of the visual backbone, by --precision
_CPU_BATCH = 8  # frames whose activations stay near the processor; larger batches are no faster


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Which feature networks to use, with which weights.

    visual: "vgg19" or "timm/NAME". visual_weights: "pretrained", "generated" or, of VGG-19, a file. vggish: the same
    (see `dataset.extract.vggish`). precision: of the visual backbone, a key of `DTYPES`; VGGish has float32.
    """

    visual: str = VGG19_NAME
    visual_weights: str = PRETRAINED
    vggish: str = PRETRAINED
    precision: str = "float32"


class Features(NamedTuple):
    """The features of one clip of T segments: visual float32 [T, h, w, D], audio float32 [T, 128]."""

    visual: np.ndarray
    audio: np.ndarray


class Backbone(Protocol):
    """A network that turns frames into grids of features.

    `prepare` makes a frame of any size, RGB uint8 [H, W, 3], one that a call takes, uint8 [S, S, 3]. A call turns such
    frames [n, S, S, 3] into float32 [n, h, w, D] on the device. `made_with` says which network this is.
    """

    made_with: dict[str, Any]

    def prepare(self, frame: np.ndarray) -> np.ndarray: ...

    def __call__(self, frames: np.ndarray) -> Tensor: ...


class FeatureExtractor:
    """Runs the visual backbone over a clip's frames and VGGish over its audio.

    Args:
        recipe: which networks.
        device: where to compute.
        batch: frames at a time; None: a few on the CPU; on a GPU all of a clip, or as many as fit.

    Raises UserError when weights can't be fetched or aren't the published ones, and where the backbone gives no grid.
    """

    def __init__(self, recipe: Recipe, device: torch.device | str = "cpu", batch: int | None = None) -> None:
        self.device = torch.device(device)
        self.batch = batch or (_CPU_BATCH if self.device.type == "cpu" else None)
        self.vggish = vggish.load_vggish(recipe.vggish, device)
        self.visual = _backbone(recipe, self.device)
        self.prepare = self.visual.prepare
        blank = self.visual(self.prepare(np.zeros((360, 640, 3), np.uint8))[None])
        self.made_with = {
            "visual": {
                **self.visual.made_with,
                "grid": list(blank.shape[1:]),
                "frames_a_second": FRAMES_A_SECOND,
                "precision": recipe.precision,
            },
            "audio": vggish.made_with(self.vggish),
            "decoder": decoding.made_with(),
        }

    def __call__(self, clip: Clip) -> Features:
        return Features(self.visual_of(clip), self.audio_of(clip))

    def visual_of(self, clip: Clip) -> np.ndarray:
        """Visual features [T, h, w, D]: of each segment, the mean over its frames."""
        by_frame = self._by_frame(clip.frames)
        # One segment at a time: all T x 16 frames in float64 would be 30 MB a second of video.
        means = [by_frame[frames_of_second].mean(0, dtype=np.float64) for frames_of_second in clip.index]
        return np.stack(means).astype(np.float32)

    @torch.inference_mode()
    def audio_of(self, clip: Clip) -> np.ndarray:
        """Audio features [T, 128]: VGGish's of each segment."""
        # T seconds hold T examples of 0.96 s and, from 25 s on, some more, which belong to no segment.
        examples = vggish.log_mel_examples(clip.waveform)[: len(clip.index)]
        return self.vggish(torch.from_numpy(examples).to(self.device)).cpu().numpy()

    def _by_frame(self, frames: np.ndarray) -> np.ndarray:
        """The backbone's features of each frame; in smaller batches from then on where the GPU's memory runs out."""
        while True:
            batch = self.batch or len(frames)
            try:
                return torch.cat(
                    [self.visual(part).cpu() for part in np.split(frames, range(batch, len(frames), batch))]
                ).numpy()
            except RuntimeError as error:
                if self.device.type == "cpu" or not is_out_of_memory(error):
                    raise
                if batch == 1:
                    raise UserError("one frame doesn't fit into the GPU's memory; try --gpu cpu") from error
            self.batch = batch // 2
            torch.cuda.empty_cache()


def _backbone(recipe: Recipe, device: torch.device) -> Backbone:
    dtype = DTYPES[recipe.precision]
    if recipe.visual == VGG19_NAME:
        return VGG19(recipe.visual_weights, device, dtype)
    if recipe.visual.startswith(timm_backbone.PREFIX):
        name = recipe.visual.removeprefix(timm_backbone.PREFIX)
        return timm_backbone.TimmBackbone(name, recipe.visual_weights, device, dtype)
    raise UserError(f"--visual {recipe.visual}: is neither {VGG19_NAME} nor {timm_backbone.PREFIX}NAME")

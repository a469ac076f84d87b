"""From a clip of a video to what the networks read: visual [T, 7, 7, 512] and audio [T, 128] features."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import torch

from dataset.extract.vgg19 import VGG19
from dataset.extract.vggish import load_vggish, log_mel_examples
from dataset.extract.video import Clip


class Features(NamedTuple):
    """Of one clip of T segments: visual float32 [T, 7, 7, 512], audio float32 [T, 128]."""

    visual: np.ndarray
    audio: np.ndarray


class FeatureExtractor:
    """Runs VGG-19 over a clip's frames and VGGish over its audio.

    Args:
        vgg19: "imagenet", "generated" or a weights file (see `dataset.extract.vgg19`).
        vggish: "pretrained", "generated" or a weights file (see `dataset.extract.vggish`).
        device: where to compute. batch: frames at a time; 32 take about 2 GB.

    Raises UserError when weights can't be fetched or aren't the published ones.
    """

    def __init__(
        self,
        vgg19: str | os.PathLike = "imagenet",
        vggish: str | os.PathLike = "pretrained",
        device: torch.device | str = "cpu",
        batch: int = 32,
    ) -> None:
        self.batch = batch
        self.device = torch.device(device)
        self.vggish = load_vggish(vggish, device)
        self.vgg19 = VGG19(vgg19, device)

    @torch.inference_mode()
    def __call__(self, clip: Clip) -> Features:
        frames = [self.vgg19(clip.frames[i : i + self.batch]).cpu() for i in range(0, len(clip.frames), self.batch)]
        by_frame = torch.cat(frames).numpy()
        # One segment at a time: all T x 16 frames in float64 would be 30 MB a second of video.
        visual = np.stack([by_frame[frames_of_second].mean(0, dtype=np.float64) for frames_of_second in clip.index])
        # T seconds hold T examples of 0.96 s and, from 25 s on, some more, which belong to no segment.
        examples = log_mel_examples(clip.waveform)[: len(clip.index)]
        audio = self.vggish(torch.from_numpy(examples).to(self.device)).cpu().numpy()
        return Features(visual.astype(np.float32), audio)

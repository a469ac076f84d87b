"""Features in tests: of one extractor with random weights, or made up in no time."""

from __future__ import annotations

import functools

import numpy as np

from dataset.extract.decoding import squeezed
from dataset.extract.features import FeatureExtractor, Features, Recipe
from dataset.extract.video import Clip

GENERATED = Recipe(visual_weights="generated", vggish="generated")


@functools.cache
def generated_extractor() -> FeatureExtractor:
    """Building it takes a second and 400 MB."""
    return FeatureExtractor(GENERATED)


class ClipFeatures:
    """Random features that depend on the clip alone, in the extractor's place."""

    prepare = staticmethod(squeezed)

    def __init__(self, recipe: Recipe | None = None, *args: object) -> None:
        self.clips, self.recipe = [], recipe
        visual = {"backbone": "vgg19", "grid": [7, 7, 512]}
        self.made_with = {"visual": visual, "audio": {"final_relu": True}, "decoder": {"ffmpeg": "8"}}

    def __call__(self, clip: Clip) -> Features:
        self.clips.append(clip.start)
        rng = np.random.default_rng([clip.start, len(clip.frames)])
        return Features(rng.random((10, 7, 7, 512), np.float32), rng.random((10, 128), np.float32) * 3)

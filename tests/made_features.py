"""One extractor with random weights for all tests: building it takes a second and 400 MB."""

from __future__ import annotations

import functools

from dataset.extract.features import FeatureExtractor, Recipe

GENERATED = Recipe(visual_weights="generated", vggish="generated")


@functools.cache
def generated_extractor():
    return FeatureExtractor(GENERATED)

"""One extractor with random weights for all tests: building it takes seconds and 400 MB."""

from __future__ import annotations

import functools

from dataset.extract.features import FeatureExtractor


@functools.cache
def generated_extractor():
    return FeatureExtractor("generated", "generated", batch=8)

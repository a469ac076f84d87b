"""Whatever the order of a clip's dimensions, its features are stored channels last."""

from __future__ import annotations

import numpy as np
import pytest

from dataset.ingest import shapes
from dataset.ingest.pickles import Refused

GRID = np.arange(3 * 7 * 7 * 20.0).reshape(3, 7, 7, 20)
WIDE = np.arange(3 * 2 * 8 * 20.0).reshape(3, 2, 8, 20)


@pytest.mark.parametrize(
    ("array", "grid", "expected"),
    [
        (GRID, None, GRID),
        (GRID.transpose(0, 3, 1, 2), None, GRID),
        (GRID.reshape(3, 49, 20), None, GRID),
        (GRID.reshape(3, 49, 20).transpose(0, 2, 1), None, GRID),
        (GRID[:, 0, 0], None, GRID[:, 0, 0]),
        (WIDE, None, WIDE),
        (WIDE.reshape(3, 16, 20), (2, 8), WIDE),
        (WIDE.reshape(3, 16, 20), None, WIDE.reshape(3, 4, 4, 20)),
        (WIDE.transpose(0, 3, 1, 2), (2, 8), WIDE),
        (WIDE[..., :4], (2, 8), WIDE[..., :4]),
        (np.ones((3, 49, 1024)), None, np.ones((3, 7, 7, 1024))),  # 1024 is a square too
        (np.ones((3, 1024, 49)), None, np.ones((3, 7, 7, 1024))),
        (np.ones((3, 1, 64)), None, np.ones((3, 1, 1, 64))),
    ],
)
def test_visual_features_are_stored_channels_last(array, grid, expected):
    np.testing.assert_array_equal(shapes.visual_of(array, grid), expected)


@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((3,), None), ((0, 4), None), ((3, 50, 768), None), ((1, 3, 7, 7, 20), None), ((3, 49, 20), (2, 8)),
        ((3, 7, 7, 20), (2, 8)),
    ],
)  # fmt: skip
def test_other_visual_shapes_are_refused(shape, grid):
    with pytest.raises(Refused, match="has visual features of shape"):
        shapes.visual_of(np.zeros(shape), grid)


def test_labels_in_every_form():
    event = np.array([0, 1, 1, 0])
    onehot = np.zeros((4, 3))
    onehot[1:3, 2] = 1
    background = np.concatenate([onehot, 1 - event[:, None]], axis=1)
    for array in (event, event[None], event.astype(bool), event.astype(float)):
        assert shapes.labels_of(array, 4, 3).tolist() == [False, True, True, False]
    for array in (onehot, background):
        np.testing.assert_array_equal(shapes.labels_of(array, 4, 3), onehot.astype(bool))
    for array in (event[:3], onehot[:, :2], event[:, None], 2 * event, np.where(event, np.nan, 0)):
        with pytest.raises(Refused):
            shapes.labels_of(array, 4, 3)


def test_a_value_too_large_for_float16_is_refused():
    assert shapes.stored(np.array([65504.0]), np.dtype("float16")) == 65504
    with pytest.raises(Refused, match="too large for float16"):
        shapes.stored(np.array([70000.0]), np.dtype("float16"))
    with pytest.raises(Refused, match="too large for float32"):
        shapes.stored(np.array([1e300]), np.dtype("float32"))
    with pytest.raises(Refused, match="NaN or infinity"):
        shapes.stored(np.array([np.inf]), np.dtype("float16"))

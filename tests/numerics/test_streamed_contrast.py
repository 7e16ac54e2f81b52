"""Contrast maps from windows are those of the whole map in memory."""

from __future__ import annotations

import numpy as np
import pytest

from wsipipe.errors import NumericsError
from wsipipe.numerics import streamed_contrast
from wsipipe.numerics.contrast import contrast_map
from wsipipe.numerics.correlation import prototypes
from wsipipe.numerics.streamed_contrast import read_prototypes, stream_contrast

INSIDE = np.array([[3, 4], [20, 30], [0, 0]])
OUTSIDE = np.array([[10, 10], [37, 49]])


@pytest.fixture
def features():
    """A map of 38 x 50 cells with holes, and its valid cells."""
    rng = np.random.default_rng(0)
    values = rng.random((38, 50, 7), np.float32) + 0.2
    valid = rng.random((38, 50)) > 0.2
    valid[tuple(np.concatenate([INSIDE, OUTSIDE]).T)] = True
    valid[:16, 16:32] = False  # a window without any
    values[~valid] = 0
    return values, valid


def reader(values, asked=None):
    def read(rows, cols):
        if asked is not None:
            asked.append((rows, cols))
        return values[rows, cols]

    return read


@pytest.mark.parametrize("side", [1, 3])
def test_prototypes_are_those_of_the_map(features, side):
    cells = np.concatenate([INSIDE, OUTSIDE])
    found = read_prototypes(reader(features[0]), (38, 50), cells, side=side)
    np.testing.assert_allclose(found, prototypes(features[0], cells, side=side), atol=1e-6)


@pytest.mark.parametrize("held", [1, 2 * 38 * 50, 10**9])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_windows_agree_with_the_map_in_memory(features, held, eta, monkeypatch):
    monkeypatch.setattr(streamed_contrast, "WINDOW", 16)
    values, valid = features
    vectors = [prototypes(values, cells) for cells in (INSIDE, OUTSIDE)]
    found = list(stream_contrast(reader(values), valid, *vectors, eta=eta, held_values=held))
    expected = contrast_map(values, INSIDE, OUTSIDE, eta=eta, valid=valid)
    assert len(found) == len(INSIDE)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert not np.stack(found)[:, ~valid].any()


def test_features_are_read_as_seldom_as_memory_allows(features, monkeypatch):
    monkeypatch.setattr(streamed_contrast, "WINDOW", 16)
    values, valid = features
    vectors = [prototypes(values, cells) for cells in (INSIDE, OUTSIDE)]
    windows = 3 * 4 - 1
    for held, passes in ((10**9, 2), (2 * valid.size, 3), (1, 4)):
        asked = []
        list(stream_contrast(reader(values, asked), valid, *vectors, held_values=held))
        assert len(asked) == windows * passes
    assert all(rows.stop - rows.start <= 16 >= cols.stop - cols.start for rows, cols in asked)


def test_no_contrast_is_0():
    values = np.ones((5, 6, 3), np.float32)
    vector = np.full((1, 3), 3**-0.5, np.float32)
    (z,) = stream_contrast(reader(values), np.ones((5, 6), bool), vector, vector)
    assert not z.any()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"inside": np.zeros((0, 7), np.float32)}, "both kinds, got 0 in target, 2 out"),
        ({"eta": 1.5}, "eta lies in .* got 1.5"),
        ({"read": lambda rows, cols: np.zeros((1, 1, 7), np.float32)}, r"came back with the shape \(1, 1, 7\)"),
        ({"read": lambda rows, cols: np.full((38, 50, 7), np.nan, np.float32)}, "not finite"),
        ({"valid": np.zeros((38, 50), bool)}, "no cell is valid"),
    ],
)
def test_nonsense_is_refused(features, change, told):
    values, valid = features
    arguments = {
        "read": reader(values),
        "valid": valid,
        "inside": prototypes(values, INSIDE),
        "outside": prototypes(values, OUTSIDE),
    } | change
    with pytest.raises(NumericsError, match=told):
        list(stream_contrast(**arguments))

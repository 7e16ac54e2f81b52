"""Macenko: the fit finds the stains, the matrix does what the library does, what would blow up noise is refused."""

from __future__ import annotations

import numpy as np
import pytest
from torchstain.base.normalizers import MacenkoNormalizer

from stainmaker import BLUE, PURPLE, amounts, stained
from wsipipe.errors import StainError
from wsipipe.numerics.stain import macenko


def flat(picture):
    return picture.reshape(-1, 3)


@pytest.fixture(scope="module")
def picture():
    return stained(amounts(300, 200), PURPLE)


def test_recolouring_is_the_librarys_own(picture):
    expected, _, _ = MacenkoNormalizer(backend="numpy").normalize(picture, Io=240, stains=False)
    got = macenko.recolour(picture, macenko.fit(flat(picture)), macenko.PUBLISHED)
    difference = got.astype(int) - expected  # the library cuts off what is here rounded
    assert set(np.unique(difference)) == {0, 1}
    assert 0.3 < difference.mean() < 0.7


def test_the_published_reference_is_the_librarys():
    library = MacenkoNormalizer(backend="numpy")
    assert (*library.HERef.ravel(), *library.maxCRef) == macenko.PUBLISHED


@pytest.mark.parametrize("vectors", [PURPLE, BLUE])
def test_the_fit_finds_the_stains_and_their_strength(vectors):
    of = amounts(300, 200)
    numbers = macenko.fit(flat(stained(of, vectors, (0.8, 1.2))))
    unit = vectors / np.linalg.norm(vectors, axis=0)
    assert np.degrees(np.arccos((np.reshape(numbers[:6], (3, 2)) * unit).sum(axis=0))).max() < 3
    np.testing.assert_allclose(numbers[6:], np.percentile(of * (0.8, 1.2), 99, axis=(0, 1)), rtol=0.1)


def test_two_stains_of_one_tissue_become_alike():
    of = amounts(300, 200)
    pair = [stained(of, PURPLE), stained(of, BLUE, (0.6, 1.3))]
    normal = [macenko.recolour(p, macenko.fit(flat(p)), macenko.PUBLISHED) for p in pair]
    before, after = (np.abs(a.astype(float) - b).mean() for a, b in (pair, normal))
    assert before > 15
    assert after < 1.5


def test_to_itself_nothing_changes(picture):
    own = macenko.fit(flat(picture))
    assert np.abs(macenko.recolour(picture, own, own).astype(int) - picture).max() <= 2


def test_any_shape_and_more_than_one_strip(picture):
    own = macenko.fit(flat(picture))
    whole = macenko.recolour(picture, own, macenko.PUBLISHED)
    rows = np.stack([macenko.recolour(row, own, macenko.PUBLISHED) for row in picture])
    assert len(flat(picture)) > 2**15
    np.testing.assert_array_equal(whole, rows)


def test_extreme_pixels_stay_pixels(picture):
    ends = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    got = macenko.recolour(ends, macenko.fit(flat(picture)), macenko.PUBLISHED)
    assert got[1].min() > 225  # glass stays bright
    assert got[0].max() < 20


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        (np.full((4000, 3), 244, np.uint8), "has 0 stained px"),
        (np.full((1500, 3), 100, np.uint8), "has 1500 stained px"),
        (np.random.default_rng(0).integers(60, 200, (4000, 1)).repeat(3, 1).astype(np.uint8), "no two stains"),
        (flat(stained(amounts(100, 60) * [0, 1], PURPLE)), "no two stains"),
    ],
    ids=["glass", "little", "grey", "one stain"],
)
def test_what_shows_no_two_stains_is_refused(picture, told):
    with pytest.raises(StainError, match=told):
        macenko.fit(picture)

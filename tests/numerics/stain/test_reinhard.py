"""Reinhard: the short way through CIELAB is the library's, means and deviations become the reference's."""

from __future__ import annotations

import numpy as np
import pytest
from torchstain.base.normalizers import ReinhardNormalizer
from torchstain.numpy.utils import rgb2lab

from stainmaker import BLUE, PURPLE, amounts, stained
from wsipipe.errors import StainError
from wsipipe.numerics.stain import reinhard


def flat(picture):
    return picture.reshape(-1, 3)


def lab(picture):
    """As `reinhard.PUBLISHED` has them."""
    values = rgb2lab(flat(picture).astype(np.float32) / 255) - (0, 128, 128)
    values[:, 0] /= 2.55
    return values


@pytest.fixture(scope="module")
def picture():
    return stained(amounts(300, 200), PURPLE)


def test_recolouring_is_the_librarys_own(picture):
    dark = picture[picture.min(axis=2) <= 206].reshape(-1, 1, 3)  # the fit leaves clear px out
    library = ReinhardNormalizer(backend="numpy")
    library.target_means, library.target_stds = np.split(np.array(reinhard.PUBLISHED), 2)
    got = reinhard.recolour(dark, reinhard.fit(flat(picture)), reinhard.PUBLISHED)
    difference = got.astype(int) - library.normalize(dark)  # the library cuts off what is here rounded
    assert set(np.unique(difference)) <= {0, 1}
    assert 0.3 < difference.mean() < 0.7


def test_means_and_deviations_become_those_of_the_reference(picture):
    target = (60.0, 25.0, -12.0, 12.0, 6.0, 4.0)  # near enough that no pixel is cut at black or white
    got = lab(reinhard.recolour(picture, reinhard.fit(flat(picture)), target))
    np.testing.assert_allclose(got.mean(axis=0), target[:3], atol=0.7)
    np.testing.assert_allclose(got.std(axis=0), target[3:], rtol=0.05)


@pytest.mark.parametrize(("vectors", "strength", "left"), [(PURPLE, (0.6, 0.6), 0.2), (BLUE, (1.0, 1.0), 0.6)])
def test_another_stain_of_the_tissue_becomes_more_alike(picture, vectors, strength, left):
    other = stained(amounts(300, 200), vectors, strength)
    turned = reinhard.recolour(other, reinhard.fit(flat(other)), reinhard.fit(flat(picture)))
    before, after = (np.abs(p.astype(float) - picture).mean() for p in (other, turned))
    assert before > 10
    assert after < left * before


def test_to_itself_nothing_changes(picture):
    own = reinhard.fit(flat(picture))
    assert np.abs(reinhard.recolour(picture, own, own).astype(int) - picture).max() <= 1


def test_every_grey_and_pure_colour_survives_the_way_there_and_back(picture):
    own = reinhard.fit(flat(picture))
    greys = np.arange(256, dtype=np.uint8)
    ends = np.concatenate([np.stack([greys] * 3, 1), *(np.outer(greys, unit) for unit in np.eye(3, dtype=np.uint8))])
    assert np.abs(reinhard.recolour(ends, own, own).astype(int) - ends).max() <= 1


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        (np.full((4000, 3), 244, np.uint8), "has 0 stained px"),
        (np.random.default_rng(0).integers(60, 200, (4000, 1)).repeat(3, 1).astype(np.uint8), "grey or of one colour"),
    ],
    ids=["glass", "grey"],
)
def test_what_shows_no_stain_is_refused(picture, told):
    with pytest.raises(StainError, match=told):
        reinhard.fit(picture)

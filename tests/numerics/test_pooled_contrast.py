from __future__ import annotations

import numpy as np
import pytest

from wsipipe.errors import NumericsError
from wsipipe.numerics.pooled_contrast import CLIP, Moments, PooledContrast, Prototypes, point_means


def prototypes(count=12, dim=5, seed=0) -> Prototypes:
    rng = np.random.default_rng(seed)
    label = np.arange(count) % 3 // 2  # one third in target
    vectors = rng.normal(size=(count, dim)).astype(np.float32) + 2 * label[:, None].astype(np.float32)
    return Prototypes(vectors, label.astype(np.int64), np.arange(count) // 4)


def by_hand(points: Prototypes, cells, *, reach, noise, own, group):
    """The regression written out, its matrix inverted anew for each group."""
    vectors = points.vectors.astype(np.float64)

    def kernel(a, b):
        squares = ((a[:, None] - b[None]) ** 2).sum(axis=2)
        return np.exp(-squares / (2 * vectors.shape[1] * reach**2))

    inside = points.label == 1
    ridge = 2 * noise * np.where(inside, inside.mean(), 1 - inside.mean())
    ridge = np.where(points.group == group, ridge / own, ridge)
    weights = np.linalg.inv(kernel(vectors, vectors) + np.diag(ridge)) @ np.where(inside, 1.0, -1.0)
    return kernel(cells.astype(np.float64), vectors) @ weights


@pytest.mark.parametrize(("group", "own"), [(None, 5.0), (1, 5.0), (1, 1.0), (2, 0.01), (7, 5.0)])
def test_contrast_is_the_regression_written_out(group, own):
    points = prototypes()
    cells = np.random.default_rng(1).normal(size=(3, 4, 5)).astype(np.float32)
    contrast = PooledContrast(points, reach=0.8, noise=0.2, own=own).of(cells, group=group)
    expected = by_hand(
        points, cells.reshape(-1, 5), reach=0.8, noise=0.2, own=own, group=-1 if group is None else group
    )
    assert contrast.shape == (3, 4)
    np.testing.assert_allclose(contrast.ravel(), expected, atol=2e-5)


def test_own_points_are_trusted_more():
    points = prototypes()
    wanted = np.where(points.label == 1, 1, -1)
    mine = points.group == 0
    contrast = PooledContrast(points, reach=1.0, noise=1.0, own=50.0)
    missed = [np.abs(contrast.of(points.vectors, group=group) - wanted)[mine].mean() for group in (None, 0)]
    assert missed[1] < 0.3 * missed[0]


def test_both_classes_weigh_the_same():
    # Nine equal points against one: halfway between the two kinds, neither side is favoured.
    vectors = np.repeat(np.array([[-1.0], [1.0]], np.float32), [9, 1], axis=0)
    points = Prototypes(vectors, np.repeat([0, 1], [9, 1]), np.zeros(10, np.int64))
    contrast = PooledContrast(points, reach=1.0, noise=0.5, own=1.0)
    assert contrast.of(np.zeros((1, 1), np.float32))[0] == pytest.approx(0, abs=1e-5)


def test_bands_do_not_show(monkeypatch):
    points = prototypes()
    cells = np.random.default_rng(1).normal(size=(25, 5)).astype(np.float32)
    contrast = PooledContrast(points, reach=1.0, noise=0.2, own=1.0)
    whole = contrast.of(cells)
    monkeypatch.setattr("wsipipe.numerics.pooled_contrast.BAND", 4)
    np.testing.assert_allclose(contrast.of(cells), whole, atol=1e-6)


@pytest.mark.parametrize("label", [0, 1])
def test_points_of_one_class_are_refused(label):
    points = prototypes()
    one = Prototypes(points.vectors, np.full(len(points.label), label), points.group)
    with pytest.raises(NumericsError, match="both classes"):
        PooledContrast(one, reach=1.0, noise=1.0, own=1.0)


@pytest.mark.parametrize("wrong", [{"reach": 0.0}, {"noise": -1.0}, {"own": 0.0}])
def test_parameters_must_be_positive(wrong):
    with pytest.raises(NumericsError, match="positive"):
        PooledContrast(prototypes(), **({"reach": 1.0, "noise": 1.0, "own": 1.0} | wrong))


def test_moments_of_parts_are_those_of_the_whole():
    values = np.random.default_rng(0).normal(3, 2, size=(50, 4)).astype(np.float32)
    values[:, 3] = 7  # says nothing
    moments = Moments()
    for part in np.array_split(values, 3):
        moments.add(part)
    standard = moments.standard()
    applied = standard.apply(values)
    expected = (values[:, :3] - values[:, :3].mean(axis=0)) / values[:, :3].std(axis=0)
    np.testing.assert_allclose(applied[:, :3], expected, atol=1e-4)
    assert (applied[:, 3] == 0).all()
    assert np.abs(standard.apply(values + 1000)).max() == CLIP


def test_no_features_have_no_mean():
    with pytest.raises(NumericsError, match="no features"):
        Moments().standard()


def test_a_point_is_the_mean_of_its_square_cut_at_the_edge():
    features = np.arange(4 * 5 * 2, dtype=np.float32).reshape(4, 5, 2)
    means = point_means(features, np.array([[2, 2], [0, 0]]), side=3)
    np.testing.assert_allclose(means, [features[1:4, 1:4].mean(axis=(0, 1)), features[:2, :2].mean(axis=(0, 1))])
    assert point_means(features, np.zeros((0, 2), np.int64), side=3).shape == (0, 2)


def test_thinning_draws_by_seed():
    points = prototypes(count=30)
    thinned = points.thinned(10, seed=3)
    assert len(thinned.label) == len(thinned.vectors) == len(thinned.group) == 10
    np.testing.assert_array_equal(thinned.vectors, points.thinned(10, seed=3).vectors)
    assert points.thinned(30, seed=3) is points

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import make_moons
from sklearn.decomposition import PCA
from sklearn.kernel_ridge import KernelRidge
from sklearn.neighbors import NearestNeighbors

from wsipipe.numerics.shaping import Shaping, fit_axes, fit_diffusion, ridge_weights, unit


@pytest.fixture(scope="module")
def moons():
    points, which = make_moons(700, noise=0.05, random_state=0)
    return points.astype(np.float32), which


def test_axes_are_principal_components_of_standardised_features():
    rng = np.random.default_rng(0)
    sample = (rng.normal(size=(500, 4)) @ rng.normal(size=(4, 6)) * 3 + 5).astype(np.float32)
    sample = np.clip(sample, *np.quantile(sample, (0.01, 0.99), axis=0))  # nothing for the axes to clip
    axes = fit_axes(sample, components=3)
    standard = (sample - sample.mean(0)) / sample.std(0)
    expected = PCA(3).fit_transform(standard)
    found = axes.apply(sample)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-3)
    np.testing.assert_allclose(found.std(0), expected.std(0), rtol=1e-3)


def test_features_that_do_not_vary_and_outliers_do_no_harm():
    sample = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    sample[:, 1] = 7
    axes = fit_axes(sample, components=3)
    far = axes.apply(np.array([[0, 1e6, 0], [1e6, 7, 0]], np.float32))
    np.testing.assert_allclose(far[0], axes.apply(np.array([[0, 7, 0]], np.float32))[0], atol=1e-6)
    assert np.abs(far).max() < 6


def kernel(points, count, reach):
    """D^-1/2 (1 - reach S)^-1 D^-1/2 of the graph, written down densely."""
    distance, index = NearestNeighbors(n_neighbors=count + 1).fit(points).kneighbors(points)
    graph = np.zeros((len(points), len(points)))
    for i, (near, which) in enumerate(zip(distance, index, strict=True)):
        for d, j in zip(near, which, strict=True):
            graph[i, j] = 0 if i == j else np.exp(-(d**2) / (distance[i, -1] * distance[j, -1]))
    graph = np.maximum(graph, graph.T)
    root = np.sqrt(graph.sum(1))
    spread = np.linalg.inv(np.eye(len(points)) - reach * graph / np.outer(root, root))
    return spread / np.outer(root, root)


def test_coordinates_of_full_rank_give_the_kernel_of_label_spreading(moons):
    points = moons[0][:80]
    found = fit_diffusion(points, neighbours=6, rank=80, reach=0.9).coordinates
    np.testing.assert_allclose(found @ found.T, kernel(points, 6, 0.9), rtol=2e-3, atol=1e-5)


def test_few_coordinates_are_the_leading_ones(moons):
    points = moons[0][:150]
    few = fit_diffusion(points, neighbours=6, rank=10, reach=0.9).coordinates
    many = fit_diffusion(points, neighbours=6, rank=60, reach=0.9).coordinates[:, -10:]
    np.testing.assert_allclose(few @ few.T, many @ many.T, rtol=1e-3, atol=1e-4)


def test_correlation_follows_the_moons_not_the_distance(moons):
    points, which = moons
    shaped = fit_diffusion(points[:400], neighbours=8, rank=30, reach=0.99).apply(points)
    np.testing.assert_allclose(np.linalg.norm(shaped, axis=1), 1, rtol=1e-5)
    seeds = [int(np.flatnonzero(which == side)[0]) for side in (0, 1)]
    cosine = shaped @ shaped[seeds].T
    assert ((cosine[:, 1] > cosine[:, 0]) == which).mean() > 0.95
    straight = points @ points.T
    square = np.diag(straight)[:, None] + np.diag(straight)[seeds] - 2 * straight[:, seeds]
    assert ((square[:, 1] < square[:, 0]) == which).mean() < 0.9


def test_draws_count_alike(moons):
    points = moons[0]
    axes = fit_axes(points, components=2)
    cells = axes.apply(points)
    draws = [fit_diffusion(part, neighbours=6, rank=8, reach=0.99) for part in np.array_split(cells, 2)]
    shaped = Shaping(axes, draws).apply(points)
    mean = np.mean([d.apply(cells) @ d.apply(cells).T for d in draws], axis=0)
    np.testing.assert_allclose(shaped @ shaped.T, mean, atol=1e-5)


def test_ridge_is_kernel_ridge_where_the_classes_are_of_one_size():
    prototypes = unit(np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32))
    label = np.array([1, 0, 1, 0, 0, 1])
    weights = ridge_weights(prototypes, label, noise=0.7)
    expected = KernelRidge(alpha=0.7, kernel="linear").fit(prototypes, 2 * label - 1.0).dual_coef_
    np.testing.assert_allclose(weights, expected, rtol=1e-4)


def test_ridge_does_not_lean_to_the_class_with_more_points():
    inside, outside = np.eye(2, dtype=np.float32)
    prototypes = np.stack([inside] + [outside] * 9)
    vector = ridge_weights(prototypes, np.array([1] + [0] * 9), noise=1.0) @ prototypes
    assert vector @ (inside + outside) == pytest.approx(0, abs=1e-6)
    assert vector @ inside > 0.3

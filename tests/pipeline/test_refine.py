from __future__ import annotations

import numpy as np
import pytest

from wsipipe.numerics.variational import solve_cvm
from wsipipe.pipeline.large_maps import Room
from wsipipe.pipeline.refine import refine, refined_bands


def disc(*, inside: float, outside: float, noise: float = 0.15, shape=(60, 80)):
    """Noisy probability with a disc of another level, and the disc."""
    rows, cols = np.indices(shape)
    truth = (rows - 30) ** 2 + (cols - 35) ** 2 < 18**2
    values = np.where(truth, inside, outside) + np.random.default_rng(0).normal(0, noise, shape)
    return np.clip(values, 0, 1).astype(np.float32), truth


def refined(values, tmp_path, valid=None):
    valid = np.ones(values.shape, bool) if valid is None else valid
    return refine(values, valid, lam_rel=1.0, room=Room(tmp_path, "a"))


def test_specks_go_and_the_mask_is_where_it_is_a_half(tmp_path):
    values, truth = disc(inside=0.7, outside=0.3)
    mask = refined(values, tmp_path) >= 0.5
    u = solve_cvm(values[None], lam_rel=1.0, tol=1e-3).u[0]
    np.testing.assert_array_equal(mask, u > 0.5)
    assert (mask != truth).mean() < 0.25 * ((values >= 0.5) != truth).mean()


def test_a_map_that_is_too_careful_is_put_right(tmp_path):
    values, truth = disc(inside=0.62, outside=0.12, noise=0.1)
    values -= np.float32(0.1) * (values > 0.4)  # most of the disc at 0.52, much of it below 0.5
    assert ((refined(values, tmp_path) >= 0.5) != truth).mean() < 0.01 < ((values >= 0.5) != truth).mean()


def test_no_more_is_lost_where_the_better_phase_just_misses_a_half(tmp_path):
    values, truth = disc(inside=0.55, outside=0.3, noise=0.08)
    for shift in np.linspace(0, 0.09, 4, dtype=np.float32):
        assert ((refined(values - shift, tmp_path) >= 0.5) != truth).mean() < 0.03


@pytest.mark.parametrize(("level", "share"), [(0.15, 0.0), (0.85, 1.0)])
def test_a_map_of_one_phase_is_not_split_in_two(level, share, tmp_path):
    values, _ = disc(inside=level, outside=level, noise=0.08)
    assert ((refined(values, tmp_path) >= 0.5).mean()) == share


@pytest.mark.parametrize(("level", "share"), [(0.2, 0.0), (0.9, 1.0)])
def test_a_constant_map_keeps_its_side(level, share, tmp_path):
    assert ((refined(np.full((20, 30), level, np.float32), tmp_path) >= 0.5).mean()) == share


def test_cells_that_are_not_valid_do_not_count(tmp_path):
    values, truth = disc(inside=0.7, outside=0.3)
    valid = np.ones(values.shape, bool)
    valid[:, 60:] = False
    values[~valid] = 1.0
    found = refined(values, tmp_path, valid)
    assert (found[~valid] == 0).all()
    assert ((found >= 0.5) != truth)[valid].mean() < 0.02
    assert not refined(values, tmp_path, np.zeros_like(valid)).any()


def test_bands_are_put_together_and_cut_again(tmp_path):
    values, _ = disc(inside=0.7, outside=0.3)
    valid = np.ones(values.shape, bool)
    parts = ((values[rows], valid[rows]) for rows in (slice(0, 7), slice(7, 60)))
    bands = list(refined_bands(parts, lam_rel=1.0, room=Room(tmp_path, "a")))
    np.testing.assert_array_equal(np.concatenate([band for band, _ in bands]), refined(values, tmp_path))
    assert np.concatenate([known for _, known in bands]).all()

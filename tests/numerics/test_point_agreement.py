from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from wsipipe.config import SegmentSettings
from wsipipe.errors import AnnotationError
from wsipipe.numerics import point_agreement as module
from wsipipe.numerics import point_segmentation
from wsipipe.numerics.point_agreement import leave_one_out
from wsipipe.numerics.point_segmentation import segment_map

QUICK = SegmentSettings(landmarks=300, draws=1)


@pytest.fixture(scope="module")
def world():
    """Two tissues that differ: (features, truth)."""
    rng = np.random.default_rng(0)
    truth = gaussian_filter(rng.normal(size=(60, 80)), 8) > 0
    features = rng.normal(size=(60, 80, 6)) * 0.4
    features[..., 0] += np.where(truth, 2, -2)
    return features.astype(np.float32), truth


def points_of(truth, inside, outside, seed=0):
    rng = np.random.default_rng(seed)
    cells = [rng.permutation(np.argwhere(truth == value))[:n] for value, n in ((True, inside), (False, outside))]
    return np.concatenate(cells), np.repeat([1, 0], (inside, outside))


def agreement(world, cells, label, **options):
    features, _ = world
    return leave_one_out(lambda r, c: features[r, c], features.shape[:2], cells, label, settings=QUICK, **options)


@pytest.mark.parametrize("group_bytes", [1, 1 << 28])
def test_each_point_gets_what_a_segmentation_without_it_says(world, monkeypatch, group_bytes):
    """With the shaped features of all points, as the plain way would have them."""
    features, truth = world
    cells, label = points_of(truth, 3, 4)
    monkeypatch.setattr(module, "_GROUP_BYTES", group_bytes)
    found = agreement(world, cells, label)
    fit = point_segmentation.fit_shaping
    monkeypatch.setattr(point_segmentation, "fit_shaping", lambda world, _, settings: fit(world, cells, settings))
    for i, (row, col) in enumerate(cells):
        rest = np.arange(len(cells)) != i
        plain = segment_map(lambda r, c: features[r, c], features.shape[:2], cells[rest], label[rest], settings=QUICK)
        assert found.probability[i] == plain.probability[row, col]
    assert found.judged.all()
    assert not found.contradicted.any()


def test_a_wrong_click_is_found_and_the_others_are_not_blamed(world):
    cells, label = points_of(world[1], 6, 6)
    label[2] = 0
    found = agreement(world, cells, label)
    assert np.flatnonzero(found.contradicted).tolist() == [2]
    assert found.probability[2] > 0.5


def test_nobody_judges_the_only_point_of_a_class_or_one_off_the_tissue(world):
    cells, label = points_of(world[1], 1, 4)
    valid = np.ones(world[1].shape, bool)
    valid[tuple(cells[4])] = False
    seen = []
    found = agreement(world, cells, label, valid=valid, report=lambda *told: seen.append(told))
    assert found.judged.tolist() == [False, True, True, True, False]
    assert not found.contradicted[[0, 4]].any()
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_points_on_one_cell_do_not_vouch_for_each_other(world):
    cells, label = points_of(world[1], 5, 5)
    wrong = np.argwhere(~world[1])[700]
    cells, label = np.concatenate([cells, [wrong, wrong]]), np.concatenate([label, [1, 1]])
    found = agreement(world, cells, label)
    assert np.flatnonzero(found.contradicted).tolist() == [10, 11]


def test_points_of_one_class_are_refused(world):
    cells, _ = points_of(world[1], 3, 3)
    with pytest.raises(AnnotationError, match="out-of-target points lies on tissue"):
        agreement(world, cells, np.ones(6, int))

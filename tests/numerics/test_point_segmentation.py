from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from sklearn.ensemble import RandomForestClassifier

from wsipipe.config import SegmentSettings
from wsipipe.errors import AnnotationError, NumericsError
from wsipipe.numerics import point_segmentation as module
from wsipipe.numerics.point_segmentation import segment_map

QUICK = SegmentSettings(landmarks=400, draws=2)


class World:
    """Two tissues, each of several kinds that differ from one another as much as the tissues do."""

    def __init__(self, shape=(90, 130), *, seed=0, dim=8):
        rng = np.random.default_rng(seed)
        self.shape = shape
        self.truth = gaussian_filter(rng.normal(size=shape), 9) > 0
        kind = gaussian_filter(rng.normal(size=shape), 9)
        kind = 3 * kind / kind.std()
        angle = np.where(self.truth, kind, kind + 10)
        base = np.stack([angle, *rng.normal(size=(dim - 1, *shape))], -1)
        self.features = (base @ rng.normal(size=(dim, dim)) * 0.2).astype(np.float32)
        self.read_windows = []

    def read(self, rows, cols):
        self.read_windows.append((rows, cols))
        return self.features[rows, cols]

    def points(self, inside, outside, seed=0):
        rng = np.random.default_rng(seed)
        cells = [
            np.argwhere(self.truth == value)[rng.choice(np.count_nonzero(self.truth == value), n, replace=False)]
            for value, n in ((True, inside), (False, outside))
        ]
        return np.concatenate(cells), np.repeat([1, 0], (inside, outside))

    def segment(self, points=None, label=None, *, settings=QUICK, **options):
        if points is None:
            points, label = self.points(4, 4)
        return segment_map(self.read, self.shape, points, label, settings=settings, **options)


@pytest.fixture
def world():
    return World()


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_few_points_segment_the_map(world):
    result = world.segment()
    assert result.status == "converged"
    assert result.notes == ()
    assert dice(result.mask, world.truth) > 0.95
    assert result.u.shape == result.z.shape == result.probability.shape == world.shape
    assert result.z[world.truth].mean() > 0.75 > 0.25 > result.z[~world.truth].mean()


def test_it_learns_more_from_the_points_than_a_forest(world):
    ours, forests = [], []
    for seed in range(3):
        points, label = world.points(3, 3, seed=seed)
        forest = RandomForestClassifier(100, random_state=0).fit(world.features[tuple(points.T)], label)
        by_forest = forest.predict(world.features.reshape(-1, 8)).reshape(world.shape) == 1
        forests.append(dice(by_forest, world.truth))
        ours.append(dice(world.segment(points, label).mask, world.truth))
    assert np.mean(ours) > np.mean(forests) + 0.05


def test_the_mask_is_the_probability_above_one_half_even_in_eight_bits(world):
    result = world.segment()
    np.testing.assert_array_equal(result.probability >= 0.5, result.mask)
    np.testing.assert_array_equal(np.round(result.probability * 255) >= 128, result.mask)
    np.testing.assert_array_equal(result.mask, result.u > 0.5)
    assert len(np.unique(result.probability)) > 1000


def test_runs_are_equal_and_the_seed_matters(world):
    first, again = world.segment(), world.segment()
    np.testing.assert_array_equal(first.z, again.z)
    np.testing.assert_array_equal(first.u, again.u)
    other = world.segment(settings=SegmentSettings(landmarks=400, draws=2, seed=1))
    assert not np.array_equal(first.z, other.z)


@pytest.mark.parametrize(("inside", "outside"), [(1, 1), (7, 9), (2, 12), (12, 2)])
def test_any_numbers_of_points_will_do(world, inside, outside):
    result = world.segment(*world.points(inside, outside))
    assert dice(result.mask, world.truth) > (0.95 if min(inside, outside) > 1 else 0.6)


def test_points_on_the_border_and_several_on_one_cell(world):
    corners = [(0, 0), (0, 129), (89, 0), (89, 129)]
    points, label = world.points(4, 4)
    points = np.concatenate([points, corners, points[:1]])
    label = np.concatenate([label, [int(world.truth[corner]) for corner in corners], [1]])
    assert dice(world.segment(points, label).mask, world.truth) > 0.95


def test_cells_that_are_not_valid_change_nothing(world):
    valid = np.ones(world.shape, bool)
    valid[:, 100:] = False
    points, label = world.points(5, 5)
    keep = points[:, 1] < 100
    result = world.segment(points[keep], label[keep], valid=valid)
    for values in (result.u, result.z, result.probability):
        assert not values[~valid].any()
    assert dice(result.mask[valid], world.truth[valid]) > 0.95
    world.features[:, 100:] = 99
    np.testing.assert_array_equal(world.segment(points[keep], label[keep], valid=valid).z, result.z)


def test_points_off_the_tissue_are_left_out_with_a_note(world):
    points, label = world.points(4, 4)
    valid = np.ones(world.shape, bool)
    valid[tuple(points[4])] = False
    result = world.segment(points, label, valid=valid)
    assert result.notes == ("1 of 8 points lie off the tissue and were left out",)
    keep = np.arange(8) != 4
    np.testing.assert_array_equal(result.z, world.segment(points[keep], label[keep], valid=valid).z)


@pytest.mark.parametrize(("gone", "name"), [(1, "in-target"), (0, "out-of-target")])
def test_a_class_without_points_on_tissue_is_refused(world, gone, name):
    points, label = world.points(2, 3)
    valid = np.ones(world.shape, bool)
    valid[tuple(points[label == gone].T)] = False
    with pytest.raises(AnnotationError, match=rf"none of {np.sum(label == gone)} {name} points.*click {name}"):
        world.segment(points, label, valid=valid)
    with pytest.raises(AnnotationError, match=f"none of 0 {name} points"):
        world.segment(points[label != gone], label[label != gone])


def test_constant_features_segment_nothing_and_say_so(world):
    world.features[:] = 3
    result = world.segment()
    assert result.status == "constant"
    assert not result.mask.any()
    assert "do not differ" in result.notes[0]
    assert (result.z == 0.5).all()


def test_a_map_of_few_cells(world):
    small = World((6, 7), seed=3)
    small.truth[:] = False
    small.truth[:3] = True
    small.features[:] = np.where(small.truth, 1, -1)[..., None] + small.features * 0.01
    result = small.segment([(0, 1), (5, 5)], [1, 0])
    np.testing.assert_array_equal(result.mask, small.truth)


def test_large_maps_are_read_in_windows():
    world = World((300, 530))
    result = world.segment()
    assert dice(result.mask, world.truth) > 0.95
    sizes = [(rows.stop - rows.start, cols.stop - cols.start) for rows, cols in world.read_windows]
    assert max(sizes) == (256, 256)
    # Once for the sample, once for the contrast, and a few for the points.
    assert sum(a * b for a, b in sizes) < 300 * 530 * 2 + 8 * 256 * 256 + 200


def test_windows_without_tissue_are_not_read():
    world = World((300, 530))
    valid = np.zeros(world.shape, bool)
    valid[:256, :256] = True
    points, label = world.points(40, 40)
    keep = valid[tuple(points.T)]
    world.segment(points[keep], label[keep], valid=valid)
    assert max(rows.stop for rows, _ in world.read_windows) <= 257
    assert max(cols.stop for _, cols in world.read_windows) <= 257


def test_fixed_means_set_the_level(world):
    cells, label = world.points(4, 4)
    low = world.segment(cells, label, settings=SegmentSettings(landmarks=400, draws=2, means=(0.5, 0.1)))
    high = world.segment(cells, label, settings=SegmentSettings(landmarks=400, draws=2, means=(0.95, 0.6)))
    assert high.mask.sum() < low.mask.sum()


def test_what_cannot_be_segmented_is_refused(world, monkeypatch):
    points, label = world.points(2, 2)
    with pytest.raises(NumericsError, match=r"outside a map"):
        world.segment([(0, 0), (90, 5)], [1, 0])
    with pytest.raises(NumericsError, match="as many labels 0 or 1"):
        world.segment(points, [1, 0, 2, 0])
    with pytest.raises(NumericsError, match="as many labels 0 or 1"):
        world.segment(points, [1, 0])
    with pytest.raises(NumericsError, match=r"valid is a bool array of shape \(90, 130\)"):
        world.segment(points, label, valid=np.ones((3, 3), bool))
    with pytest.raises(NumericsError, match="came back with the shape"):
        segment_map(lambda rows, cols: world.features, world.shape, points, label, settings=QUICK)
    world.features[40, 40] = np.nan
    with pytest.raises(NumericsError, match="not finite"):
        world.segment(points, label)
    monkeypatch.setattr(module, "MAX_CELLS", 1000)
    with pytest.raises(NumericsError, match=r"90 x 130 cells is too large.*--stride or --mpp"):
        world.segment(points, label)

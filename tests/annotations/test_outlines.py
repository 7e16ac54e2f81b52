"""Areas from outlines."""

from __future__ import annotations

import numpy as np
import pytest
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box

from wsipipe.annotations.outlines import as_area, cut_holes, ellipse, outline, rectangle


def _array(*points):
    return np.array(points, dtype=float)


def test_a_simple_outline_is_kept_as_drawn():
    square = _array((0, 0), (10, 0), (10, 10), (0, 10))
    area = outline(square, [square * 0.5 + 1])
    assert isinstance(area, Polygon)
    assert area.area == 75
    assert len(area.interiors) == 1


def test_a_bow_tie_has_both_its_wings():
    area = outline(_array((0, 0), (10, 10), (10, 0), (0, 10)))
    assert isinstance(area, MultiPolygon)
    assert area.area == pytest.approx(50)


def test_a_loop_drawn_twice_is_no_hole():
    once = np.array([(np.cos(t), np.sin(t)) for t in np.linspace(0, 2 * np.pi, 60, endpoint=False)]) * 100
    spiral = np.concatenate([once, once[::1] * 0.7])
    area = outline(spiral)
    assert area.covers(Point(0, 0))
    assert area.area == pytest.approx(Polygon(once).area, rel=0.02)


def test_crossing_outlines_follow_the_nonzero_winding_rule():
    rng = np.random.default_rng(5)
    ring = rng.uniform(0, 100, (12, 2))
    area = outline(ring)
    places = rng.uniform(0, 100, (3000, 2))
    # Winding number by the sum of angles: another way to it than crossings.
    to = ring[None] - places[:, None]
    angle = np.arctan2(to[..., 1], to[..., 0])
    turn = np.diff(np.concatenate([angle, angle[:, :1]], axis=1), axis=1)
    winding = np.rint(((turn + np.pi) % (2 * np.pi) - np.pi).sum(axis=1) / (2 * np.pi))
    inside = np.array([area.covers(Point(place)) for place in places])
    assert 0.2 < inside.mean() < 0.8
    np.testing.assert_array_equal(inside, winding != 0)


def test_a_hole_that_crosses_itself_is_still_cut():
    area = outline(_array((0, 0), (20, 0), (20, 20), (0, 20)), [_array((5, 5), (15, 15), (15, 5), (5, 15))])
    assert area.is_valid
    assert area.area == pytest.approx(400 - 50)


@pytest.mark.parametrize("points", [[], [(1, 1)], [(1, 1), (2, 2)], [(1, 1), (2, 2), (3, 3)], [(1, 1)] * 4])
def test_nothing_enclosed_is_none(points):
    assert outline(np.array(points, dtype=float).reshape(-1, 2)) is None


def test_rectangles_from_two_or_four_corners():
    assert rectangle(_array((10, 5), (0, 0))).equals(box(0, 0, 10, 5))
    turned = rectangle(_array((0, 5), (5, 0), (10, 5), (5, 10)))
    assert turned.area == 50
    assert rectangle(_array((1, 1), (1, 9))) is None


@pytest.mark.parametrize("size", [(4, 2), (4000, 1000), (200_000, 100_000)])
def test_ellipses_fill_their_box(size):
    width, height = size
    area = ellipse(_array((100, 200), (100 + width, 200 + height)))
    assert area.area == pytest.approx(np.pi * width * height / 4, rel=0.01)
    np.testing.assert_allclose(area.bounds, (100, 200, 100 + width, 200 + height), atol=0.11)
    corners = _array((100, 200), (100 + width, 200), (100 + width, 200 + height), (100, 200 + height))
    assert ellipse(corners).equals(area)


def test_an_ellipse_of_many_points_is_taken_as_drawn():
    drawn = _array((0, 5), (5, 0), (10, 5), (8, 9), (2, 9))
    assert ellipse(drawn).equals(Polygon(drawn))


def test_ellipse_stays_within_its_tolerance():
    area = ellipse(_array((0, 0), (2000, 2000)))
    distance = np.hypot(*(np.array(LineString(area.exterior).segmentize(1).coords) - 1000).T)
    assert distance.min() > 1000 - 0.1


def test_holes_are_cut_out_of_what_holds_them():
    left, unused = cut_holes([box(0, 0, 10, 10), box(20, 0, 30, 10)], [box(2, 2, 4, 4), box(50, 50, 60, 60)])
    assert unused == 1
    assert [area.area for area in left] == [96, 100]
    assert len(left[0].interiors) == 1


def test_an_island_in_a_hole_stays():
    left, unused = cut_holes([box(0, 0, 10, 10), box(4, 4, 6, 6)], [box(2, 2, 8, 8)])
    assert unused == 0
    assert [area.area for area in left] == [64, 4]


def test_a_hole_over_the_edge_bites():
    left, _ = cut_holes([box(0, 0, 10, 10)], [box(5, -5, 20, 20)])
    assert left[0].equals(box(0, 0, 5, 10))


def test_stray_lines_are_no_area():
    assert as_area(LineString([(0, 0), (1, 1)])) is None
    assert as_area(MultiPolygon([box(0, 0, 1, 1)])) == box(0, 0, 1, 1)

"""The set of points itself."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from wsipipe.annotations.points import PointSet
from wsipipe.errors import AnnotationError


def _points():
    xy = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    return PointSet(xy, np.array([1, 0, 1]), ("a", "b", "c"), Path("p.csv"), notes=("n",), slides=("s",))


def test_both_sides():
    points = _points()
    assert len(points) == 3
    assert points.in_target.tolist() == [[1, 2], [5, 6]]
    assert points.out_of_target.tolist() == [[3, 4]]


@pytest.mark.parametrize("keep", [np.array([True, False, True]), np.array([0, 2])])
def test_subsets_keep_everything_else(keep):
    part = _points().subset(keep)
    assert part.class_names == ("a", "c")
    assert part.label.tolist() == [1, 1]
    assert (part.source, part.notes, part.slides) == (Path("p.csv"), ("n",), ("s",))


def test_pickling_keeps_everything():
    again = pickle.loads(pickle.dumps(_points()))
    np.testing.assert_array_equal(again.xy, _points().xy)
    assert again.notes == ("n",)


def test_what_does_not_fit_is_refused():
    with pytest.raises(AnnotationError, match=r"p.csv: points need .* \(2, 2\), \(1,\) and 1"):
        PointSet(np.zeros((2, 2)), np.array([1]), ("a",), Path("p.csv"))
    with pytest.raises(AnnotationError, match="not finite"):
        PointSet(np.array([[np.inf, 0.0]]), np.array([1]), ("a",))

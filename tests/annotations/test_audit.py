"""Checks of points."""

from __future__ import annotations

import numpy as np
import pytest

from wsipipe.annotations.audit import (
    audit_points,
    audit_source,
    audit_tissue,
    check_points,
    check_source,
    points_off_tissue,
    refuse,
)
from wsipipe.annotations.points import PointSet
from wsipipe.annotations.reading import read_points
from wsipipe.errors import AnnotationError
from wsipipe.geometry import CellGrid


def points_of(*rows, notes=()):
    xy = np.array([row[:2] for row in rows], dtype=np.float64).reshape(-1, 2)
    label = np.array([row[2] for row in rows], dtype=np.int64)
    return PointSet(xy, label, tuple("Tumor" if value else "Stroma" for value in label), notes=notes)


GOOD = points_of((10, 20, 1), (30, 40, 0), (0, 0, 0))


def kinds(findings):
    return [(finding.kind, finding.severity, finding.indices) for finding in findings]


def test_good_points_pass_unchanged():
    assert audit_points(GOOD, width=100, height=50) == []
    assert check_points(GOOD, width=100, height=50) is GOOD


def test_points_outside_the_slide():
    points = points_of((10, 20, 1), (-0.5, 3, 0), (100, 5, 1), (5, 50, 0), (99.9, 49.9, 0))
    assert kinds(audit_points(points, width=100, height=50)) == [("outside", "error", (1, 2, 3))]
    with pytest.raises(
        AnnotationError,
        match=r"p.csv: 3 of 5 points lie outside the slide of 100 x 50 px: \(-0.5, 3.0\) 'Stroma' "
        r"\(the file may belong to another slide, or .* --no-crop\)",
    ):
        check_points(points, width=100, height=50, source="p.csv")


def test_no_points():
    with pytest.raises(AnnotationError, match="holds no points"):
        check_points(points_of(), width=100, height=50)


def test_one_class_only():
    points = points_of((10, 20, 1), (11, 30, 1), notes=("left out, ...: points of 'Fat' (2)",))
    with pytest.raises(
        AnnotationError, match=r"in-target points only.*'Tumor' \(2\).*points of 'Fat' \(2\).*--negative"
    ):
        check_points(points, width=100, height=50)
    with pytest.raises(AnnotationError, match=r"out-of-target points only, no in-target ones.*--positive"):
        check_points(points_of((10, 20, 0)), width=100, height=50)
    assert check_points(points, width=100, height=50, allow_one_class=True) is points


def test_two_classes_on_one_spot():
    points = points_of((10, 20, 1), (30, 40, 1), (10.5, 20, 0), (60, 20, 0))
    assert kinds(audit_points(points, width=100, height=50)) == [("contradiction", "error", (0, 2))]
    with pytest.raises(
        AnnotationError, match=r"1 in-target points lie on the spot .* \(10.0, 20.0\) 'Tumor' and \(10.5"
    ):
        check_points(points, width=100, height=50)
    assert audit_points(points, width=100, height=50, min_distance_px=0.4) == []


def test_two_classes_in_one_map_cell():
    points = points_of((17, 17, 1), (30, 30, 0), (33, 30, 0))
    coarse, fine = CellGrid.covering(100, 50, 16), CellGrid.covering(100, 50, 8)
    assert kinds(audit_points(points, width=100, height=50, grid=coarse)) == [("contradiction", "error", (0, 1))]
    assert audit_points(points, width=100, height=50, grid=fine) == []


def test_two_classes_in_the_margin_around_a_map_share_its_edge():
    points = points_of((2, 33, 1), (13, 32, 0), (60, 40, 0))
    grid = CellGrid(3, 6, 10.0, (12.0, 12.0))  # its first column is [12, 22)
    assert kinds(audit_points(points, width=84, height=54, grid=grid)) == [("contradiction", "error", (0, 1))]


def test_a_pair_that_is_close_and_in_one_cell_counts_once():
    points = points_of((17, 17, 1), (17, 17, 0))
    (finding,) = audit_points(points, width=100, height=50, grid=CellGrid.covering(100, 50, 16))
    assert finding.message.startswith("1 in-target points")


def test_exact_duplicates_are_dropped_with_a_note():
    points = points_of((10, 20, 1), (30, 40, 0), (10, 20, 1), (10, 20, 1))
    assert kinds(audit_points(points, width=100, height=50)) == [("duplicate", "note", (2, 3))]
    kept = check_points(points, width=100, height=50)
    assert kept.xy.tolist() == [[10, 20], [30, 40]]
    assert kept.notes == ("left out: exact duplicates (2)",)


def test_the_first_error_names_how_many_more():
    points = points_of((10, 20, 1), (10, 20, 0), (1000, 0, 0))
    with pytest.raises(AnnotationError, match=r"outside the slide.*; and 1 more: contradiction"):
        check_points(points, width=100, height=50)
    refuse([])


def test_points_that_are_no_numbers_are_refused_at_the_door():
    with pytest.raises(AnnotationError, match="not finite"):
        points_of((float("nan"), 1, 1))


def _tissue():
    """Tissue in the right half of 4 x 6 cells of 10 px, laid 5 px to the right."""
    mask = np.zeros((4, 6), dtype=bool)
    mask[:, 3:] = True
    return mask, CellGrid(4, 6, 10.0, origin=(5.0, 0.0))


def test_points_off_the_tissue():
    mask, grid = _tissue()
    points = points_of((36, 5, 1), (34, 5, 1), (26, 5, 0), (24, 5, 1), (500, 500, 0), (-500, 5, 0), (64.9, 39.9, 1))
    assert points_off_tissue(points, mask, grid, tolerance_cells=0).tolist() == [1, 2, 3, 4, 5]
    assert points_off_tissue(points, mask, grid).tolist() == [3, 4, 5]


def test_off_tissue_agrees_with_a_plain_loop():
    rng = np.random.default_rng(1)
    mask, grid = rng.random((9, 13)) < 0.1, CellGrid(9, 13, 7.5, origin=(-3.0, 4.0))
    points = points_of(*((x, y, 1) for x, y in rng.uniform(-40, 140, (300, 2))))
    for tolerance in (0, 1, 2):
        plain = []
        for i, (row, col) in enumerate(grid.cells_of(points.xy)):
            window = mask[
                max(row - tolerance, 0) : max(row + tolerance + 1, 0),
                max(col - tolerance, 0) : max(col + tolerance + 1, 0),
            ]
            if not window.any():
                plain.append(i)
        assert points_off_tissue(points, mask, grid, tolerance_cells=tolerance).tolist() == plain


def test_glass_may_hold_out_of_target_points_only():
    mask, grid = _tissue()
    findings = audit_tissue(points_of((50, 5, 1), (10, 5, 1), (10, 6, 0)), mask, grid)
    assert kinds(findings) == [("off tissue", "error", (1,)), ("off tissue", "note", (2,))]
    with pytest.raises(AnnotationError, match=r"1 of 2 in-target points lie off the tissue: \(10.0, 5.0\) 'Tumor'"):
        refuse(findings)
    assert audit_tissue(points_of((50, 5, 1)), mask, grid) == []


@pytest.mark.parametrize(
    ("name", "severity"),
    [
        ("case-1.geojson", None),
        ("points_CASE-1.geojson.gz", None),
        ("points.csv", None),
        ("case-2.geojson", "error"),
        ("case-2_tumor.xml", "warning"),
        ("case-1_and_case-2.csv", None),
        ("case-10.geojson", "error"),
        ("case-100.geojson", None),
    ],
)
def test_a_file_with_the_name_of_another_slide(name, severity):
    findings = audit_source(f"/x/{name}", "case-1", other_keys=["case-1", "case-2", "case-10"])
    assert [finding.severity for finding in findings] == ([severity] if severity else [])


def test_a_file_made_on_another_slide():
    with pytest.raises(AnnotationError, match=r"p.xml: was made on 'C:\\\\b.svs', not on slide 'a'"):
        check_source("p.xml", "a", slides=[r"C:\b.svs"])
    assert check_source("p.xml", "a", slides=["A.svs"]) == []
    (warning,) = check_source("b_points.xml", "a", other_keys=["b"])
    assert (warning.kind, warning.severity) == ("other slide", "warning")


def test_real_points_on_their_slide(shared):
    points = read_points(shared / "annotations" / "points_TCGA-CR-7395.geojson")
    assert len(check_points(points, width=4443, height=3567)) == 16
    assert audit_source(points.source, "TCGA-CR-7395", other_keys=["CMU-1-Small-Region"]) == []
    with pytest.raises(AnnotationError, match=r"10 of 16 points lie outside the slide of 2220 x 2967 px"):
        check_points(points, width=2220, height=2967)

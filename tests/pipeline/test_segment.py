"""Segmenting from points: finds what the points mean, refuses points that cannot be meant, recognises its work."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import tifffile

from slidemaker import write_slide
from wsipipe.annotations.classes import choose_classes
from wsipipe.annotations.points import PointSet
from wsipipe.config import Recipe, parse_recipe
from wsipipe.errors import AnnotationError, WsipipeError
from wsipipe.numerics.metrics import dice
from wsipipe.pipeline.marked_points import check_one_file_each, class_told, points_file, target_class
from wsipipe.pipeline.segment import feature_recipe, segment_slide
from wsipipe.slides import list_slides

MARKED = {
    "Tumor": ((640, 512), (560, 460), (700, 600)),
    # One beside the disc and one beside the glass: what is like no point at all would be anybody's guess.
    "Stroma": ((200, 200), (1050, 300), (300, 820), (640, 250), (140, 500)),
}
RECIPE = parse_recipe({"segment": {"mpp": 1.0, "stride_px": 8, "landmarks": 300, "draws": 1}})


@pytest.fixture(scope="module")
def two_stains():
    """Glass with a disc of dark speckle on a field of pale speckle: (picture, truth)."""
    rng = np.random.default_rng(0)
    rows, cols = np.mgrid[:1024, :1280]
    disc = (rows - 512) ** 2 + (cols - 640) ** 2 < 220**2
    field = (abs(rows - 512) < 400) & (abs(cols - 640) < 520)
    grain = rng.normal(0, 18, (1024, 1280, 1))
    color = np.where(disc[..., None], (110, 60, 140), np.where(field[..., None], (215, 150, 190), (243, 243, 243)))
    picture = np.clip(color + grain * field[..., None], 0, 255).astype(np.uint8)
    return picture, disc


@pytest.fixture
def project(tmp_path, two_stains):
    slide = write_slide(tmp_path / "disc.svs", two_stains[0])
    points = tmp_path / "disc.csv"
    points.write_text("x,y,label\n" + "".join(f"{x},{y},{name}\n" for name, xy in MARKED.items() for x, y in xy))
    return list_slides([slide])[0], points, tmp_path / "out"


def test_the_marked_region_is_found(project, two_stains):
    entry, points, out = project
    outcome = segment_slide(entry, points=points, out=out, recipe=RECIPE)
    mask = tifffile.imread(outcome.outputs[0]) > 0
    step = 1024 // mask.shape[0]
    assert dice(mask, two_stains[1][step // 2 :: step, step // 2 :: step]) > 0.95


def test_work_is_recognised_by_points_and_settings(project):
    entry, points, out = project
    run = lambda recipe=RECIPE: segment_slide(entry, points=points, out=out, recipe=recipe).status  # noqa: E731
    assert [run(), run()] == ["done", "skipped"]
    assert run(parse_recipe({"segment": RECIPE.segment.model_dump() | {"seed": 1}})) == "done"
    points.write_text(points.read_text() + "640,700,Tumor\n")
    assert run() == "done"
    report = json.loads((out / "masks" / "disc.report.json").read_text())
    assert len(report["provenance"]["points"]) == 9


@pytest.mark.parametrize(
    ("names", "target"),
    [(["Tumor", "Tumor"], "Tumor"), (["Gland"], "Gland"), (["Gland", "Duct"], "Tumor"), (["1"], "Tumor")],
)
def test_the_target_has_the_name_of_its_points_where_they_have_one(names, target):
    label = np.array([*(1 for _ in names), 0], np.int64)
    points = PointSet(np.zeros((len(label), 2)), label, (*names, "Stroma"))
    assert target_class(points) == target
    assert class_told(points) == ({} if target == "Tumor" else {"class": target})


def test_the_marked_region_bears_the_name_of_its_points(project):
    entry, points, out = project
    points.write_text(points.read_text().replace("Tumor", "Gland"))
    go = partial(segment_slide, entry, points=points, out=out, recipe=RECIPE, classes=choose_classes(["Gland"]))
    assert list(json.loads(go().outputs[-1].read_text())["classes"]) == ["Gland"]
    assert go().status == "skipped"


def test_points_of_a_folder_are_found_by_name(project, tmp_path):
    entry, points, _out = project
    assert points_file(tmp_path, entry.key) == points
    with pytest.raises(AnnotationError, match=r"holds none for slide other.*other\.geojson"):
        points_file(tmp_path, "other")
    (tmp_path / "disc.geojson").write_text("[]")
    with pytest.raises(AnnotationError, match=r"holds disc\.geojson, disc\.csv"):
        points_file(tmp_path, entry.key)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("", "no points"),
        ("640,512,Tumor\n", "out-of-target"),
        ("200,200,Stroma\n", "in-target"),
        ("640,512,Tumor\n99999,1,Stroma\n", "outside the slide of 1280 x 1024"),
        ("640,512,Tumor\n640.5,512,Stroma\n", "spot"),
        ("640,512,Tumor\n644,516,Stroma\n", "spot|cell"),
        ("5,5,Tumor\n200,200,Stroma\n", "off the tissue"),
        ("640,512,Banana\n", "Banana"),
    ],
)
def test_points_that_cannot_be_meant_are_refused(project, rows, told):
    entry, points, out = project
    points.write_text("x,y,label\n" + rows)
    with pytest.raises(AnnotationError, match=told):
        segment_slide(entry, points=points, out=out, recipe=RECIPE)
    assert not (out / "masks").exists()
    assert not (out / "features").exists(), "points are checked before anything is computed"


def test_points_of_a_neighbouring_slide_are_refused(project, tmp_path):
    entry, points, out = project
    (tmp_path / "other.svs").write_bytes(entry.path.read_bytes())
    wrong = points.rename(tmp_path / "other.csv")
    with pytest.raises(AnnotationError, match="belongs to slide 'other'"):
        segment_slide(entry, points=wrong, out=out, recipe=RECIPE)


def test_the_segment_section_decides_about_features():
    recipe = feature_recipe(Recipe())
    assert (recipe.encoder.name, recipe.encoder.kind) == ("filterbank", "dense")
    assert (recipe.tile.mpp, recipe.encoder.stride_px) == (Recipe().segment.mpp, Recipe().segment.stride_px)


def test_a_map_cut_off_is_made_again(project):
    """A feature map that a full disk or a copy cut short is not taken for finished."""
    entry, points, out = project
    first = segment_slide(entry, points=points, out=out, recipe=RECIPE)
    before = tifffile.imread(first.outputs[2])
    features = next((out / "features").rglob("disc.h5"))
    features.write_bytes(features.read_bytes()[: features.stat().st_size // 2])
    again = segment_slide(entry, points=points, out=out, recipe=RECIPE, force=True)
    np.testing.assert_array_equal(tifffile.imread(again.outputs[2]), before)


def test_an_output_in_the_way_is_told(project, tmp_path):
    entry, points, _ = project
    (tmp_path / "blocked").write_text("")
    with pytest.raises(WsipipeError, match="blocked"):
        segment_slide(entry, points=points, out=tmp_path / "blocked", recipe=RECIPE)


def test_one_file_of_clicks_is_not_spread_over_several_slides(project, tmp_path):
    _, points, _ = project
    check_one_file_each(points, ["disc"])
    check_one_file_each(tmp_path, ["disc", "other"])
    with pytest.raises(AnnotationError, match=r"is one file of points for 2 slides.*folder"):
        check_one_file_each(points, ["disc", "other"])
    table = tmp_path / "all.csv"
    table.write_text("slide,x,y,label\ndisc,1,2,Tumor\nother,3,4,Stroma\n")
    check_one_file_each(table, ["disc", "other"])


def test_a_mask_of_other_features_is_not_up_to_date(project, monkeypatch):
    """What changes features (weights, a new version of the tissue detector) makes the mask old."""
    entry, points, out = project
    segment_slide(entry, points=points, out=out, recipe=RECIPE)
    monkeypatch.setattr("wsipipe.pipeline.feature_plan.REVISION", 99)
    assert segment_slide(entry, points=points, out=out, recipe=RECIPE).status == "done"


def test_points_that_do_not_differ_are_told(project, monkeypatch):
    """What the segmentation has to say reaches the user, not the report alone."""
    entry, points, out = project
    monkeypatch.setattr("wsipipe.numerics.point_segmentation.NOTHING", 10.0)  # every contrast counts as none
    with pytest.warns(UserWarning, match="nothing is segmented"):
        segment_slide(entry, points=points, out=out, recipe=RECIPE)

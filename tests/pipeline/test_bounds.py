"""Slides whose scanned area begins inside the frame, as in MIRAX: QuPath counts from there, others do not."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import shapely
import tifffile

from slidemaker import write_slide
from wsipipe.annotations.reading import read_points, read_regions
from wsipipe.config import parse_recipe
from wsipipe.geometry import CellGrid
from wsipipe.numerics.polygons import rasterize
from wsipipe.pipeline.evaluate import score_pair
from wsipipe.pipeline.evaluation_pairs import Pair
from wsipipe.pipeline.export import Exporting, export_mask
from wsipipe.pipeline.point_audit import Auditing, audit_slide
from wsipipe.pipeline.point_files import write_points
from wsipipe.pipeline.segment import segment_slide
from wsipipe.slides import list_slides, open_slide, openslide_reader

RECIPE = parse_recipe({"segment": {"mpp": 1.0, "stride_px": 8, "landmarks": 300, "draws": 1}})
CORNER = (96, 48)
MARKED = {
    "Tumor": ((640, 512), (560, 460), (700, 600)),
    "Stroma": ((200, 200), (1050, 300), (300, 820), (640, 250), (140, 500)),
}


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(0)
    rows, cols = np.mgrid[:1024, :1280]
    disc = (rows - 512) ** 2 + (cols - 640) ** 2 < 220**2
    field = (abs(rows - 512) < 400) & (abs(cols - 640) < 520)
    color = np.where(disc[..., None], (110, 60, 140), np.where(field[..., None], (215, 150, 190), (243, 243, 243)))
    return np.clip(color + rng.normal(0, 18, (1024, 1280, 1)) * field[..., None], 0, 255).astype(np.uint8)


@pytest.fixture
def entry(tmp_path, picture, monkeypatch):
    """A slide with the properties that OpenSlide gives for MIRAX."""
    told = dict(zip(("x", "y", "width", "height"), map(str, (*CORNER, 1100, 900)), strict=True))
    properties = {f"openslide.bounds-{name}": value for name, value in told.items()}
    bounds = openslide_reader._bounds
    monkeypatch.setattr(openslide_reader, "_bounds", lambda own: bounds({**own, **properties}))
    (found,) = list_slides([write_slide(tmp_path / "disc.svs", picture)])
    with open_slide(found.path) as slide:
        assert (slide.bounds.x, slide.bounds.y) == CORNER
    return found


def qupath_points(path, corner):
    """Points as QuPath writes them: no word of the frame."""
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "MultiPoint", "coordinates": [[x - corner[0], y - corner[1]] for x, y in places]},
            "properties": {"objectType": "annotation", "classification": {"name": name}},
        }
        for name, places in MARKED.items()
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def from_qupath(path, target):
    """What QuPath makes of a file that it imports and exports: the same numbers, nothing of ours."""
    data = json.loads(path.read_text())
    target.write_text(json.dumps({"type": "FeatureCollection", "features": data["features"]}))
    return target


def mask_of(outcome):
    pixels = tifffile.imread(outcome.outputs[0]) > 0
    return pixels, CellGrid(*pixels.shape, 1280 / pixels.shape[1])


def test_points_from_qupath_and_polygons_to_qupath_are_in_its_frame(entry, tmp_path):
    points = qupath_points(tmp_path / "disc.geojson", CORNER)
    outcome = segment_slide(entry, points=points, out=tmp_path / "out", recipe=RECIPE)
    pixels, grid = mask_of(outcome)
    assert pixels[grid.cells_of(MARKED["Tumor"])[:, 0], grid.cells_of(MARKED["Tumor"])[:, 1]].all()
    written = outcome.outputs[3]
    data = json.loads(written.read_text())
    assert (data["wsipipe"]["frame"], data["wsipipe"]["offset_px"]) == ("bounds", list(CORNER))
    middle = shapely.geometry.shape(data["features"][0]["geometry"]).centroid
    assert (middle.x, middle.y) == pytest.approx((640 - CORNER[0], 512 - CORNER[1]), abs=8)
    # Ours says its frame; QuPath's copy is placed by the slide's bounds.
    again = from_qupath(written, tmp_path / "copy.geojson")
    for file, offset in ((written, (0.0, 0.0)), (written, CORNER), (again, CORNER)):
        polygons = [region.geometry for region in read_regions(file, offset=offset)]
        np.testing.assert_array_equal(rasterize(polygons, grid), pixels)
    assert score_pair(Pair("disc", outcome.outputs[0], again)).figures()["dice"] == 1
    told = json.loads(outcome.outputs[-1].read_text())
    assert told["geojson_frame"] == {"unit": "level-0 px", "origin": [96.0, 48.0]}


def test_no_crop_means_the_frame_of_the_whole_slide_both_ways(entry, tmp_path):
    cropped, whole = (qupath_points(tmp_path / name / "disc.geojson", corner) for name, corner in _folders(tmp_path))
    first = segment_slide(entry, points=cropped, out=tmp_path / "out-a", recipe=RECIPE)
    second = segment_slide(entry, points=whole, out=tmp_path / "out-b", recipe=RECIPE, crop=False)
    np.testing.assert_array_equal(mask_of(first)[0], mask_of(second)[0])
    data = json.loads(second.outputs[3].read_text())
    assert (data["wsipipe"]["frame"], data["wsipipe"]["offset_px"]) == ("level-0", [0, 0])
    middle = shapely.geometry.shape(data["features"][0]["geometry"]).centroid
    assert (middle.x, middle.y) == pytest.approx((640, 512), abs=8)


def _folders(tmp_path):
    for name, corner in (("a", CORNER), ("b", (0, 0))):
        (tmp_path / name).mkdir()
        yield name, corner


def test_exports_audit_and_written_points_keep_to_the_frames(entry, tmp_path):
    points = qupath_points(tmp_path / "disc.geojson", CORNER)
    audit = audit_slide(entry, points, tmp_path / "out", Auditing(RECIPE, agreement=False))
    assert sorted((point.x, point.y) for point in audit.points) == sorted(itertools.chain(*MARKED.values()))
    outcome = segment_slide(entry, points=points, out=tmp_path / "out", recipe=RECIPE)
    pixels, grid = mask_of(outcome)
    for name, offset in (("geojson", CORNER), ("asap", CORNER), ("asap", (0.0, 0.0))):
        (made,) = export_mask(outcome.outputs[0], tmp_path / "exports", Exporting((name,))).outputs
        polygons = [region.geometry for region in read_regions(made, offset=offset)]
        np.testing.assert_array_equal(rasterize(polygons, grid), pixels)
    read = read_points(points, offset=CORNER)
    write_points(tmp_path / "again.geojson", read, slide="disc", offset=CORNER)
    raw = json.loads((tmp_path / "again.geojson").read_text())
    assert raw["features"][0]["geometry"]["coordinates"] == [[x - 96, y - 48] for x, y in MARKED["Tumor"]]
    assert read_points(tmp_path / "again.geojson", offset=CORNER).xy.tolist() == read.xy.tolist()

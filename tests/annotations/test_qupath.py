"""QuPath GeoJSON."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import pytest
from shapely.geometry import MultiPolygon, Polygon

from wsipipe.annotations.qupath import class_name, parse_qupath
from wsipipe.annotations.reading import read_marks, read_points, read_regions
from wsipipe.errors import AnnotationError

PATH = Path("some.geojson")
SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
HOLE = [[2, 2], [4, 2], [4, 4], [2, 4], [2, 2]]


def feature(geometry, **properties):
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def point(x, y):
    return {"type": "Point", "coordinates": [x, y]}


def parse(data):
    return parse_qupath(json.dumps(data), path=PATH)


def shifted(ring, dx):
    return [[x + dx, y] for x, y in ring]


def test_points_on_the_real_slide(shared):
    path = shared / "annotations" / "points_TCGA-CR-7395.geojson"
    points = read_points(path)
    raw = json.loads(path.read_text())["features"]
    by_hand = {item["properties"]["classification"]["name"]: item["geometry"]["coordinates"] for item in raw}
    assert points.in_target.tolist() == by_hand["Tumor"]
    assert points.out_of_target.tolist() == by_hand["Stroma"] + by_hand["Ignore*"]
    assert points.source == path
    assert points.notes == ()


def _shoelace(ring):
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in itertools.pairwise(ring))) / 2


def test_real_polygons_have_their_areas(shared):
    bare = shared / "annotations" / "qupath_polygon.geojson"
    parts = json.loads(bare.read_text())["coordinates"]
    area = sum(_shoelace(part[0]) - sum(map(_shoelace, part[1:])) for part in parts)
    (region,) = read_regions(bare)
    assert region.geometry.area == pytest.approx(area, rel=1e-9)
    assert sum(len(part.interiors) for part in region.geometry.geoms) == sum(len(part) - 1 for part in parts) > 0
    (roi,) = read_regions(shared / "annotations" / "qupath_JP2K-33003-1.geojson")
    assert (roi.class_name, roi.color) == ("ROI", (91, 136, 44))
    assert [part.area for part in roi.geometry.geoms] == [1835 * 2138, 3973 * 2811, 953 * 952]


def test_every_geometry():
    marks = parse(
        {
            "type": "FeatureCollection",
            "features": [
                feature(point(1, 2), classification="Tumor"),
                feature({"type": "MultiPoint", "coordinates": [[3, 4], [5.5, 6.5, 7]]}, classification="Stroma"),
                feature({"type": "Polygon", "coordinates": [SQUARE, HOLE]}, classification="A"),
                feature({"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE], [shifted(SQUARE, 20)]]}),
                feature(
                    {
                        "type": "GeometryCollection",
                        "geometries": [point(7, 8), {"type": "Polygon", "coordinates": [SQUARE]}],
                    },
                    classification="B",
                ),
                feature({"type": "LineString", "coordinates": [[0, 0], [1, 1]]}),
                feature({"type": "MultiLineString", "coordinates": [[[0, 0], [1, 1]]]}),
                feature({"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [0, 0]]]}),
                feature(None),
            ],
        }
    )
    assert [tuple(p) for p in marks.points] == [
        (1, 2, "Tumor", None),
        (3, 4, "Stroma", None),
        (5.5, 6.5, "Stroma", None),
        (7, 8, "B", None),
    ]
    assert [(r.class_name, r.geometry.area) for r in marks.regions] == [("A", 96), (None, 196), ("B", 100)]
    assert isinstance(marks.regions[0].geometry, Polygon)
    assert isinstance(marks.regions[1].geometry, MultiPolygon)
    assert [list(hole.coords) for hole in marks.regions[0].geometry.interiors] == [[tuple(xy) for xy in HOLE]]
    assert marks.ignored == {"line": 2, "outline without area": 1, "feature without geometry": 1}


def test_parts_that_overlap_count_once():
    (region,) = parse({"type": "MultiPolygon", "coordinates": [[SQUARE], [shifted(SQUARE, 5)]]}).regions
    assert region.geometry.area == 150


@pytest.mark.parametrize(
    "wrap",
    [
        lambda item: {"type": "FeatureCollection", "features": [item]},
        lambda item: [item],
        lambda item: item,
        lambda item: [{"type": "FeatureCollection", "features": [item]}],
    ],
)
def test_collections_arrays_and_single_features(wrap):
    assert parse(wrap(feature(point(1, 2), classification="Tumor"))).points == ((1, 2, "Tumor", None),)


def test_a_bare_geometry_has_no_class():
    assert parse(point(1, 2)).points == ((1, 2, None, None),)


def test_objects_inside_objects_are_found():
    child = feature(point(1, 1), classification="Tumor")
    parent = feature({"type": "Polygon", "coordinates": [SQUARE]}, classification="ROI", childObjects=[child])
    marks = parse(parent)
    assert len(marks.regions) == 1
    assert marks.points == ((1, 1, "Tumor", None),)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("Tumor", "Tumor"),
        ({"name": "Tumor", "color": [1, 2, 3]}, "Tumor"),
        ({"name": "Tumor", "colorRGB": -3670016}, "Tumor"),
        ({"names": ["Tumor", "Positive"]}, "Tumor: Positive"),
        ({"classification": {"name": "Tumor"}}, "Tumor"),
        ({"name": {"name": " Tumor "}}, "Tumor"),
        ({"name": None}, ""),
        ({}, ""),
        (None, ""),
        (3, ""),
    ],
)
def test_classifications(value, name):
    assert class_name(value) == name


def test_without_a_classification_the_name_counts():
    assert parse(feature(point(1, 2), name="Tumor")).points[0].class_name == "Tumor"
    assert parse(feature(point(1, 2), name="Tumor", classification="Stroma")).points[0].class_name == "Stroma"
    assert parse({"type": "Feature", "geometry": point(1, 2)}).points[0].class_name is None


@pytest.mark.parametrize(
    ("properties", "color"),
    [
        ({"classification": {"name": "A", "color": [1, 2, 3]}}, (1, 2, 3)),
        ({"classification": {"name": "A", "colorRGB": -3670016}}, (200, 0, 0)),
        ({"color": [4, 5, 600]}, (4, 5, 255)),
        ({"color": "red"}, None),
        ({}, None),
    ],
)
def test_colours(properties, color):
    (region,) = parse(feature({"type": "Polygon", "coordinates": [SQUARE]}, **properties)).regions
    assert region.color == color


def test_measurements_in_both_forms():
    shape = {"type": "Polygon", "coordinates": [SQUARE]}
    new, old = parse(
        [
            feature(shape, measurements={"Area": 2.5, "Mean": float("nan"), "Text": "x", "Huge": 10**400}),
            feature(shape, measurements=[{"name": "Area", "value": 3}]),
        ]
    ).regions
    assert new.measurements == {"Area": 2.5}
    assert old.measurements == {"Area": 3.0}


def test_our_own_frame_is_understood():
    data = {"type": "FeatureCollection", "features": [], "wsipipe": {"frame": "bounds", "offset_px": [100, 200.5]}}
    assert parse(data).frame_offset == (100, 200.5)
    assert parse(data | {"wsipipe": {"frame": "level-0", "slide": "a"}}).frame_offset == (0, 0)
    assert parse(data | {"wsipipe": {"frame": "level-0", "slide": "a"}}).slides == ("a",)
    del data["wsipipe"]
    assert parse(data).frame_offset is None
    with pytest.raises(AnnotationError, match="frame 'moon'"):
        parse(data | {"wsipipe": {"frame": "moon"}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type": "FeatureCollection",\n "features": [', r"line 2: is broken JSON"),
        ('{"type": "FeatureCollection"}', "features: expected a list, found None"),
        ('{"features": []}', "no GeoJSON"),
        ('{"type": "Topology"}', "unknown type 'Topology'"),
        ("[1]", "no GeoJSON: found 1"),
        ('{"type": "Feature", "geometry": 3}', "feature 1: its geometry is 3"),
        ('{"type": "Curve", "coordinates": []}', "feature 1: unknown type of geometry 'Curve'"),
        ('{"type": "Point", "coordinates": [1]}', r"feature 1: \[1\] is no position"),
        ('{"type": "Point", "coordinates": ["1", 2]}', "is no position"),
        ('{"type": "Point", "coordinates": [true, 2]}', "is no position"),
        ('{"type": "Point", "coordinates": [null, 2]}', "is no position"),
        ('{"type": "Point", "coordinates": [NaN, 2]}', "is no pixel of a slide"),
        ('{"type": "Point", "coordinates": [1e999, 2]}', "is no pixel of a slide"),
        ('{"type": "Point", "coordinates": [1e12, 2]}', "is no pixel of a slide"),
        ('{"type": "Point", "coordinates": [1' + 400 * "0" + ", 2]}", "is no pixel of a slide"),
        ('{"type": "Point", "coordinates": [1' + 5000 * "0" + ", 2]}", "broken JSON"),
        ('{"type": "Point"}', "no GeoJSON"),
        ('{"type": "MultiPoint", "coordinates": {}}', "expected a list"),
        ('{"type": "Polygon", "coordinates": [3]}', "expected a list, found 3"),
        ('{"type": "MultiPolygon", "coordinates": [[3]]}', "expected a list, found 3"),
        ('{"type": "GeometryCollection", "geometries": 3}', "expected a list"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_broken_files(text, message):
    with pytest.raises(AnnotationError, match=message) as caught:
        parse_qupath(text, path=PATH)
    assert caught.value.path == PATH


def test_geometry_collections_may_not_nest_without_end():
    text = '{"type":"GeometryCollection","geometries":[' * 480 + "]}" * 480
    with pytest.raises(AnnotationError, match="nested too deeply"):
        parse_qupath(text, path=PATH)


def test_gzip_and_byte_order_mark(tmp_path):
    text = json.dumps(feature(point(1, 2), classification="Tumor"))
    for number, data in enumerate([gzip.compress(text.encode()), text.encode("utf-8-sig"), text.encode("utf-16")]):
        path = tmp_path / f"{number}.json"
        path.write_bytes(data)
        assert read_marks(path).points == ((1, 2, "Tumor", None),)

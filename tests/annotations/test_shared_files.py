"""Every shared annotation file against a count of its own: plain json, xml and shapely, none of our readers."""

from __future__ import annotations

import json
from collections import Counter
from xml.etree import ElementTree

import pytest
import shapely
from shapely.geometry import Polygon, shape

from wsipipe.annotations.reading import read_marks, read_points

pytestmark = pytest.mark.shared


def _rings(path, regions, vertex):
    """Class, sign and vertices of every drawn line."""
    root = ElementTree.parse(path).getroot()
    parents = {child: parent for parent in root.iter() for child in parent}
    for region in root.iter(regions):
        layer = parents[parents[region]]
        name = region.get("PartOfGroup") or layer.get("Name") or None
        xy = [(float(node.get("X")), float(node.get("Y"))) for node in region.iter(vertex)]
        yield name, region.get("NegativeROA") == "1", xy


def _faces(xy):
    """Smallest and largest area that a line can be said to enclose: even-odd, and every loop of it."""
    loops = shapely.get_parts(shapely.polygonize([shapely.unary_union(shapely.LinearRing(xy))]))
    return shapely.make_valid(Polygon(xy)).area, shapely.union_all(loops).area


@pytest.mark.parametrize(
    ("name", "regions", "vertex", "count"),
    [
        ("asap_camelyon_normal_004.xml", "Annotation", "Coordinate", 39),
        ("asap_camelyon_tumor_021.xml", "Annotation", "Coordinate", 9),
        ("aperio_TCGA-B0-5711.xml", "Region", "Vertex", 342),
        ("halo_holes.annotations", "Region", "V", 6),
    ],
)
def test_xml_files_have_their_polygons_classes_and_areas(shared, name, regions, vertex, count):
    path = shared / "annotations" / name
    lines = list(_rings(path, regions, vertex))
    drawn, holes = ([line for line in lines if line[1] is negative] for negative in (False, True))
    marks = read_marks(path)
    assert len(marks.regions) == len(drawn) == count
    assert Counter(region.class_name for region in marks.regions) == Counter(line[0] for line in drawn)
    cut = sum(Polygon(xy).area for _, _, xy in holes)
    least, most = (sum(areas) - cut for areas in zip(*(_faces(xy) for _, _, xy in drawn), strict=True))
    total = sum(region.geometry.area for region in marks.regions)
    assert least * (1 - 1e-9) <= total <= most * (1 + 1e-9)
    assert most - least < 1e-3 * total, "loops drawn by hand are small, so that the two bounds say something"
    assert (len(marks.points), dict(marks.ignored)) == (0, {})
    assert all(region.geometry.is_valid for region in marks.regions)


@pytest.mark.parametrize("name", ["qupath_JP2K-33003-1.geojson", "qupath_polygon.geojson"])
def test_geojson_files_have_their_parts_and_areas(shared, name):
    path = shared / "annotations" / name
    data = json.loads(path.read_text())
    features = data if isinstance(data, list) else data.get("features", [data])
    expected = [shape(feature.get("geometry", feature)) for feature in features]
    found = [region.geometry for region in read_marks(path).regions]
    assert [shapely.get_num_geometries(one) for one in found] == [shapely.get_num_geometries(one) for one in expected]
    assert [one.area for one in found] == pytest.approx([one.area for one in expected], rel=1e-12)
    assert all(ours.equals(theirs) for ours, theirs in zip(found, expected, strict=True))


def test_points_have_their_classes(shared):
    path = shared / "annotations" / "points_TCGA-CR-7395.geojson"
    features = json.loads(path.read_text())["features"]
    clicked = Counter()
    for feature in features:
        clicked[feature["properties"]["classification"]["name"]] += len(feature["geometry"]["coordinates"])
    points = read_points(path)
    assert Counter(points.class_names) == clicked
    assert (len(points.in_target), len(points.out_of_target)) == (7, 9)


def test_no_file_is_left_out(shared):
    tested = {
        "asap_camelyon_normal_004.xml",
        "asap_camelyon_tumor_021.xml",
        "aperio_TCGA-B0-5711.xml",
        "halo_holes.annotations",
        "qupath_JP2K-33003-1.geojson",
        "qupath_polygon.geojson",
        "points_TCGA-CR-7395.geojson",
    }
    assert {file.name for file in (shared / "annotations").iterdir()} == tested

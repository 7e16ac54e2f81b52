"""Files of any format."""

from __future__ import annotations

import json

import numpy as np
import pytest
import shapely
from PIL import Image
from shapely.geometry import MultiPolygon, box

from wsipipe.annotations.classes import ClassMap, class_color
from wsipipe.annotations.reading import read_marks, read_points, read_regions, stem_of
from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.errors import AnnotationError
from wsipipe.store.geojson import write_geojson

TUMOR = {
    "type": "Feature",
    "geometry": {"type": "Point", "coordinates": [10, 20]},
    "properties": {"classification": "Tumor"},
}
STROMA = {
    "type": "Feature",
    "geometry": {"type": "Point", "coordinates": [30, 40]},
    "properties": {"classification": "Stroma"},
}
SQUARE = {
    "type": "Feature",
    "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]]},
    "properties": {},
}


def write(path, *features, **more):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features} | more))
    return path


@pytest.mark.parametrize(
    ("content", "count"),
    [
        (json.dumps(TUMOR), 1),
        ("\n\n " + json.dumps([TUMOR, TUMOR]), 2),
        ("x,y,label\n1,2,Tumor\n", 1),
        (
            '<ASAP_Annotations><Annotations><Annotation Type="Dot"><Coordinates><Coordinate X="1" Y="2"/></Coordinates>'
            "</Annotation></Annotations></ASAP_Annotations>",
            1,
        ),
        (
            '<Annotations><Annotation><Regions><Region Type="5"><Vertices><Vertex X="1" Y="1"/></Vertices></Region>'
            "</Regions></Annotation></Annotations>",
            1,
        ),
        (
            '<Annotations><Annotation><Regions><Region Type="Pin"><Vertices><V X="1" Y="1"/></Vertices></Region>'
            "</Regions></Annotation></Annotations>",
            1,
        ),
        ("<Annotations/>", 0),
    ],
)
def test_content_decides_not_the_name(tmp_path, content, count):
    path = tmp_path / "points.whatever"
    path.write_text(content)
    assert len(read_marks(path).points) == count


def test_bounds_are_added_and_taken_off_by_no_crop(tmp_path):
    path = write(tmp_path / "p.geojson", TUMOR, STROMA, SQUARE)
    assert read_points(path, offset=(1000, 2000.5)).xy.tolist() == [[1010, 2020.5], [1030, 2040.5]]
    assert read_points(path).xy.tolist() == [[10, 20], [30, 40]]
    (region,) = read_regions(path, offset=(1000, 2000.5))
    assert region.geometry.bounds == (1000, 2000.5, 1004, 2004.5)


def test_a_file_that_names_its_frame_knows_best(tmp_path):
    bounds = {"frame": "bounds", "offset_px": [100, 200]}
    path = write(tmp_path / "p.geojson", TUMOR, wsipipe=bounds)
    for offset in ((0, 0), (100, 200)):
        assert read_marks(path, offset=offset).points[0][:2] == (110, 220)
    with pytest.raises(AnnotationError, match=r"bounds start at \(100.0, 200.0\) px, not at \(7, 8\)"):
        read_marks(path, offset=(7, 8))
    path = write(tmp_path / "p.geojson", TUMOR, wsipipe={"frame": "level-0", "offset_px": [0, 0]})
    assert read_marks(path, offset=(100, 200)).points[0][:2] == (10, 20)


@pytest.mark.parametrize("name", ["r.geojson", "r.geojson.gz"])
@pytest.mark.parametrize("offset", [(0.0, 0.0), (1234.0, 567.5)])
def test_what_we_write_comes_back_in_its_place(tmp_path, name, offset):
    shell, hole = box(2000, 1000, 2100, 1050), box(2010, 1010, 2020, 1020)
    regions = [
        OutlinedRegion(shell - hole, "Tumor", (1, 2, 3), {"Area mm^2": 0.5}),
        OutlinedRegion(MultiPolygon([hole, shapely.affinity.translate(hole, 50)]), "Stroma"),
    ]
    write_geojson(tmp_path / name, regions, offset=offset)
    for said in ((0.0, 0.0), offset):
        again = read_regions(tmp_path / name, offset=said)
        assert [region.class_name for region in again] == ["Tumor", "Stroma"]
        assert all(new.geometry.equals(old.geometry) for new, old in zip(again, regions, strict=True))
        assert (again[0].color, dict(again[0].measurements)) == ((1, 2, 3), {"Area mm^2": 0.5})
        assert again[1].color == class_color("Stroma")


def test_only_qupath_crops(tmp_path):
    path = tmp_path / "p.xml"
    path.write_text(
        '<ASAP_Annotations><Annotations><Annotation Type="Dot"><Coordinates><Coordinate X="1" Y="2"/></Coordinates>'
        "</Annotation></Annotations></ASAP_Annotations>"
    )
    assert read_marks(path, offset=(100, 200)).points[0][:2] == (1, 2)


def test_polygons_beside_points_are_told_or_refused(tmp_path):
    path = write(tmp_path / "p.geojson", TUMOR, STROMA, SQUARE)
    assert read_points(path).notes == ("left out: 1 polygons",)
    with pytest.raises(AnnotationError, match="holds 1 polygons beside points"):
        read_points(path, polygons="error")


def test_no_points_at_all(tmp_path):
    with pytest.raises(AnnotationError, match=r"p.geojson: holds no points, but polygons \(1\)"):
        read_points(write(tmp_path / "p.geojson", SQUARE))
    with pytest.raises(AnnotationError, match=r"holds no points \(click"):
        read_points(write(tmp_path / "p.geojson"))
    assert read_regions(write(tmp_path / "p.geojson", TUMOR)) == []


def test_classes_that_match_nothing_are_listed_with_the_flags(tmp_path):
    path = write(tmp_path / "p.geojson", TUMOR, STROMA, STROMA)
    with pytest.raises(
        AnnotationError,
        match=r"classes found: 'Stroma' \(2\), 'Tumor' \(1\) \(name them with --positive CLASS and --neg",
    ):
        read_points(path, classes=ClassMap(positive=("Gland",), negative=("Fat",)))


def test_points_of_other_classes_are_left_out_and_told(tmp_path):
    path = write(tmp_path / "p.geojson", TUMOR, STROMA, STROMA)
    points = read_points(path, classes=ClassMap(positive=("Tumor",), negative=("Fat",)))
    assert points.class_names == ("Tumor",)
    assert points.notes == ("left out, neither in-target nor out-of-target: points of 'Stroma' (2)",)


def test_a_class_on_both_sides_names_the_file(tmp_path):
    path = write(tmp_path / "p.geojson", TUMOR)
    with pytest.raises(AnnotationError, match=r"p.geojson: class 'Tumor' is in-target by 'T\*'"):
        read_points(path, classes=ClassMap(positive=("T*",), negative=("*r",)))


def test_tables_of_several_slides(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("wsi,x,y,label\na.svs,1,2,1\nb.ome.tif,3,4,0\na,5,6,0\n")
    assert read_points(path, slide="a").xy.tolist() == [[1, 2], [5, 6]]
    assert read_points(path, slide="B").xy.tolist() == [[3, 4]]
    assert read_points(path, slide="a").slides == ("a.svs", "a")
    with pytest.raises(AnnotationError, match=r"holds points of 3 slides: a, a.svs, b.ome.tif"):
        read_points(path)
    with pytest.raises(AnnotationError, match=r"no points of slide 'c', but of a, a.svs"):
        read_points(path, slide="c")


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.svs", "a"),
        ("A.ome.tif", "a"),
        (r"C:\x\TCGA-1.2.svs", "tcga-1.2"),
        ("/x/b.TIFF", "b"),
        ("c", "c"),
    ],
)
def test_stems(name, stem):
    assert stem_of(name) == stem


def test_what_is_none_of_these_formats(tmp_path):
    path = tmp_path / "file.xml"
    path.write_text("<html/>")
    with pytest.raises(AnnotationError, match=r"XML of an unknown kind, <html> \(give QuPath GeoJSON"):
        read_points(path)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(AnnotationError, match="is a picture, not annotations"):
        read_points(tmp_path / "mask.png")
    path.write_bytes(b"\x89HDF\r\n\x1a\n\x00\x00\x01")
    with pytest.raises(AnnotationError, match="is no text file"):
        read_points(path)
    path.write_bytes(b"")
    with pytest.raises(AnnotationError, match="is empty"):
        read_points(path)


def test_every_real_file_cut_anywhere_gives_one_clear_error(shared, tmp_path):
    for source in sorted((shared / "annotations").iterdir()):
        whole = source.read_bytes()
        for share in (0.1, 0.5, 0.99):
            path = tmp_path / source.name
            path.write_bytes(whole[: int(len(whole) * share)])
            with pytest.raises(AnnotationError, match=r"line \d+: is broken"):
                read_marks(path)

"""ASAP files, read back by plain xml and by our own reader."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from shapely.geometry import MultiPolygon, Polygon, box

from wsipipe.annotations.reading import read_regions
from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.errors import StoreError
from wsipipe.store.asap import write_asap

HOLED = box(10, 10, 60, 50) - box(20, 20, 30, 30) - box(40, 12, 50, 45)


def test_a_file_is_what_asap_reads(tmp_path):
    path = tmp_path / "x.xml"
    pair = MultiPolygon([box(100, 100, 110, 110), box(200, 0, 210, 5.125)])
    write_asap(path, iter([OutlinedRegion(box(0, 0, 2, 1), 'A "<&>'), OutlinedRegion(pair, None, (1, 2, 255))]))
    root = ElementTree.parse(path).getroot()
    assert root.tag == "ASAP_Annotations"
    annotations = root.findall("./Annotations/Annotation")
    assert [(node.get("Name"), node.get("Type"), node.get("PartOfGroup")) for node in annotations] == [
        ("Annotation 0", "Polygon", 'A "<&>'),
        ("Annotation 1", "Polygon", "None"),
        ("Annotation 2", "Polygon", "None"),
    ]
    assert annotations[1].get("Color") == "#0102ff"
    corners = annotations[0].findall("./Coordinates/Coordinate")
    assert [node.get("Order") for node in corners] == ["0", "1", "2", "3"]
    assert {(float(node.get("X")), float(node.get("Y"))) for node in corners} == {(0, 0), (2, 0), (2, 1), (0, 1)}
    assert [node.get("Name") for node in root.findall("./AnnotationGroups/Group")] == ['A "<&>']


def test_holes_come_back(tmp_path):
    regions = [OutlinedRegion(HOLED, "Tumor"), OutlinedRegion(box(22, 22, 28, 28), "Tumor")]
    write_asap(tmp_path / "x.xml", regions)
    again = read_regions(tmp_path / "x.xml")
    assert [region.class_name for region in again] == ["Tumor", "Tumor"]
    assert again[0].color == (200, 0, 0)
    assert all(new.geometry.equals(old.geometry) for new, old in zip(again, regions, strict=True))
    assert len(again[0].geometry.interiors) == 2


def test_no_regions_are_a_valid_empty_file(tmp_path):
    write_asap(tmp_path / "x.xml", [])
    assert read_regions(tmp_path / "x.xml") == []


def test_impossible_regions_are_told_and_nothing_is_left(tmp_path):
    with pytest.raises(StoreError, match=r"x\.xml: region 1 is empty"):
        write_asap(tmp_path / "x.xml", [OutlinedRegion(HOLED), OutlinedRegion(Polygon())])
    assert not any(tmp_path.iterdir())

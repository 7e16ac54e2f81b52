"""ASAP XML."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wsipipe.annotations.asap import parse_asap
from wsipipe.annotations.reading import read_points, read_regions
from wsipipe.annotations.xmltree import parse_xml
from wsipipe.errors import AnnotationError

PATH = Path("some.xml")


def annotation(kind, points, *, group="Tumor", name="Annotation 0", color="#F4FA58"):
    listed = "\n".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(points))
    return (
        f'<Annotation Name="{name}" Type="{kind}" PartOfGroup="{group}" Color="{color}">'
        f"<Coordinates>{listed}</Coordinates></Annotation>"
    )


def document(*annotations):
    return (
        '<?xml version="1.0"?><ASAP_Annotations><Annotations>'
        + "".join(annotations)
        + '</Annotations><AnnotationGroups><Group Name="Tumor" PartOfGroup="None" Color="#64FE2E"><Attributes/></Group>'
        "</AnnotationGroups></ASAP_Annotations>"
    )


def parse(*annotations):
    return parse_asap(parse_xml(document(*annotations).encode(), path=PATH), path=PATH)


def _shoelace(ring):
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True))) / 2


@pytest.mark.parametrize(("name", "counts"), [("normal_004", {"tissue": 38, "trash": 1}), ("tumor_021", None)])
def test_real_files_have_their_counts_and_areas(shared, name, counts):
    path = shared / "annotations" / f"asap_camelyon_{name}.xml"
    blocks = re.findall(r"<Annotation Name.*?</Annotation>", path.read_text(), flags=re.DOTALL)
    rings = [[(float(x), float(y)) for x, y in re.findall(r' X="(.*?)" Y="(.*?)"', block)] for block in blocks]
    regions = read_regions(path)
    assert [region.geometry.area for region in regions] == pytest.approx([_shoelace(ring) for ring in rings], rel=1e-8)
    assert [region.class_name for region in regions] == re.findall(
        r'PartOfGroup="(tissue|trash|negative)"', path.read_text()
    )
    if counts:
        found = [region.class_name for region in regions]
        assert {group: found.count(group) for group in counts} == counts


def test_an_order_that_nobody_can_count_to_is_told():
    shape = annotation("Dot", [(1, 2)]).replace('Order="0"', f'Order="{"9" * 5000}"')
    with pytest.raises(AnnotationError, match=r"some\.xml: line \d+: an Order of 5000 digits"):
        parse(shape)


def test_every_type():
    square = [(0, 0), (10, 0), (10, 10), (0, 10)]
    marks = parse(
        annotation("Dot", [(1, 2)]),
        annotation("PointSet", [(3, 4), (5, 6)], group="Stroma"),
        annotation("Polygon", square),
        annotation("Spline", square),
        annotation("Rectangle", square),
        annotation("Measurement", [(0, 0), (1, 1)]),
        annotation("None", []),
        annotation("Polygon", [(0, 0), (1, 1)]),
    )
    assert marks.points == ((1, 2, "Tumor", None), (3, 4, "Stroma", None), (5, 6, "Stroma", None))
    assert [region.geometry.area for region in marks.regions] == [100, 100, 100]
    assert {region.color for region in marks.regions} == {(0xF4, 0xFA, 0x58)}
    assert marks.ignored == {"measurement": 1, "none": 1, "outline without area": 1}


def test_class_is_the_group_or_a_name_of_ones_own():
    marks = parse(
        annotation("Dot", [(1, 1)], group="None", name="Tumor"),
        annotation("Dot", [(1, 1)], group="None", name="Annotation 12"),
        annotation("Dot", [(1, 1)], group="Stroma", name="Tumor"),
    )
    assert [point.class_name for point in marks.points] == ["Tumor", None, "Stroma"]


def test_coordinates_follow_their_order_and_decimal_commas_are_read():
    text = document(
        '<Annotation Name="a" Type="PointSet" PartOfGroup="Tumor" Color="red"><Coordinates>'
        '<Coordinate Order="1" X="3,5" Y="4"/><Coordinate Order="0" X="1" Y="2"/></Coordinates></Annotation>'
    )
    marks = parse_asap(parse_xml(text.encode(), path=PATH), path=PATH)
    assert [(point.x, point.y) for point in marks.points] == [(1, 2), (3.5, 4)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (annotation("Blob", [(1, 1)]), "line 1: unknown type of annotation 'Blob'"),
        (annotation("Dot", [("x", 1)]), "line 1: X: 'x' is no coordinate"),
        (annotation("Dot", [("nan", 1)]), "is no coordinate"),
        (annotation("Dot", [("1e300", 1)]), "is no pixel of a slide"),
        ('<Annotation Type="Dot"><Coordinates><Coordinate X="1"/></Coordinates></Annotation>', "Y: None is no coord"),
    ],
)
def test_broken_annotations(text, message):
    with pytest.raises(AnnotationError, match=message) as caught:
        parse(text)
    assert caught.value.path == PATH


def test_points_by_default_groups(tmp_path):
    path = tmp_path / "dots.xml"
    path.write_text(document(annotation("Dot", [(1, 2)]), annotation("PointSet", [(3, 4), (5, 6)], group="Other")))
    points = read_points(path)
    assert points.label.tolist() == [1, 0, 0]
    assert points.xy.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_a_file_cut_in_the_middle(shared, tmp_path):
    whole = (shared / "annotations" / "asap_camelyon_tumor_021.xml").read_bytes()
    path = tmp_path / "cut.xml"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AnnotationError, match=r"cut.xml: line \d+: is broken XML"):
        read_regions(path)

"""Aperio ImageScope XML."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from shapely.geometry import LinearRing

from wsipipe.annotations.aperio import parse_aperio
from wsipipe.annotations.reading import read_marks, read_points, read_regions
from wsipipe.annotations.xmltree import parse_xml
from wsipipe.errors import AnnotationError

PATH = Path("some.xml")
SQUARE = [(0, 0), (10, 0), (10, 10), (0, 10)]


def region(kind, points, *, negative=0, **attributes):
    listed = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
    more = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return f'<Region Id="1" Type="{kind}" NegativeROA="{negative}"{more}><Vertices>{listed}</Vertices></Region>'


def layer(*regions, name="Tumor", color=255, description=""):
    return (
        f'<Annotation Id="1" Name="{name}" LineColor="{color}"><Attributes>'
        f'<Attribute Name="Description" Id="0" Value="{description}"/></Attributes>'
        f"<Regions><RegionAttributeHeaders/>{''.join(regions)}</Regions><Plots/></Annotation>"
    )


def document(*layers):
    return f'<Annotations MicronsPerPixel="0.25">{"".join(layers)}</Annotations>'


def parse(*layers):
    return parse_aperio(parse_xml(document(*layers).encode(), path=PATH), path=PATH)


def test_real_file_has_its_counts_and_areas(shared):
    path = shared / "annotations" / "aperio_TCGA-B0-5711.xml"
    blocks = re.findall(r"<Region .*?</Region>", path.read_text(), flags=re.DOTALL)
    regions = read_regions(path)
    assert len(regions) == len(blocks) == 342
    declared = [float(re.search(r' Area="([\d.]+)"', block)[1]) for block in blocks]
    rings = [np.array(re.findall(r'X="(.*?)" Y="(.*?)"', block), dtype=float) for block in blocks]
    drawn = [abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2 for x, y in (ring.T for ring in rings)]
    areas = [item.geometry.area for item in regions]
    # Outlines drawn by hand overshoot their start: loops of the size of a pixel, counted by us, not by the shoelace.
    assert areas == pytest.approx(drawn, rel=0.004)
    assert areas == pytest.approx(declared, rel=0.004, abs=0.1)
    simple = [LinearRing(ring).is_simple for ring in rings]
    assert 100 < sum(simple) < 342
    assert [area for area, once in zip(areas, simple, strict=True) if once] == pytest.approx(
        [area for area, once in zip(drawn, simple, strict=True) if once], rel=1e-9
    )
    assert all(item.geometry.is_valid and item.color == (0, 255, 0) for item in regions)


def test_every_type():
    marks = parse(
        layer(
            region(0, SQUARE),
            region(1, SQUARE),
            region(1, [(0, 0), (4, 5)]),
            region(2, [(0, 0), (20, 10)]),
            region(3, [(0, 0), (1, 1)]),
            region(4, [(0, 0), (1, 1)]),
            region(5, [(1, 2), (3, 4)]),
            region(0, [(5, 6)]),
            region(0, [(7, 8), (9, 9)], GeoShape="Points"),
            region(0, []),
        )
    )
    assert [item.geometry.area for item in marks.regions] == [100, 100, 20, pytest.approx(np.pi * 50, rel=0.01)]
    assert [(point.x, point.y) for point in marks.points] == [(1, 2), (3, 4), (5, 6), (7, 8), (9, 9)]
    assert marks.ignored == {"arrow": 1, "ruler": 1, "outline without area": 1}
    assert marks.regions[0].color == (255, 0, 0)


def test_negative_regions_are_holes_of_their_own_layer():
    hole = region(0, [(2, 2), (4, 2), (4, 4), (2, 4)], negative=1)
    marks = parse(layer(hole, region(0, SQUARE)), layer(region(0, SQUARE), name="Other"))
    assert [(item.class_name, item.geometry.area) for item in marks.regions] == [("Tumor", 96), ("Other", 100)]
    assert len(marks.regions[0].geometry.interiors) == 1
    assert parse(layer(hole)).ignored == {"negative region outside every region": 1}


def test_class_is_the_layer_its_description_or_the_text():
    marks = parse(
        layer(region(5, [(1, 1)], Text="x"), name="Tumor"),
        layer(region(5, [(1, 1)], Text="x"), name="", description="Stroma"),
        layer(region(5, [(1, 1)], Text="Other"), region(5, [(1, 1)]), name=""),
    )
    assert [point.class_name for point in marks.points] == ["Tumor", "Stroma", "Other", None]


def test_the_slide_is_known_where_imagescope_names_it(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(
        document(
            layer(region(5, [(1, 1)], ImageLocation=r"C:\slides\case-7.svs")), layer(region(5, [(2, 2)]), name="Other")
        )
    )
    assert read_marks(path).slides == ("case-7.svs",)
    assert read_points(path).slides == ("case-7.svs",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (region(9, SQUARE), "unknown type of region '9'"),
        (region(0, [("a", 1)]), "X: 'a' is no coordinate"),
        (region(0, [(1, "1e99")]), "is no pixel of a slide"),
    ],
)
def test_broken_regions(text, message):
    with pytest.raises(AnnotationError, match=rf"some.xml: line 1: .*{message}|line 1: {message}"):
        parse(layer(text))

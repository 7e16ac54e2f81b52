"""HALO annotations."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from wsipipe.annotations.halo import is_halo, parse_halo
from wsipipe.annotations.reading import read_points, read_regions
from wsipipe.annotations.xmltree import parse_xml
from wsipipe.errors import AnnotationError

PATH = Path("some.annotations")


def region(kind, points, *, negative=0):
    listed = "".join(f'<V X="{x}" Y="{y}" />' for x, y in points)
    attributes = f'Type="{kind}" HasEndcaps="0" NegativeROA="{negative}"'
    return f"<Region {attributes}><Vertices>{listed}</Vertices><Comments /></Region>"


def layer(*regions, name="Tumor"):
    return (
        f'<Annotation LineColor="65280" Name="{name}" Visible="True"><Regions>{"".join(regions)}</Regions></Annotation>'
    )


def parse(*layers):
    return parse_halo(parse_xml(f"<Annotations>{''.join(layers)}</Annotations>".encode(), path=PATH), path=PATH)


def test_real_file_has_its_counts_areas_and_hole(shared):
    path = shared / "annotations" / "halo_holes.annotations"
    blocks = re.findall(r"<Region .*?</Region>", path.read_text(), flags=re.DOTALL)
    rings = [np.array(re.findall(r'X="(.*?)" Y="(.*?)"', block), dtype=float).T for block in blocks]
    areas = [abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2 for x, y in rings]
    negative = ['NegativeROA="1"' in block for block in blocks]
    assert sum(negative) == 1
    regions = read_regions(path)
    assert [item.class_name for item in regions] == ["Layer 1", "Layer 1", "Layer 2", "Layer 3", "Layer 3", "Layer 3"]
    assert sum(item.geometry.area for item in regions) == pytest.approx(
        sum(-area if hole else area for area, hole in zip(areas, negative, strict=True)), rel=1e-7
    )
    assert [len(item.geometry.interiors) for item in regions] == [0, 0, 0, 1, 0, 0]
    assert regions[0].color == (255, 247, 85)


def test_every_type():
    marks = parse(
        layer(
            region("Polygon", [(0, 0), (10, 0), (10, 10), (0, 10), (0, 0)]),
            region("Polygon", [(2, 2), (4, 2), (4, 4), (2, 4)], negative=1),
            region("Rectangle", [(20, 0), (24, 5)]),
            region("Ellipse", [(40, 0), (60, 10)]),
            region("Ruler", [(0, 0), (9, 9)]),
            region("Pin", [(1, 2)]),
            region("Polygon", [(0, 0), (1, 1)]),
        )
    )
    assert [item.geometry.area for item in marks.regions] == [96, 20, pytest.approx(np.pi * 50, rel=0.01)]
    assert marks.points == ((1, 2, "Tumor", None),)
    assert marks.ignored == {"ruler": 1, "outline without area": 1}
    assert marks.regions[0].color == (0, 255, 0)


def test_halo_is_told_from_imagescope():
    assert is_halo(parse_xml(f"<Annotations>{layer(region('Pin', [(1, 2)]))}</Annotations>".encode(), path=PATH))
    assert not is_halo(
        parse_xml(b'<Annotations><Region Type="0"><Vertex X="1" Y="1"/></Region></Annotations>', path=PATH)
    )


def test_pins_become_points(tmp_path):
    path = tmp_path / "pins.annotations"
    path.write_text(
        f"<Annotations>{layer(region('Pin', [(1, 2)]))}{layer(region('Pin', [(3, 4)]), name='Stroma')}</Annotations>"
    )
    points = read_points(path)
    assert points.in_target.tolist() == [[1, 2]]
    assert points.out_of_target.tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (region("Star", [(1, 1)]), "line 1: unknown type of region 'Star'"),
        (region("Pin", [("", 1)]), "X: '' is no coordinate"),
        (region("Pin", [("-1e10", 1)]), "is no pixel of a slide"),
    ],
)
def test_broken_regions(text, message):
    with pytest.raises(AnnotationError, match=message) as caught:
        parse(layer(text))
    assert caught.value.path == PATH

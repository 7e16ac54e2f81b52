from __future__ import annotations

import gzip
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from shapely.geometry import LinearRing, MultiPolygon, Point, Polygon, box, shape

from wsipipe.annotations.classes import class_color
from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.errors import StoreError
from wsipipe.store.geojson import write_geojson

HOLED = Polygon(
    [(10, 10), (10, 50), (60, 50), (60, 10)], [[(20, 20), (30, 20), (30, 30), (20, 30)], [(40, 40), (50, 40), (45, 45)]]
)


def written(path: Path, regions: list[OutlinedRegion], **options: Any) -> dict[str, Any]:
    write_geojson(path, iter(regions), **options)
    return dict(json.loads(path.read_text(encoding="utf-8")))


def test_a_feature_is_what_qupath_reads(tmp_path: Path) -> None:
    data = written(tmp_path / "x.geojson", [OutlinedRegion(HOLED, "Tumor", measurements={"Area mm^2": 1.25})])
    assert data["type"] == "FeatureCollection"
    assert "crs" not in data
    (feature,) = data["features"]
    assert feature["type"] == "Feature"
    assert uuid.UUID(feature["id"]).version == 5
    assert feature["properties"] == {
        "objectType": "annotation",
        "isLocked": False,
        "classification": {"name": "Tumor", "color": [200, 0, 0]},
        "measurements": {"Area mm^2": 1.25},
    }
    assert feature["geometry"]["type"] == "Polygon"
    assert shape(feature["geometry"]).equals(HOLED)


def test_rings_are_closed_and_wound_as_the_standard_says(tmp_path: Path) -> None:
    data = written(tmp_path / "x.geojson", [OutlinedRegion(HOLED), OutlinedRegion(HOLED.reverse())])
    for feature in data["features"]:
        shell, *holes = feature["geometry"]["coordinates"]
        assert len(holes) == 2
        assert all(ring[0] == ring[-1] for ring in (shell, *holes))
        assert LinearRing(shell).is_ccw
        assert not any(LinearRing(hole).is_ccw for hole in holes)


def test_several_parts_stay_one_feature_and_a_single_part_is_a_polygon(tmp_path: Path) -> None:
    parts = MultiPolygon([HOLED, box(100, 100, 110, 110)])
    data = written(tmp_path / "x.geojson", [OutlinedRegion(parts), OutlinedRegion(MultiPolygon([HOLED]))])
    assert [feature["geometry"]["type"] for feature in data["features"]] == ["MultiPolygon", "Polygon"]
    assert shape(data["features"][0]["geometry"]).equals(parts)


def test_coordinates_have_two_decimals_at_most(tmp_path: Path) -> None:
    circle = Point(1000 / 3, 200 / 7).buffer(20)
    path = tmp_path / "x.geojson"
    data = written(path, [OutlinedRegion(circle)])
    (ring,) = data["features"][0]["geometry"]["coordinates"]
    assert all(round(value, 2) == value for xy in ring for value in xy)
    assert shape(data["features"][0]["geometry"]).hausdorff_distance(circle) < 0.01
    assert "10.0," not in path.read_text()


def test_what_rounding_folds_over_is_put_right(tmp_path: Path) -> None:
    needle = Polygon([(0, 0), (100, 0), (100, 10), (50.001, 10), (50.0005, 300), (50, 10), (0, 10)])
    assert needle.is_valid
    data = written(tmp_path / "x.geojson", [OutlinedRegion(needle)])
    read = shape(data["features"][0]["geometry"])
    assert read.is_valid
    assert read.area == pytest.approx(needle.area, rel=1e-3)


def test_colours_come_from_the_region_or_the_class(tmp_path: Path) -> None:
    square = box(0, 0, 1, 1)
    regions = [
        OutlinedRegion(square, "Tumor", (1, 2, 3)),
        OutlinedRegion(square, "Stroma"),
        OutlinedRegion(square, "New"),
    ]
    data = written(tmp_path / "x.geojson", [*regions, OutlinedRegion(square)])
    classes = [feature["properties"].get("classification") for feature in data["features"]]
    assert classes == [
        {"name": "Tumor", "color": [1, 2, 3]},
        {"name": "Stroma", "color": [150, 200, 150]},
        {"name": "New", "color": list(class_color("New"))},
        None,
    ]


def test_the_offset_is_subtracted_and_the_frame_told(tmp_path: Path) -> None:
    region = OutlinedRegion(box(1000, 500, 1010, 520))
    moved = written(tmp_path / "x.geojson", [region], offset=(990.5, 100), slide="a")
    assert shape(moved["features"][0]["geometry"]).bounds == (9.5, 400, 19.5, 420)
    assert moved["wsipipe"] == {
        "type": "wsipipe.regions",
        "version": 1,
        "frame": "bounds",
        "offset_px": [990.5, 100],
        "slide": "a",
    }
    plain = written(tmp_path / "y.geojson", [region])
    assert plain["wsipipe"] == {"type": "wsipipe.regions", "version": 1, "frame": "level-0", "offset_px": [0, 0]}


@pytest.mark.parametrize("name", ["x.geojson", "x.geojson.gz"])
def test_a_second_run_gives_the_same_bytes_and_ids_differ(tmp_path: Path, name: str) -> None:
    regions = [OutlinedRegion(box(0, 0, 1, 1), "Tumor"), OutlinedRegion(box(0, 0, 1, 1), "Tumor")]
    write_geojson(tmp_path / "one" / name, regions)
    write_geojson(tmp_path / "two" / name, regions)
    content = (tmp_path / "one" / name).read_bytes()
    assert content == (tmp_path / "two" / name).read_bytes()
    text = gzip.decompress(content) if name.endswith("gz") else content
    ids = [feature["id"] for feature in json.loads(text)["features"]]
    assert len(set(ids)) == 2


def test_compressed_files_hold_the_same(tmp_path: Path) -> None:
    regions = [OutlinedRegion(HOLED, "Größe")]
    write_geojson(tmp_path / "x.geojson", regions)
    write_geojson(tmp_path / "x.geojson.gz", regions)
    assert gzip.decompress((tmp_path / "x.geojson.gz").read_bytes()) == (tmp_path / "x.geojson").read_bytes()


def test_no_regions_are_a_valid_empty_collection(tmp_path: Path) -> None:
    assert written(tmp_path / "x.geojson", [])["features"] == []


@pytest.mark.parametrize(
    ("region", "problem"),
    [
        (OutlinedRegion(Polygon()), "region 1 is empty"),
        (OutlinedRegion(Polygon([(0, 0), (1, float("inf")), (1, 1)])), "region 1 is empty or not finite"),
        (OutlinedRegion(box(0, 0, 0.001, 0.001)), "region 1 is thinner than 0.01 px"),
        (OutlinedRegion(HOLED, measurements={"Area": float("nan")}), r"region 1: measurements\.Area = nan"),
    ],
)
def test_impossible_regions_are_told_and_nothing_is_left(tmp_path: Path, region: OutlinedRegion, problem: str) -> None:
    with pytest.raises(StoreError, match=problem):
        write_geojson(tmp_path / "x.geojson", [OutlinedRegion(HOLED), region])
    assert not any(tmp_path.iterdir())

"""Regions in formats of others, read back by libraries of others."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pyarrow.parquet
import pyogrio
import pytest
import shapely
from shapely.geometry import MultiPolygon, Polygon, box

from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.errors import StoreError
from wsipipe.store.geopackage import write_geopackage
from wsipipe.store.geoparquet import write_geoparquet

HOLED = box(10, 10, 60, 50) - box(20, 20, 30, 30)
REGIONS = [
    OutlinedRegion(HOLED, "Tumor", measurements={"Area um^2": 475.0, "Mean probability": 0.75}),
    OutlinedRegion(MultiPolygon([box(100, 100, 110, 110), box(200, 0, 210, 5)]), "Größe", (1, 2, 3)),
    OutlinedRegion(box(0, 0, 1.5, 1), measurements={"Area um^2": 0.5}),
]
WRITERS = [write_geopackage, write_geoparquet]


def test_gdal_reads_the_geopackage(tmp_path):
    path = tmp_path / "x.gpkg"
    write_geopackage(path, REGIONS, slide="a")
    assert pyogrio.list_layers(path).tolist() == [["regions", "Unknown"]]
    meta, _, geometry, columns = pyogrio.raw.read(path)
    table = dict(zip(meta["fields"], (column.tolist() for column in columns), strict=True))
    assert [one.equals(region.geometry) for one, region in zip(shapely.from_wkb(geometry), REGIONS, strict=True)] == [
        True,
        True,
        True,
    ]
    assert table["class"] == ["Tumor", "Größe", None]
    assert table["color"] == ["#c80000", "#010203", "#808080"]
    assert table["area_um2"] == [475.0, pytest.approx(float("nan"), nan_ok=True), 0.5]
    assert table["mean_probability"][0] == 0.75
    assert "Undefined Cartesian" in meta["crs"] or "Unknown" in meta["crs"] or meta["crs"] is None
    (_, _, extent) = (pyogrio.read_info(path)[name] for name in ("driver", "features", "total_bounds"))
    assert tuple(extent) == (0, 0, 210, 110)


def test_the_geopackage_says_what_it_is(tmp_path):
    path = tmp_path / "x.gpkg"
    write_geopackage(path, REGIONS[:1], slide="a")
    assert [file.name for file in tmp_path.iterdir()] == ["x.gpkg"]
    with closing(sqlite3.connect(path)) as base:
        assert base.execute("PRAGMA application_id").fetchone() == (0x47504B47,)
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert base.execute("PRAGMA foreign_key_check").fetchall() == []
        described = base.execute("SELECT description, min_x, max_y FROM gpkg_contents").fetchone()
        assert described == ("level-0 px, x right, y down, of slide a", 10, 50)
        assert base.execute("SELECT geometry_type_name FROM gpkg_geometry_columns").fetchone() == ("POLYGON",)


def test_arrow_reads_the_parquet(tmp_path):
    path = tmp_path / "x.parquet"
    write_geoparquet(path, REGIONS, slide="a")
    table = pyarrow.parquet.read_table(path)
    found = shapely.from_wkb(table["geometry"].to_pylist())
    assert all(one.equals(region.geometry) for one, region in zip(found, REGIONS, strict=True))
    assert table["class"].to_pylist() == ["Tumor", "Größe", None]
    assert table["area_um2"].to_pylist() == [475.0, None, 0.5]
    geo = json.loads(table.schema.metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    assert geo["columns"]["geometry"] == {
        "encoding": "WKB",
        "geometry_types": ["MultiPolygon", "Polygon"],
        "crs": None,
        "bbox": [0, 0, 210, 110],
    }
    assert json.loads(table.schema.metadata[b"wsipipe"]) == {"frame": "level-0 px, x right, y down", "slide": "a"}


@pytest.mark.parametrize("write", WRITERS)
def test_no_regions_are_an_empty_table(tmp_path, write):
    write(tmp_path / "x.file", [])
    assert (tmp_path / "x.file").stat().st_size > 100


@pytest.mark.parametrize("write", WRITERS)
def test_impossible_regions_are_told_and_nothing_is_left(tmp_path, write):
    with pytest.raises(StoreError, match=r"x\.file: region 1 is empty"):
        write(tmp_path / "x.file", [REGIONS[0], OutlinedRegion(Polygon())])
    assert not any(tmp_path.iterdir())


def test_a_missing_library_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(StoreError, match=r"needs pyarrow.*wsipipe\[geo\]"):
        write_geoparquet(tmp_path / "x.parquet", REGIONS)

"""Regions as a GeoPackage, which QGIS, R (sf) and geopandas read.

Source: OGC 12-128r19, GeoPackage Encoding Standard 1.4: an SQLite database with three tables that describe the layer,
geometries as well-known binary behind a header. Nothing but SQLite is needed to write one.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import shapely
from shapely.geometry import MultiPolygon, Polygon

from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.errors import StoreError
from wsipipe.store.atomic import atomic_path
from wsipipe.store.regions import check_region, color_text, measurement_columns

_LAYER = "regions"
_PIXELS = -1  # the standard's own number for Cartesian coordinates without a place on earth
_APPLICATION = int.from_bytes(b"GPKG", "big")
_VERSION = 10400
_TABLES = """
CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT NOT NULL, srs_id INTEGER PRIMARY KEY, organization TEXT NOT NULL,
  organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE,
  description TEXT DEFAULT '', last_change DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
  min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE, srs_id INTEGER,
  CONSTRAINT fk_gc_r_srs_id FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys(srs_id));
CREATE TABLE gpkg_geometry_columns (table_name TEXT NOT NULL, column_name TEXT NOT NULL,
  geometry_type_name TEXT NOT NULL, srs_id INTEGER NOT NULL, z TINYINT NOT NULL, m TINYINT NOT NULL,
  CONSTRAINT pk_geom_cols PRIMARY KEY (table_name, column_name), CONSTRAINT uk_gc_table_name UNIQUE (table_name),
  CONSTRAINT fk_gc_tn FOREIGN KEY (table_name) REFERENCES gpkg_contents(table_name),
  CONSTRAINT fk_gc_srs FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys (srs_id));
INSERT INTO gpkg_spatial_ref_sys VALUES
  ('Undefined Cartesian SRS', -1, 'NONE', -1, 'undefined', 'undefined Cartesian coordinate reference system'),
  ('Undefined geographic SRS', 0, 'NONE', 0, 'undefined', 'undefined geographic coordinate reference system'),
  ('WGS 84 geodetic', 4326, 'EPSG', 4326, 'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],
PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433],AUTHORITY["EPSG","4326"]]', 'longitude and latitude');
"""


def write_geopackage(path: Path, regions: Sequence[OutlinedRegion], *, slide: str | None = None) -> None:
    """Write regions as the layer "regions" of a GeoPackage, whole or not at all.

    Parameters
    ----------
    path : Path
        ".gpkg".
    regions : sequence of OutlinedRegion
        In level-0 px of the slide, x to the right and y down (programs for maps, whose y points up, show them
        mirrored). Columns: class, color ("#rrggbb") and the measurements ("Area um^2" as area_um2).
    slide : str, optional
        Key of the slide, told in the description of the layer.

    Raises
    ------
    StoreError
        A region is empty or not finite, or the file cannot be written.
    """
    columns = measurement_columns(regions)
    fields = "".join(f', "{name}" DOUBLE' for name in columns.values())
    with atomic_path(path) as temporary:
        try:
            # No journal beside the file: it appears whole by being renamed.
            with closing(sqlite3.connect(temporary)) as base:
                base.executescript(f"PRAGMA journal_mode=OFF; PRAGMA application_id={_APPLICATION};")
                base.executescript(f"PRAGMA user_version={_VERSION}; {_TABLES}")
                base.execute(
                    f"CREATE TABLE {_LAYER} (fid INTEGER PRIMARY KEY AUTOINCREMENT, geom BLOB, class TEXT, "
                    f"color TEXT{fields})"
                )
                _describe(base, regions, slide)
                marks = ",".join("?" * (3 + len(columns)))
                names = ",".join(f'"{name}"' for name in ("geom", "class", "color", *columns.values()))
                base.executemany(f"INSERT INTO {_LAYER} ({names}) VALUES ({marks})", _rows(regions, columns, path))
                base.commit()
        except sqlite3.Error as error:
            raise StoreError(f"cannot be written: {error}", path=path) from error


def _describe(base: sqlite3.Connection, regions: Sequence[OutlinedRegion], slide: str | None) -> None:
    extent = shapely.total_bounds([region.geometry for region in regions]).tolist() if regions else [None] * 4
    told = "level-0 px, x right, y down" + (f", of slide {slide}" if slide else "")
    base.execute(
        "INSERT INTO gpkg_contents (table_name, data_type, identifier, description, min_x, min_y, max_x, max_y, "
        "srs_id) VALUES (?,?,?,?,?,?,?,?,?)",
        (_LAYER, "features", _LAYER, told, *extent, _PIXELS),
    )
    kinds = {region.geometry.geom_type.upper() for region in regions}
    kind = kinds.pop() if len(kinds) == 1 else "GEOMETRY"
    base.execute("INSERT INTO gpkg_geometry_columns VALUES (?,?,?,?,0,0)", (_LAYER, "geom", kind, _PIXELS))


def _rows(
    regions: Sequence[OutlinedRegion], columns: dict[str, str], path: Path
) -> Iterator[tuple[bytes | str | float | None, ...]]:
    for number, region in enumerate(regions):
        check_region(region, number, path=path)
        measured = (region.measurements.get(name) for name in columns)
        yield _blob(region.geometry), region.class_name, color_text(region), *measured


def _blob(geometry: Polygon | MultiPolygon) -> bytes:
    """Header ("GP", version 0, little-endian with an envelope of x and y, reference system) and WKB."""
    min_x, min_y, max_x, max_y = geometry.bounds
    head = struct.pack("<2sBBi4d", b"GP", 0, 0b11, _PIXELS, min_x, max_x, min_y, max_y)
    return head + shapely.to_wkb(geometry, byte_order=1)

"""Regions as GeoParquet, which geopandas, DuckDB and SpatialData read.

Source: GeoParquet 1.1: geometries as well-known binary in a column that the file's metadata describe. Needs pyarrow
(`pip install 'wsipipe[geo]'`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import shapely
from shapely.geometry import MultiPolygon, Polygon

from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.errors import StoreError
from wsipipe.store.atomic import atomic_path
from wsipipe.store.regions import check_region, color_text, measurement_columns


def write_geoparquet(path: Path, regions: Sequence[OutlinedRegion], *, slide: str | None = None) -> None:
    """Write regions as GeoParquet, whole or not at all.

    Parameters
    ----------
    path : Path
        ".parquet".
    regions : sequence of OutlinedRegion
        In level-0 px, x to the right and y down. Columns: geometry, class, color ("#rrggbb") and the measurements
        ("Area um^2" as area_um2).
    slide : str, optional
        Key of the slide, in the metadata beside the frame.

    Raises
    ------
    StoreError
        pyarrow is not installed, a region is empty or not finite, or the file cannot be written.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        remedy = "pip install 'wsipipe[geo]'"
        raise StoreError("Parquet needs pyarrow, which is not installed", path=path, remedy=remedy) from error
    for number, region in enumerate(regions):
        check_region(region, number, path=path)
    geometries = [region.geometry for region in regions]
    columns = {
        "geometry": pa.array(shapely.to_wkb(geometries, byte_order=1), pa.binary()),
        "class": pa.array([region.class_name for region in regions], pa.string()),
        "color": pa.array([color_text(region) for region in regions], pa.string()),
    }
    for name, label in measurement_columns(regions).items():
        columns[label] = pa.array([region.measurements.get(name) for region in regions], pa.float64())
    told = {"frame": "level-0 px, x right, y down"} | ({"slide": slide} if slide else {})
    metadata = {"geo": json.dumps(_geo(geometries)), "wsipipe": json.dumps(told)}
    table = pa.table(columns).replace_schema_metadata(metadata)
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary, compression="zstd")


def _geo(geometries: Sequence[Polygon | MultiPolygon]) -> dict[str, object]:
    kinds = sorted({geometry.geom_type for geometry in geometries})
    column: dict[str, object] = {"encoding": "WKB", "geometry_types": kinds, "crs": None}
    if geometries:
        column["bbox"] = shapely.total_bounds(geometries).tolist()
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}

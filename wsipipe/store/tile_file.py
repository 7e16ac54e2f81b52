"""Tile files: which patches of a slide are looked at, and its tissue; read by CLAM, TRIDENT and what builds on them.

Layout (version 1): `coords` (N, 2) int64, the (x, y) of each patch's top-left corner in level-0 px, row by row, and
`tissue` (rows, cols) uint8, 0 or 1, with its `cell_px` and `origin_px` (x, y) in level-0 px. Root attributes: type,
version, and the fields of `TileInfo` (`settings` as JSON; what is None is left out) with the grid of the patch map.

On `coords` lie the attributes of both projects. They share the name `patch_size` and mean different things:
TRIDENT the px of the patch at the target resolution, CLAM the px that it reads at `patch_level`. We write TRIDENT's.
Where the slide has a level at the target resolution, that is `patch_level`, `custom_downsample` is 1 and the two
agree. Where it has none, `patch_level` is the next finer level, and CLAM's reading of `patch_size` px there must be
followed by `custom_downsample`, the px of that level per target px, as older CLAM and TRIDENT's reader of CLAM files
do. Magnifications are 10 um over the true mpp, so that level0_magnification / target_magnification is the true scale;
slides of unknown mpp have none, and TRIDENT then falls back on CLAM's attributes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import GeometryError, NumericsError, StoreError
from wsipipe.geometry import CellGrid
from wsipipe.numerics.tissue import Tissue
from wsipipe.store.atomic import atomic_path
from wsipipe.store.hdf5 import new_hdf5

FILE_TYPE, FILE_VERSION = "wsipipe.tiles", 1
_REMEDY = "delete it and run `wsipipe tile` again"
# A level within a hundredth of the target counts as the target: 2.0005 is a downsample of 2.
_LEVEL_TOLERANCE = 0.01
_CHUNK = 4096


@dataclass(frozen=True)
class TileInfo:
    """What a tile file says beside coordinates and tissue; equal for equal work on equal content.

    Parameters
    ----------
    slide, slide_identity : str
        Key and content digest of the slide.
    slide_mpp : float or None
        um per level-0 px.
    slide_size : (int, int)
        (width, height) in level-0 px.
    mpp : float or None
        um per target px; None where they are level-0 px of unknown size.
    scale : float
        Level-0 px per target px.
    patch_size_px, overlap_px : int
        In target px.
    level : int
        Level that patches are read from.
    level_size : (int, int)
        (width, height) of that level in px.
    level_downsample : float
        Level-0 px per px of that level.
    grid : CellGrid
        Cells of the patch map.
    settings : dict
        JSON-able settings.
    settings_digest : str
        Hash of everything that decides the content.
    patches_exported : bool
        Whether the patches were written as pictures, too.
    """

    slide: str
    slide_identity: str
    slide_mpp: float | None
    slide_size: tuple[int, int]
    mpp: float | None
    scale: float
    patch_size_px: int
    overlap_px: int
    level: int
    level_size: tuple[int, int]
    level_downsample: float
    grid: CellGrid
    settings: dict[str, Any]
    settings_digest: str
    patches_exported: bool = False


@dataclass(frozen=True)
class TileFile:
    """Content of a tile file.

    Parameters
    ----------
    info : TileInfo
        Geometry and provenance.
    coords : (n, 2) int64 array
        Top-left corners (x, y) of the patches in level-0 px, row by row.
    tissue : Tissue
        The tissue they were chosen by.
    """

    info: TileInfo
    coords: NDArray[np.int64]
    tissue: Tissue


def write_tile_file(path: Path, tiles: TileFile) -> None:
    """Write a tile file, whole or not at all.

    Raises
    ------
    StoreError
        The coordinates are no (n, 2) whole numbers, or the file cannot be written.
    """
    coords = np.asarray(tiles.coords)
    if coords.ndim != 2 or coords.shape[1] != 2 or not np.issubdtype(coords.dtype, np.integer):
        raise StoreError(f"coordinates are (n, 2) whole numbers, got {coords.shape} {coords.dtype}", path=path)
    with atomic_path(path) as temporary, new_hdf5(temporary) as file:
        file.attrs.update(_root_attributes(tiles.info))
        chunks = (min(_CHUNK, max(1, len(coords))), 2)
        data = file.create_dataset("coords", data=coords.astype(np.int64), maxshape=(None, 2), chunks=chunks)
        data.attrs.update(foreign_attributes(tiles.info, folder=path.parent))
        mask = file.create_dataset("tissue", data=tiles.tissue.mask.astype(np.uint8), compression="gzip", shuffle=True)
        mask.attrs.update({"cell_px": tiles.tissue.grid.cell_px, "origin_px": tiles.tissue.grid.origin})


def read_tile_file(path: Path) -> TileFile:
    """Read a tile file.

    Raises
    ------
    StoreError
        The file is missing, cut off, no tile file, or of another version.
    """
    with _opened(path) as file:
        info = _info(file.attrs)
        mask = np.asarray(file["tissue"]) > 0
        coords = np.asarray(file["coords"], dtype=np.int64).reshape(-1, 2)
        grid = _grid(file["tissue"].attrs, *mask.shape)
        return TileFile(info, coords, Tissue(mask, grid))


def read_tile_info(path: Path) -> TileInfo:
    """Read what a tile file says of itself, without its content; errors as for `read_tile_file`."""
    with _opened(path) as file:
        return _info(file.attrs)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open one of our tile files, and tell in one line what is wrong with it."""
    if not path.is_file():
        raise StoreError("no such tile file", path=path, remedy="run `wsipipe tile` first")
    try:
        with h5py.File(path, "r") as file:
            kind, version = file.attrs.get("type"), file.attrs.get("version")
            if kind != FILE_TYPE or version != FILE_VERSION:
                raise StoreError(f"is {kind} version {version}, not {FILE_TYPE} version {FILE_VERSION}", path=path)
            yield file
    except (OSError, RuntimeError) as error:
        raise StoreError(f"cannot be read: {' '.join(str(error).split())}", path=path, remedy=_REMEDY) from error
    except (KeyError, ValueError, TypeError, GeometryError, NumericsError) as error:
        told = " ".join(str(error).split())
        raise StoreError(f"is damaged: {told}", path=path, remedy=_REMEDY) from error


def foreign_attributes(info: TileInfo, *, folder: Path) -> dict[str, Any]:
    """Attributes of CLAM and TRIDENT for `coords`; see the head of this module for `patch_size`.

    Parameters
    ----------
    info : TileInfo
        Geometry of the patches.
    folder : Path
        Where the file lies; both projects note it.
    """
    custom = info.scale / info.level_downsample
    custom = 1.0 if abs(custom - 1) <= _LEVEL_TOLERANCE else custom
    width, height = info.level_size
    clam = {
        "patch_size": info.patch_size_px,
        "patch_level": info.level,
        "downsample": (info.level_downsample, info.level_downsample),
        "downsampled_level_dim": (int(width / custom), int(height / custom)),
        "level_dim": info.level_size,
        "custom_downsample": _whole(custom),
        "name": info.slide,
        "save_path": str(folder),
    }
    trident = {
        "patch_size_level0": round(info.patch_size_px * info.scale),
        "overlap": info.overlap_px,
        "savetodir": str(folder),
        "level0_width": info.slide_size[0],
        "level0_height": info.slide_size[1],
    }
    return clam | trident | _magnifications(info)


def _magnifications(info: TileInfo) -> dict[str, float | int]:
    if info.slide_mpp is None:
        return {}
    level0 = 10 / info.slide_mpp
    return {"level0_magnification": _whole(level0), "target_magnification": _whole(level0 / info.scale)}


def _whole(value: float) -> float | int:
    """Make a whole number of what is one: both projects write integers."""
    return round(value) if abs(value - round(value)) < 1e-9 else value


def _root_attributes(info: TileInfo) -> dict[str, Any]:
    plain = asdict(info)
    grid = plain.pop("grid")
    values = {"rows": grid["rows"], "cols": grid["cols"], "cell_px": grid["cell_px"], "origin_px": grid["origin"]}
    values |= plain | {"settings": json.dumps(info.settings, sort_keys=True)}
    values |= {"type": FILE_TYPE, "version": FILE_VERSION}
    return {key: value for key, value in values.items() if value is not None}


def _info(values: Mapping[str, Any]) -> TileInfo:
    return TileInfo(
        slide=str(values["slide"]),
        slide_identity=str(values["slide_identity"]),
        slide_mpp=_optional(values, "slide_mpp"),
        slide_size=_size(values["slide_size"]),
        mpp=_optional(values, "mpp"),
        scale=float(values["scale"]),
        patch_size_px=int(values["patch_size_px"]),
        overlap_px=int(values["overlap_px"]),
        level=int(values["level"]),
        level_size=_size(values["level_size"]),
        level_downsample=float(values["level_downsample"]),
        grid=_grid(values, int(values["rows"]), int(values["cols"])),
        settings=dict(json.loads(values["settings"])),
        settings_digest=str(values["settings_digest"]),
        patches_exported=bool(values["patches_exported"]),
    )


def _grid(values: Mapping[str, Any], rows: int, cols: int) -> CellGrid:
    x, y = (float(value) for value in values["origin_px"])
    return CellGrid(rows=rows, cols=cols, cell_px=float(values["cell_px"]), origin=(x, y))


def _size(values: Any) -> tuple[int, int]:  # noqa: ANN401 (h5py has no types)
    width, height = (int(value) for value in values)
    return width, height


def _optional(values: Mapping[str, Any], key: str) -> float | None:
    return float(values[key]) if key in values else None

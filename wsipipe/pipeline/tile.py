"""Which patches of a slide are looked at: the grid, and the `tile` command's work on one slide."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import ImageDraw
from shapely.geometry import MultiPolygon, Polygon, box

from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.config import TileSettings
from wsipipe.errors import StoreError, TissueError
from wsipipe.geometry import CellGrid, Region
from wsipipe.numerics.polygons import outline_mask
from wsipipe.numerics.tissue import Tissue
from wsipipe.pipeline.outcome import SlideOutcome
from wsipipe.pipeline.overlay import slide_picture
from wsipipe.pipeline.tissue import slide_tissue
from wsipipe.progress import Progress, Report, silent
from wsipipe.slides import MppView, SlideEntry, SlideReader, open_slide, slide_identity
from wsipipe.store.atomic import sync_folder, writing
from wsipipe.store.geojson import write_geojson
from wsipipe.store.images import write_png
from wsipipe.store.tile_file import TileFile, TileInfo, read_tile_info, write_tile_file

# Raised whenever the same settings begin to give other tissue or other patches.
REVISION = 4
THUMBNAIL_PX = 1500
TISSUE_CLASS = "Tissue"
_OUTLINE = (0, 160, 60)
# Shares are quotients of float32 numbers.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class TilePaths:
    """Where the results for a slide lie in a project folder."""

    tiles: Path
    tissue: Path
    thumbnail: Path
    patches: Path

    @classmethod
    def of(cls, out: str | Path, key: str) -> TilePaths:
        """Paths for the slide `key` in the project folder `out`."""
        out = Path(out)
        return cls(
            tiles=out / "tiles" / f"{key}.h5",
            tissue=out / "tissue" / f"{key}.geojson",
            thumbnail=out / "thumbnails" / f"{key}.png",
            patches=out / "patches" / key,
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are always written, the tile file first."""
        return self.tiles, self.tissue, self.thumbnail


def patch_grid(width: int, height: int, scale: float, settings: TileSettings) -> CellGrid:
    """Cells of a patch map over a slide, each centred under its patch.

    Parameters
    ----------
    width, height : int
        Size of the slide in level-0 px.
    scale : float
        Level-0 px per target px.
    settings : TileSettings
        Patch size and overlap in target px.

    Returns
    -------
    CellGrid
        Cell (r, c) is a square of `stride_px` target px. Its patch has the top-left corner
        (c, r) * stride_px * scale in level-0 px; overlapping patches are larger than their cells, so the origin is
        half the overlap from the slide's corner and patch and cell share their centre.
    """
    stride = settings.stride_px * scale
    grid = CellGrid.covering(width, height, stride)
    margin = settings.overlap_px / 2 * scale
    return CellGrid(rows=grid.rows, cols=grid.cols, cell_px=stride, origin=(margin, margin))


def patch_corners(cells: NDArray[np.int64], scale: float, settings: TileSettings) -> NDArray[np.int64]:
    """Top-left corners of patches in level-0 px.

    Parameters
    ----------
    cells : (n, 2) int64 array
        (row, col) of the patches' cells.
    scale : float
        Level-0 px per target px.
    settings : TileSettings
        Patch size and overlap in target px.

    Returns
    -------
    (n, 2) int64 array
        (x, y) = round((col, row) * stride_px * scale): where the scale is no whole number, corners are rounded one
        by one, so that the error never exceeds half a px.
    """
    corners: NDArray[np.float64] = np.rint(cells[:, ::-1] * (settings.stride_px * scale))
    return corners.astype(np.int64)


def kept_cells(
    tissue: Tissue, grid: CellGrid, settings: TileSettings, *, slide_size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Which cells of a patch map are looked at, (rows, cols) bool.

    A patch counts by the tissue of its cell, the middle of the patch where patches overlap: cells tile the slide, so
    that overlap neither hides tissue nor counts it twice. Only the part of the cell on the slide counts, or no patch
    at the slide's edge, and none of a slide smaller than a patch, would have enough.

    Parameters
    ----------
    tissue : Tissue
        Over the whole slide; its last row and column may reach past it.
    grid : CellGrid
        From `patch_grid`, in level-0 px.
    settings : TileSettings
        Smallest tissue fraction.
    slide_size : (int, int)
        (width, height) of the slide in level-0 px.
    """
    return np.asarray(_tissue_shares(tissue, grid, slide_size) >= settings.min_tissue - _ROUNDING)


def _tissue_shares(tissue: Tissue, grid: CellGrid, slide_size: tuple[int, int]) -> NDArray[np.float32]:
    """Tissue per area on the slide of each cell, (rows, cols); 0 in cells that lie beyond it."""
    # The only cell of a row or column stands for all of it, also where the overlap would put it past the far edge.
    x, y = (0.0 if cells == 1 else start for cells, start in zip((grid.cols, grid.rows), grid.origin, strict=True))
    grid = CellGrid(rows=grid.rows, cols=grid.cols, cell_px=grid.cell_px, origin=(x, y))
    on_slide = np.logical_and.outer(
        y + np.arange(grid.rows) * grid.cell_px < slide_size[1], x + np.arange(grid.cols) * grid.cell_px < slide_size[0]
    )
    # Both areas are measured in px of the mask, whose last ones may reach past the slide: the excess cancels.
    area = tissue.covered(grid)
    shares = np.zeros(grid.shape, np.float32)
    np.divide(tissue.fraction(grid), area, out=shares, where=on_slide & (area > 0))
    return shares


def tile_slide(
    entry: SlideEntry,
    out: Path,
    settings: TileSettings,
    *,
    reader: str = "auto",
    export_png: bool = False,
    crop: bool = True,
    force: bool = False,
    report: Report = silent,
) -> SlideOutcome:
    """Find the tissue of a slide and choose its patches.

    Writes tissue/<key>.geojson (class "Tissue", for QuPath), thumbnails/<key>.png with the outlines drawn,
    patches/<key>/<x>_<y>.png if asked for, and at last tiles/<key>.h5, which says that the rest is there; a former
    one is removed before anything else is written, so that a run cut short is not taken for a finished one.

    Parameters
    ----------
    entry : SlideEntry
        The slide.
    out : Path
        Project folder.
    settings : TileSettings
        Resolution, patch size, overlap, smallest tissue fraction, tissue detection.
    reader : str
        "openslide", "tiffslide", "image" or "auto".
    export_png : bool
        Whether to write every patch as a picture.
    crop : bool
        Whether the GeoJSON counts from the corner of the slide's bounds, as QuPath does by default.
    force : bool
        Do it again even when it is done.
    report : Report
        Told about the progress.

    Returns
    -------
    SlideOutcome
        "done", or "skipped" where the same settings and the same slide have been done before.

    Raises
    ------
    SlideError, ResolutionError
        The slide cannot be read, or has no resolution.
    TissueError
        A dark background, no tissue, or no patch with enough tissue.
    StoreError
        A file cannot be written.
    """
    paths = TilePaths.of(out, entry.key)
    with open_slide(entry.path, mpp=entry.mpp, reader=reader) as slide:
        view = MppView(slide, settings.mpp)
        info = plan_tiles(entry, view, settings, patches_exported=export_png, crop=crop)
        if not force and _is_done(paths, info):
            return SlideOutcome(entry.key, "skipped", "tiles are up to date", paths.files)
        report(Progress(entry.key, "tissue", 0, 1))
        tissue = slide_tissue(slide, settings)
        cells = _cells(tissue, info, settings, slide.path)
        coords = patch_corners(cells, view.scale, settings)
        _unmark(paths.tiles)
        _write_outlines(slide, tissue, paths, crop=crop)
        report(Progress(entry.key, "tissue", 1, 1))
        if export_png:
            _export(_patches(view, cells, settings, entry.key, report), paths.patches)
        write_tile_file(paths.tiles, TileFile(info, coords, tissue))
    return SlideOutcome(entry.key, "done", f"{len(coords)} patches, {tissue.mask.mean():.0%} tissue", paths.files)


def plan_tiles(
    entry: SlideEntry, view: MppView, settings: TileSettings, *, patches_exported: bool, crop: bool
) -> TileInfo:
    """Say what the finished tile file will say; parameters as in `tile_slide`."""
    slide = view.reader
    return TileInfo(
        slide=entry.key,
        slide_identity=slide_identity(entry.path),
        slide_mpp=slide.mpp,
        slide_size=slide.dimensions,
        mpp=view.mpp,
        scale=view.scale,
        patch_size_px=settings.patch_size_px,
        overlap_px=settings.overlap_px,
        level=view.level,
        level_size=slide.level_dimensions[view.level],
        level_downsample=slide.level_downsamples[view.level],
        grid=patch_grid(*slide.dimensions, view.scale, settings),
        settings=settings.model_dump(mode="json"),
        settings_digest=_digest(settings, crop=crop),
        patches_exported=patches_exported,
    )


def _digest(settings: TileSettings, *, crop: bool) -> str:
    text = json.dumps([REVISION, settings.digest(), crop])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_done(paths: TilePaths, info: TileInfo) -> bool:
    """Whether all files are there and say what they would say again; patches already exported do no harm."""
    if not all(path.is_file() for path in paths.files) or (info.patches_exported and not paths.patches.is_dir()):
        return False
    try:
        found = read_tile_info(paths.tiles)
    except StoreError:
        return False  # cut off, or of another version: it is made again
    exported = found.patches_exported or not info.patches_exported
    same = (found.slide_identity, found.settings_digest, found.slide_mpp, found.slide_size, found.scale)
    return exported and same == (
        info.slide_identity, info.settings_digest, info.slide_mpp, info.slide_size, info.scale
    )  # fmt: skip


def _cells(tissue: Tissue, info: TileInfo, settings: TileSettings, path: Path) -> NDArray[np.int64]:
    cells = np.argwhere(kept_cells(tissue, info.grid, settings, slide_size=info.slide_size))
    if len(cells) == 0:
        raise TissueError(
            f"no patch has a tissue fraction of {settings.min_tissue:g}",
            path=path,
            remedy="lower min_tissue or the patch size",
        )
    return cells


def _unmark(tiles: Path) -> None:
    """Take away the file that vouches for the others, for good, before they change."""
    with writing(tiles):
        tiles.unlink(missing_ok=True)
    sync_folder(tiles.parent)


def _write_outlines(slide: SlideReader, tissue: Tissue, paths: TilePaths, *, crop: bool) -> None:
    polygons = list(_outlines(tissue, *slide.dimensions))
    offset = (float(slide.bounds.x), float(slide.bounds.y)) if crop else (0.0, 0.0)
    write_geojson(paths.tissue, (OutlinedRegion(polygon, TISSUE_CLASS) for polygon in polygons), offset=offset)
    write_png(paths.thumbnail, draw_outlines(slide, polygons))


def _outlines(tissue: Tissue, width: int, height: int) -> Iterator[Polygon]:
    """Outlines in level-0 px, cut to the slide: the last row and column of the mask may reach past it."""
    slide = box(0, 0, width, height)
    for polygon in outline_mask(tissue.mask, tissue.grid):
        cut = polygon if slide.covers(polygon) else shapely.intersection(polygon, slide)
        parts = cut.geoms if isinstance(cut, MultiPolygon) else [cut]
        yield from (part for part in parts if isinstance(part, Polygon) and not part.is_empty)


def draw_outlines(slide: SlideReader, polygons: list[Polygon]) -> NDArray[np.uint8]:
    """Draw polygons (level-0 px) on the slide's thumbnail, (h, w, 3) uint8, 1500 px on the long side."""
    image, scale = slide_picture(slide, long_side_px=THUMBNAIL_PX)
    draw = ImageDraw.Draw(image)
    width = max(2, max(image.size) // 500)
    for polygon in polygons:
        for ring in (polygon.exterior, *polygon.interiors):
            draw.line([(x / scale, y / scale) for x, y in ring.coords], fill=_OUTLINE, width=width, joint="curve")
    return np.asarray(image)


def _patches(
    view: MppView, cells: NDArray[np.int64], settings: TileSettings, key: str, report: Report
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Names (corners in level-0 px) and pixels of patches, (patch_size_px, patch_size_px, 3)."""
    stride, side = settings.stride_px, settings.patch_size_px
    corners = patch_corners(cells, view.scale, settings)
    for done, ((row, col), (x, y)) in enumerate(zip(cells.tolist(), corners.tolist(), strict=True)):
        report(Progress(key, "patches", done, len(cells)))
        yield f"{x}_{y}.png", view.read(Region(col * stride, row * stride, side, side))
    report(Progress(key, "patches", len(cells), len(cells)))


def _export(patches: Iterator[tuple[str, NDArray[np.uint8]]], folder: Path) -> None:
    """Write patches into a folder from which those of former runs, finished or cut short, are taken away first."""
    with writing(folder):
        for former in folder.glob("*_*.png"):
            former.unlink()
    for name, pixels in patches:
        write_png(folder / name, pixels)

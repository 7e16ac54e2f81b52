"""Masks, probabilities and slides as pyramidal TIFF, streamed in both directions.

Two flavours. **plain**: every level a top-level page with the reduced-image flag, as OpenSlide's generic reader and
libvips want it. **ome**: OME-XML and levels as SubIFDs, as Bio-Formats and napari want it. Both are tiled and
deflated without loss.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsipipe._version import __version__
from wsipipe.annotations.classes import TissueClass
from wsipipe.errors import GeometryError, NumericsError, StoreError
from wsipipe.geometry import CellGrid
from wsipipe.store.pyramid import Pixels, Reduce
from wsipipe.store.tiff_writing import Layout, write_levels

FILE_TYPE, FILE_VERSION = "wsipipe.raster", 1

MASK_VALUE = 255
"""Pixel value of "in target" in a mask; 0 is everything else.

255 rather than 1: without a colour map, which OME viewers ignore, 1 of 255 is shown as black, and users take the mask
for empty. Programs that test `mask > 0` do not see the difference.
"""

_DEFLATE: Mapping[str, object] = {"compression": "zlib", "compressionargs": {"level": 6}}


@dataclass(frozen=True)
class RasterInfo:
    """What one of our rasters says of itself.

    Parameters
    ----------
    grid : CellGrid
        Pixels of level 0 over the slide, in level-0 px of the slide.
    mpp : float or None
        um per px of the raster.
    channels : int
        1 or 3, or one for each of several classes.
    classes : tuple of TissueClass
        Of one channel: what the values 1, 2, ... stand for, and 0 for none of them. Of several channels: what each is
        the probability of.
    about : str
        What the values mean, where somebody said so.
    """

    grid: CellGrid
    mpp: float | None
    channels: int = 1
    classes: tuple[TissueClass, ...] = ()
    about: str = ""


def as_mask(inside: NDArray[Any]) -> Pixels:
    """Mask pixels (`MASK_VALUE` or 0, uint8) from anything that is true or false."""
    return np.asarray(inside, dtype=np.bool_).astype(np.uint8) * np.uint8(MASK_VALUE)


def write_pyramid(
    path: Path,
    bands: Iterable[Pixels],
    *,
    grid: CellGrid,
    mpp: float | None,
    flavour: Literal["plain", "ome"] = "plain",
    reduce: Reduce = "nearest",
    tile: int = 512,
    classes: Sequence[TissueClass] = (),
    about: str = "",
) -> None:
    """Write a raster as a lossless pyramid, whole or not at all.

    Parameters
    ----------
    path : Path
        File to write; its ending is free.
    bands : iterable of (h, w), (h, w, 3) or (h, w, K) uint8 arrays
        All rows of level 0, top to bottom, in bands of any height; taken one by one. `tile` rows at a time are best.
    grid : CellGrid
        Pixels of the raster over the slide; (rows, cols) is its size.
    mpp : float or None
        um per raster px; None where nobody knows, and then the file says nothing.
    flavour : str
        "plain" or "ome".
    reduce : str
        How lower levels are made: "nearest" (top-left pixel of each 2 x 2 block) for masks, "mean" for
        probabilities and pictures.
    tile : int
        Side of a tile, a multiple of 16.
    classes : sequence of TissueClass
        What the values 1 to K of a mask stand for, which gets a palette of their colours; or what each of K channels is
        the probability of.
    about : str
        What the values mean, for whoever reads the file.

    Raises
    ------
    NumericsError
        The bands do not add up to the grid, are no uint8, or have not as many channels as there are classes.
    StoreError
        The file cannot be written.

    Notes
    -----
    Sizes of levels are halves rounded up, down to the level that fits one tile. Memory is that of a few bands;
    lower levels wait in nameless files in the output folder (a third of the raster, not compressed).
    """
    if tile < 16 or tile % 16:
        raise NumericsError(f"the side of a tile is a multiple of 16, got {tile}", path=path)
    first, bands = _peek(bands, path)
    channels = first.shape[2:] if classes else (3,) * (first.ndim - 2)
    if channels and classes and channels != (len(classes),):
        raise NumericsError(f"probabilities of {len(classes)} classes have so many channels, got {channels}", path=path)
    info = RasterInfo(grid, mpp, channels=channels[0] if channels else 1, classes=tuple(classes), about=about)
    describe = _plain_tags if flavour == "plain" else _ome_tags
    layout = Layout(*grid.shape, channels, tile, reduce)
    tags = [describe(info, level) | _class_tags(info) for level in range(len(layout.shapes))]
    write_levels(path, bands, layout, tags=tags, ome=flavour == "ome")


def write_slide_pyramid(
    path: Path, bands: Iterable[Pixels], *, width: int, height: int, mpp: float, tile: int = 256, quality: int = 90
) -> None:
    """Write a picture as a pyramidal slide that OpenSlide opens as Aperio's, with its resolution.

    Parameters
    ----------
    path : Path
        ".svs" or ".tif".
    bands : iterable of (h, width, 3) uint8 arrays
        RGB rows from top to bottom; taken one by one.
    width, height : int
        Size in px.
    mpp : float
        um per px.
    tile, quality : int
        Side of a tile, a multiple of 16; JPEG quality.

    Raises
    ------
    NumericsError, StoreError
        As for `write_pyramid`.
    """
    layout = Layout(height, width, (3,), tile, "mean")
    size = f"{width}x{height}"
    text = (
        f"Aperio Image Library (written by wsipipe {__version__})\n{size} [0,0 {size}] ({tile}x{tile}) "
        f"JPEG/RGB Q={quality}|AppMag = {10 / mpp:g}|MPP = {mpp!r}"
    )
    jpeg: dict[str, object] = {"compression": "jpeg", "compressionargs": {"level": quality}, "metadata": None}
    tags = [jpeg | {"description": text} | _resolution(mpp, level) for level in range(len(layout.shapes))]
    write_levels(path, bands, layout, tags=tags, thumbnail=jpeg | {"description": text})


def raster_info(path: Path) -> RasterInfo:
    """Grid and resolution of one of our rasters; errors as for `read_raster`."""
    with _first_page(path) as (_, info):
        return info


def own_raster_info(path: Path) -> RasterInfo | None:
    """Tell what `raster_info` does; None of pictures of others, and where nothing can be read."""
    try:
        return raster_info(path)
    except StoreError:
        return None


def read_raster(path: Path, rows: slice, cols: slice) -> Pixels:
    """Read a window of level 0 of one of our rasters.

    Parameters
    ----------
    path : Path
        Written by `write_pyramid`.
    rows, cols : slice
        Within the raster, no step; open ends mean the raster's.

    Returns
    -------
    (r, c) or (r, c, 3) uint8 array

    Raises
    ------
    StoreError
        The file is missing, damaged, or none of ours.
    GeometryError
        The window is empty or reaches past the raster.
    """
    with _first_page(path) as (page, info):
        window = _within(rows, info.grid.rows, "rows"), _within(cols, info.grid.cols, "columns")
        return _read(page, *window)


def iter_bands(path: Path, height: int) -> Iterator[Pixels]:
    """Stream level 0 of one of our rasters in bands of `height` rows, the last one lower.

    Multiples of the tile (512) decode every tile once. Errors as for `read_raster`.
    """
    if height < 1:
        raise GeometryError(f"a band needs at least one row, got {height}", path=path)
    with _first_page(path) as (page, info):
        for start in range(0, info.grid.rows, height):
            yield _read(page, slice(start, min(start + height, info.grid.rows)), slice(0, info.grid.cols))


def _peek(bands: Iterable[Pixels], path: Path) -> tuple[Pixels, Iterator[Pixels]]:
    iterator = iter(bands)
    first = next(iterator, None)
    if first is None:
        raise NumericsError("there is no band to write", path=path)
    return first, chain([first], iterator)


def _plain_tags(info: RasterInfo, level: int) -> dict[str, object]:
    """Tags of one level; the first one carries our description as JSON."""
    text = json.dumps(_told(info)) if level == 0 else None
    own = {"description": text, "subfiletype": int(level > 0), "metadata": None}
    return {**_DEFLATE, **own, **_resolution(info.mpp, level)}


def _ome_tags(info: RasterInfo, level: int) -> dict[str, object]:
    if level:
        return {**_DEFLATE, "subfiletype": 1, "metadata": None, **_resolution(info.mpp, level)}
    metadata: dict[str, object] = {"axes": "YX" if info.channels == 1 else "YXS"}
    if info.mpp is not None:
        metadata |= {"PhysicalSizeX": info.mpp, "PhysicalSizeXUnit": "µm"}
        metadata |= {"PhysicalSizeY": info.mpp, "PhysicalSizeYUnit": "µm"}
    metadata["MapAnnotation"] = {"Namespace": "wsipipe", "wsipipe": json.dumps(_told(info))}
    return {**_DEFLATE, "metadata": metadata, **_resolution(info.mpp, level)}


def _class_tags(info: RasterInfo) -> dict[str, object]:
    """Tags that show a mask in the colours of its classes, and keep channels from being taken for RGB."""
    if not info.classes:
        return {}
    if info.channels > 1:
        return {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": (0,) * (info.channels - 1)}
    palette = np.zeros((3, 256), np.uint16)
    palette[:, 0] = 255
    palette[:, 1 : len(info.classes) + 1] = np.transpose([of.color for of in info.classes])
    return {"photometric": "palette", "colormap": palette * np.uint16(257)}


def _resolution(mpp: float | None, level: int) -> dict[str, object]:
    if mpp is None:
        return {}
    per_cm = 1e4 / (mpp * 2**level)
    return {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}


def _told(info: RasterInfo) -> dict[str, object]:
    told = {"type": FILE_TYPE, "version": FILE_VERSION, "mpp": info.mpp, "frame": "level-0 px of the slide"}
    classes = {"classes": [asdict(of) for of in info.classes]} if info.classes else {}
    about = {"about": info.about} if info.about else {}
    return told | {"grid": asdict(info.grid)} | classes | about


@contextmanager
def _first_page(path: Path) -> Iterator[tuple[Any, RasterInfo]]:
    """Open one of our rasters; translate what tifffile says of damaged files."""
    remedy = "delete it and make it again"
    if not Path(path).is_file():
        raise StoreError("no such raster", path=path)
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            yield page, _info_of(path, file, page)
    except (tifffile.TiffFileError, OSError, ValueError, LookupError, RuntimeError, struct.error) as error:
        if isinstance(error, StoreError | GeometryError | NumericsError):
            raise
        raise StoreError(f"is damaged or no TIFF: {' '.join(str(error).split())}", path=path, remedy=remedy) from error


def _info_of(path: Path, file: Any, page: Any) -> RasterInfo:  # noqa: ANN401 (tifffile is not typed here)
    ends = [offset + size for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if not ends or max(ends) > path.stat().st_size:
        raise ValueError("cut off")
    told = _description(file, page)
    if told.get("type") != FILE_TYPE:
        raise StoreError(f"is no raster of ours: type {told.get('type')!r}, not {FILE_TYPE!r}", path=path)
    if told.get("version") != FILE_VERSION:
        raise StoreError(f"has version {told.get('version')}, this program reads {FILE_VERSION}", path=path)
    try:
        grid = told["grid"] | {"origin": tuple(told["grid"]["origin"])}
        classes = tuple(TissueClass.of(item) for item in told.get("classes", ()))
        return RasterInfo(CellGrid(**grid), told["mpp"], page.samplesperpixel, classes, told.get("about", ""))
    except (TypeError, AttributeError, GeometryError) as error:
        raise ValueError(f"its description makes no sense: {error}") from error


def _description(file: Any, page: Any) -> dict[str, Any]:  # noqa: ANN401
    text = page.description
    if file.is_ome:
        text = _ome_text(text)
    try:
        told = json.loads(text)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _ome_text(xml: str) -> str:
    """Our description in OME-XML, which the programs of others fill as they like; "" where there is none."""
    try:
        node: Any = tifffile.xml2dict(xml)
    except ElementTree.ParseError:
        return ""
    for name in ("OME", "StructuredAnnotations", "MapAnnotation", "Value", "M", "value"):
        # An element that is there twice is a list, an empty one a string: neither is ours.
        node = node.get(name) if isinstance(node, dict) else None
    return node if isinstance(node, str) else ""


def _read(page: Any, rows: slice, cols: slice) -> Pixels:  # noqa: ANN401
    """Decode the tiles under a window, one at a time."""
    depth = page.shape[2:]
    window = np.zeros((rows.stop - rows.start, cols.stop - cols.start, *depth), np.uint8)
    across = -(-page.imagewidth // page.tilewidth)
    for i in range(rows.start // page.tilelength, -(-rows.stop // page.tilelength)):
        for j in range(cols.start // page.tilewidth, -(-cols.stop // page.tilewidth)):
            tile = _decode(page, i * across + j)
            top, left = i * page.tilelength, j * page.tilewidth
            inner = _overlap(rows, top, page.tilelength), _overlap(cols, left, page.tilewidth)
            target = (
                slice(inner[0].start - rows.start, inner[0].stop - rows.start),
                slice(inner[1].start - cols.start, inner[1].stop - cols.start),
            )
            source = (
                slice(inner[0].start - top, inner[0].stop - top),
                slice(inner[1].start - left, inner[1].stop - left),
            )
            window[target] = tile[source].reshape(window[target].shape)
    return window


def _decode(page: Any, index: int) -> Pixels:  # noqa: ANN401
    file = page.parent.filehandle
    file.seek(page.dataoffsets[index])
    data = file.read(page.databytecounts[index])
    tile, _, _ = page.decode(data, index)
    if tile is None:
        raise StoreError(f"lacks tile {index}", path=file.path)
    return np.asarray(tile[0])


def _overlap(span: slice, start: int, size: int) -> slice:
    return slice(max(span.start, start), min(span.stop, start + size))


def _within(span: slice, size: int, what: str) -> slice:
    start = 0 if span.start is None else span.start
    stop = size if span.stop is None else span.stop
    if span.step not in (None, 1) or not 0 <= start < stop <= size:
        raise GeometryError(f"{what} {start}:{stop} do not lie within 0:{size}")
    return slice(start, stop)

"""Masks of any program, and rasters of ours, streamed in bands of rows: memory that does not grow with the slide."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsipipe.annotations.masks import read_labels
from wsipipe.errors import StoreError

_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_BUFFER_BYTES = 1 << 24
_PIECE_PX = 1 << 22
_MIN_IS_WHITE = tifffile.PHOTOMETRIC.MINISWHITE


class LabelRaster:
    """A picture of labels: not zero is in target, or each value is a class.

    TIFF is read tile by tile (or strip by strip), its first page alone, which is level 0 of a pyramid; other pictures
    are read whole, up to 200 million px. What is decoded at once is held as it is, and handed on in pieces of at most 4
    million px (a row at least): a row of tiles, a strip, which in a TIFF of a single strip is all of the mask, or the
    whole picture.

    Parameters
    ----------
    path : Path
        TIFF, BigTIFF, PNG, or another picture without loss; one channel, or several that are equal.

    Raises
    ------
    WsipipeError
        The file is missing, damaged, no picture, or its pixels are no labels.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole: NDArray[Any] | None = None
        if _is_tiff(path):
            with _page(path) as page:
                _check_labels(page, path)
                self.rows, self.cols = int(page.imagelength), int(page.imagewidth)
        else:
            self._whole = read_labels(path)
            self.rows, self.cols = self._whole.shape

    def bands(self) -> Iterator[NDArray[np.bool_]]:
        """All rows, top to bottom, in bands (n, cols) of whichever height suits the file; errors as above."""
        return (band != 0 for band in self.labels())

    def labels(self) -> Iterator[NDArray[Any]]:
        """Bands as `bands` gives them, with the values of the pixels."""
        if self._whole is not None:
            yield from _pieces(self._whole)
            return
        with _page(self.path) as page:
            yield from _bands(page, self.path)


def _is_tiff(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) in _TIFF
    except OSError as error:
        raise StoreError(f"cannot be read: {error.strerror}", path=path) from error


@contextmanager
def _page(path: Path) -> Iterator[Any]:
    """First page of a TIFF; translate what tifffile says of damaged files."""
    try:
        with tifffile.TiffFile(path) as file:
            yield file.pages.first
    except (tifffile.TiffFileError, OSError, ValueError, LookupError, RuntimeError, struct.error) as error:
        if isinstance(error, StoreError):
            raise
        problem = f"is damaged or no TIFF: {' '.join(str(error).split())}"
        raise StoreError(problem, path=path, remedy="make it again") from error


def _check_labels(page: Any, path: Path) -> None:  # noqa: ANN401 (tifffile is not typed here)
    remedy = "save one value per class, without loss"
    if page.compression in (tifffile.COMPRESSION.JPEG, tifffile.COMPRESSION.OJPEG):
        raise StoreError("is compressed as JPEG, which blurs labels", path=path, remedy=remedy)
    if page.dtype is None or page.dtype.kind not in "bui":
        raise StoreError(f"holds {page.dtype} values, not labels", path=path, remedy=remedy)
    if page.planarconfig != tifffile.PLANARCONFIG.CONTIG and page.samplesperpixel > 1:
        raise StoreError("keeps its channels apart", path=path, remedy=remedy)


def _pieces(band: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Rows of a band, few enough that arrays made of them are small."""
    rows = max(1, _PIECE_PX // max(1, band.shape[1]))
    return (band[start : start + rows] for start in range(0, len(band), rows))


def _bands(page: Any, path: Path) -> Iterator[NDArray[Any]]:  # noqa: ANN401
    return _bands_of_tiles(page, path) if page.is_tiled else _bands_of_strips(page, path)


def _segments(page: Any) -> Iterator[tuple[NDArray[Any] | None, int, int]]:  # noqa: ANN401
    """Decode tiles or strips in turn: (h, w, samples), None where nothing is stored, and the first row and column."""
    # One worker and a small buffer: the point is little memory.
    for data, index, shape in page.segments(maxworkers=1, buffersize=_BUFFER_BYTES):
        yield None if data is None else np.asarray(data)[0][: shape[-3], : shape[-2]], index[-3], index[-2]


def _bands_of_strips(page: Any, path: Path) -> Iterator[NDArray[Any]]:  # noqa: ANN401
    height, rows, cols = int(page.rowsperstrip), int(page.imagelength), int(page.imagewidth)
    for data, row, _ in _segments(page):
        if data is None:
            yield from _pieces(np.zeros((min(height, rows - row), cols), page.dtype))
        else:
            yield from (_values(piece, page, path) for piece in _pieces(data))


def _bands_of_tiles(page: Any, path: Path) -> Iterator[NDArray[Any]]:  # noqa: ANN401
    height, rows, cols, top = int(page.tilelength), int(page.imagelength), int(page.imagewidth), 0
    band = np.zeros((min(height, rows), cols), page.dtype)
    for data, row, col in _segments(page):
        if row >= top + height:
            yield from _pieces(band)
            top += height
            band = np.zeros((min(height, rows - top), cols), page.dtype)
        if data is not None:
            part = band[row - top :, col : col + data.shape[1]]
            part[: data.shape[0]] = _values(data, page, path)[: part.shape[0], : part.shape[1]]
    yield from _pieces(band)


def _values(labels: NDArray[Any], page: Any, path: Path) -> NDArray[Any]:  # noqa: ANN401
    """(h, w, samples) labels as (h, w): one channel of several that are equal; alpha does not count."""
    colours = labels[..., :1] if labels.shape[2] in (1, 2) else labels[..., :3]
    if colours.shape[2] > 1 and (colours != colours[..., :1]).any():
        raise StoreError("holds colours, not labels", path=path, remedy="save one value per class, without RGB")
    values = np.asarray(colours[..., 0])
    return _inverted(values, int(page.bitspersample)) if page.photometric == _MIN_IS_WHITE else values


def _inverted(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """Values as other readers give them, where 0 is stored for the largest one."""
    inverted = ~values
    return np.asarray(inverted & values.dtype.type((1 << bits) - 1) if values.dtype.kind == "u" else inverted)

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


class LabelRaster:
    """A picture of labels: not zero is in target, or each value is a class.

    TIFF is read tile by tile (or strip by strip), its first page alone, which is level 0 of a pyramid; other pictures
    are read whole, up to 200 million px.

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
        """All rows, top to bottom, in bands (n, cols) of whichever height the file suggests; errors as above."""
        return (band != 0 for band in self.labels())

    def labels(self) -> Iterator[NDArray[Any]]:
        """Bands as `bands` gives them, with the values of the pixels."""
        if self._whole is not None:
            yield self._whole
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


def _bands(page: Any, path: Path) -> Iterator[NDArray[Any]]:  # noqa: ANN401
    """Segments of a page come row by row; those of one row of tiles make a band."""
    height = int(page.tilelength if page.is_tiled else page.rowsperstrip)
    rows, cols, top = int(page.imagelength), int(page.imagewidth), 0
    band = np.zeros((min(height, rows), cols), page.dtype)
    # One worker and a small buffer: the point is little memory.
    for data, index, shape in page.segments(maxworkers=1, buffersize=_BUFFER_BYTES):
        row, col = index[-3], index[-2]
        if row >= top + height:
            yield band
            top += height
            band = np.zeros((min(height, rows - top), cols), page.dtype)
        if data is not None:
            values = _values(np.asarray(data)[0][: shape[-3], : shape[-2]], path)
            part = band[row - top :, col : col + values.shape[1]]
            part[: values.shape[0]] = values[: part.shape[0], : part.shape[1]]
    yield band


def _values(labels: NDArray[Any], path: Path) -> NDArray[Any]:
    """(h, w, samples) labels as (h, w): one channel of several that are equal; alpha does not count."""
    colours = labels[..., :1] if labels.shape[2] in (1, 2) else labels[..., :3]
    if (colours != colours[..., :1]).any():
        raise StoreError("holds colours, not labels", path=path, remedy="save one value per class, without RGB")
    return np.asarray(colours[..., 0])

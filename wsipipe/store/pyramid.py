"""Levels of a pyramid made from bands of rows, with flat memory: each level feeds the next through a spill file."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import NumericsError

Pixels = NDArray[np.uint8]
Reduce = Literal["nearest", "mean"]


def level_shapes(rows: int, cols: int, tile: int) -> list[tuple[int, int]]:
    """(rows, cols) of each level: halves, rounded up, until one tile holds everything."""
    shapes = [(rows, cols)]
    while max(shapes[-1]) > tile:
        shapes.append((math.ceil(shapes[-1][0] / 2), math.ceil(shapes[-1][1] / 2)))
    return shapes


def halve(band: Pixels, reduce: Reduce) -> Pixels:
    """Half the size of a band, rounded up.

    Parameters
    ----------
    band : (h, w) or (h, w, 3) uint8 array
        Rows of a level, beginning at an even row.
    reduce : str
        "nearest": the top-left pixel of each 2 x 2 block, so that labels stay labels. "mean": the mean of the
        block's pixels within the level, halves rounded up.

    Returns
    -------
    (ceil(h / 2), ceil(w / 2)) or (..., 3) uint8 array
    """
    if reduce == "nearest":
        return band[::2, ::2]
    # A lone last row or column is averaged with itself: the mean of what there is.
    odd = [(0, band.shape[0] % 2), (0, band.shape[1] % 2)] + [(0, 0)] * (band.ndim - 2)
    whole = np.pad(band, odd, mode="edge") if any(after for _, after in odd) else band
    total = whole[::2, ::2].astype(np.uint16)
    for part in (whole[1::2, ::2], whole[::2, 1::2], whole[1::2, 1::2]):
        total += part
    return ((total + 2) >> 2).astype(np.uint8)


def regroup(
    bands: Iterable[Pixels], *, shape: tuple[int, int], channels: tuple[int, ...], rows: int
) -> Iterator[Pixels]:
    """Bands of any height as bands of exactly `rows` rows, the last one excepted.

    Parameters
    ----------
    bands : iterable of (h, w) or (h, w, 3) uint8 arrays
        Top to bottom, (h, w, *channels).
    shape : (int, int)
        (rows, cols) of all bands together.

    Raises
    ------
    NumericsError
        A band has another width, depth or dtype, or the bands together another height.
    """
    waiting: list[Pixels] = []
    height = seen = 0
    for band in bands:
        if band.shape[1:] != (shape[1], *channels) or band.dtype != np.uint8:
            raise NumericsError(f"a band is (h, {(shape[1], *channels)}) uint8, got {band.shape} {band.dtype}")
        waiting.append(band)
        height, seen = height + len(band), seen + len(band)
        while height >= rows:
            whole = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
            yield whole[:rows]
            waiting, height = [whole[rows:]], height - rows
    if seen != shape[0]:
        raise NumericsError(f"the bands hold {seen} rows of {shape[0]}")
    if height:
        yield np.concatenate(waiting)


def cut_tiles(bands: Iterable[Pixels], tile: int) -> Iterator[Pixels]:
    """Full tiles, row by row; the last ones are filled up with their edge, which compresses without ringing."""
    for band in bands:
        for start in range(0, band.shape[1], tile):
            piece = band[:, start : start + tile]
            missing = [(0, tile - piece.shape[0]), (0, tile - piece.shape[1])] + [(0, 0)] * (band.ndim - 2)
            yield np.ascontiguousarray(np.pad(piece, missing, mode="edge"))


class Spill:
    """Rows parked on disk in a nameless file, gone with the process whatever happens.

    Parameters
    ----------
    folder : Path
        Where there is room: the output folder.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by __exit__)

    def fill(self, bands: Iterable[Pixels], reduce: Reduce) -> None:
        """Park bands at half the size."""
        for band in bands:
            self._file.write(np.ascontiguousarray(halve(band, reduce)).data)

    def tee(self, bands: Iterable[Pixels], reduce: Reduce) -> Iterator[Pixels]:
        """Pass bands on and park each of them at half the size."""
        for band in bands:
            self.fill([band], reduce)
            yield band

    def bands(self, *, shape: tuple[int, int], channels: tuple[int, ...], rows: int) -> Iterator[Pixels]:
        """Give the parked rows of a level of `shape`, in bands of `rows` rows."""
        self._file.seek(0)
        for start in range(0, shape[0], rows):
            size = (min(rows, shape[0] - start), shape[1], *channels)
            yield np.frombuffer(self._file.read(math.prod(size)), np.uint8).reshape(size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

"""Training windows: points on cells, what the network sees of them, and what is known of the truth."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsipipe.annotations.masks import read_class_mask, read_mask
from wsipipe.annotations.points import IN_TARGET, PointSet
from wsipipe.errors import AnnotationError
from wsipipe.pipeline.mask_extent import check_single_class, mask_extent
from wsipipe.pipeline.sources import Source
from wsipipe.pipeline.windows import place_windows

UNLABELLED = -1


@dataclass(frozen=True, eq=False)
class CellPoints:
    """Points of one slide on the cells of its map.

    Parameters
    ----------
    cells : (n, 2) int64 array
        (row, col).
    label : (n,) int64 array
        1 in-target, 0 out-of-target; of several classes, 0 and up.
    """

    cells: NDArray[np.int64]
    label: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)

    def of(self, label: int) -> NDArray[np.int64]:
        """Cells of one class, (m, 2)."""
        return np.asarray(self.cells[self.label == label])

    def subset(self, keep: NDArray[np.bool_]) -> CellPoints:
        """Points where `keep` (n,) is set."""
        return CellPoints(self.cells[keep], self.label[keep])

    def within(self, rows: slice, cols: slice) -> CellPoints:
        """Points inside a window, as cells of the window."""
        corner = np.array([rows.start, cols.start])
        end = np.array([rows.stop, cols.stop])
        inside = self.subset(np.asarray(((self.cells >= corner) & (self.cells < end)).all(axis=1)))
        return CellPoints(inside.cells - corner, inside.label)


@dataclass(frozen=True, eq=False)
class Sample:
    """One training or validation window.

    Parameters
    ----------
    source : Source
        What it is read from.
    rows, cols : slice
        Cells of the map.
    points : CellPoints
        In cells of the window.
    point_width : int
        A point labels this many cells squared.
    mask : Path or None
        Reference mask of the whole slide.
    classes : int
        How many classes are told apart; 0: target and rest.
    """

    source: Source
    rows: slice
    cols: slice
    points: CellPoints
    point_width: int = 1
    mask: Path | None = None
    classes: int = 0

    @property
    def name(self) -> str:
        """Slide and place, unique in a run."""
        return f"{self.source.entry.key}[{self.rows.start}:{self.rows.stop},{self.cols.start}:{self.cols.stop}]"

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) of the window."""
        return self.rows.stop - self.rows.start, self.cols.stop - self.cols.start


@dataclass(frozen=True, eq=False)
class WindowData:
    """What a window holds, compact.

    Parameters
    ----------
    features : (h, w, c) float16 or uint8 array
        Features, or RGB.
    valid : (h, w) bool array
        Cells that hold something.
    truth : (h, w) bool or int8 array, or None
        Reference mask on the cells; int8: one of several classes, -1 where it says nothing.
    """

    features: NDArray[np.float16] | NDArray[np.uint8]
    valid: NDArray[np.bool_]
    truth: NDArray[np.bool_] | NDArray[np.int8] | None

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self.features.nbytes + self.valid.nbytes + (0 if self.truth is None else self.truth.nbytes)

    def inputs(self) -> NDArray[np.float32]:
        """Network input (c, h, w) float32: features as they are, RGB in [0, 1]."""
        values = np.moveaxis(self.features, 2, 0).astype(np.float32)
        return values / np.float32(255) if self.features.dtype == np.uint8 else values


class WindowCache:
    """Windows read last, up to a limit of memory.

    Parameters
    ----------
    max_bytes : int
        Windows are dropped, longest unused first, when more than this is held; one window is always held.

    Notes
    -----
    A window's reference mask is one bit per cell (a byte, of several classes) and stays: to read it again, the mask of
    the whole slide, up to 200 million px, would have to be decoded again. Of those, the last is held, for the slide's
    next window.
    """

    def __init__(self, max_bytes: int = 512 * 2**20) -> None:
        self._max_bytes = max_bytes
        self._held: OrderedDict[str, WindowData] = OrderedDict()
        self._truths: dict[str, NDArray[Any]] = {}
        self._mask: tuple[Path, NDArray[Any]] | None = None

    def get(self, sample: Sample) -> WindowData:
        """Window of a sample, read if it is not held."""
        data = self._held.pop(sample.name, None) or self._load(sample)
        self._held[sample.name] = data
        while len(self._held) > 1 and self.nbytes > self._max_bytes:
            self._held.popitem(last=False)
        return data

    @property
    def nbytes(self) -> int:
        """Memory held by windows."""
        return sum(data.nbytes for data in self._held.values())

    def _load(self, sample: Sample) -> WindowData:
        source, rows, cols = sample.source, sample.rows, sample.cols
        return WindowData(source.read(rows, cols), source.read_valid(rows, cols), self._truth(sample))

    def _truth(self, sample: Sample) -> NDArray[np.bool_] | NDArray[np.int8] | None:
        if sample.mask is None:
            return None
        if sample.name not in self._truths:
            mask = self._decoded(sample.mask, sample.classes)
            truth = truth_of(mask, sample.source, sample.rows, sample.cols, path=sample.mask)
            self._truths[sample.name] = truth if sample.classes else np.packbits(truth)
        if sample.classes:
            return self._truths[sample.name]
        bits = np.unpackbits(self._truths[sample.name], count=sample.shape[0] * sample.shape[1])
        return bits.reshape(sample.shape).astype(np.bool_)

    def _decoded(self, path: Path, classes: int) -> NDArray[Any]:
        if self._mask is None or self._mask[0] != path:
            self._mask = None  # never two of them in memory
            self._mask = path, read_class_mask(path, classes=classes) if classes else read_mask(path)
        return self._mask[1]


def cells_of_points(points: PointSet, source: Source) -> tuple[CellPoints, int]:
    """Put points on the cells of a map.

    Parameters
    ----------
    points : PointSet
        Level-0 px.
    source : Source
        The map.

    Returns
    -------
    points : CellPoints
        Those on valid cells.
    dropped : int
        Number of out-of-target points (of several classes: points) on cells without content: the network never sees
        those.

    Raises
    ------
    AnnotationError
        An in-target point lies off the tissue.
    """
    grid = source.grid
    # The last cell of overlapping patches ends before the slide does; points beyond it belong to it.
    cells = np.clip(grid.cells_of(points.xy), 0, np.array(grid.shape) - 1)
    valid = np.array([_is_valid(source, row, col) for row, col in cells.tolist()], dtype=bool).reshape(-1)
    _check_on_tissue(points, valid)
    return CellPoints(cells[valid], points.label[valid]), int((~valid).sum())


def _is_valid(source: Source, row: int, col: int) -> bool:
    return bool(source.read_valid(slice(row, row + 1), slice(col, col + 1))[0, 0])


def _check_on_tissue(points: PointSet, valid: NDArray[np.bool_]) -> None:
    lost = ~valid & (points.label == IN_TARGET)
    if lost.any() and not points.classes:
        x, y = points.xy[lost][0]
        raise AnnotationError(
            f"{int(lost.sum())} in-target points lie off the tissue, the first at ({x:.0f}, {y:.0f}) px",
            path=points.source,
            remedy="are these the points of this slide? move them onto tissue",
        )


def draw_pairs(points: PointSet, pairs: int | None, *, seed: int, key: str) -> PointSet:
    """At most `pairs` points of each class, drawn by seed and slide, so that every method gets the same ones."""
    if pairs is None:
        return points
    rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
    chosen = [rng.permutation(np.flatnonzero(points.label == label))[:pairs] for label in points.labels]
    return points.subset(np.sort(np.concatenate(chosen)))


def cut_windows(
    source: Source, points: CellPoints, *, window: int, point_width: int, mask: Path | None, classes: int = 0
) -> list[Sample]:
    """Windows of a map that cover its points, see `place_windows`."""
    places = place_windows(points.cells, points.label, source.grid.shape, window=window)
    return [Sample(source, rows, cols, points.within(rows, cols), point_width, mask, classes) for rows, cols in places]


def label_map(sample: Sample, valid: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Labels of a window.

    Returns
    -------
    (h, w) int8 array
        1 in-target, 0 out-of-target, -1 unlabelled; of several classes, 0 and up. Each point labels a square of
        `point_width` cells, cut at the window's edge and at cells without content; cells that squares of two classes
        claim stay unlabelled, except a point's own cell.
    """
    shape, reach = sample.shape, sample.point_width // 2
    claimed = np.zeros((sample.classes or 2, *shape), dtype=bool)
    for (row, col), label in zip(sample.points.cells.tolist(), sample.points.label.tolist(), strict=True):
        claimed[label, max(0, row - reach) : row + reach + 1, max(0, col - reach) : col + reach + 1] = True
    labels = np.full(shape, UNLABELLED, dtype=np.int8)
    alone = claimed.sum(axis=0) == 1
    labels[alone] = claimed.argmax(axis=0)[alone]
    labels[tuple(sample.points.cells.T)] = sample.points.label
    labels[~valid] = UNLABELLED
    return labels


def truth_of(mask: NDArray[Any], source: Source, rows: slice, cols: slice, *, path: Path | None = None) -> NDArray[Any]:
    """Sample a reference mask at the centres of a window's cells.

    Parameters
    ----------
    mask : (height, width) array
        Of the whole slide, at any resolution; bool: of one target.
    source : Source
        The map.
    rows, cols : slice
        The window's cells.
    path : Path, optional
        Where the mask is from: one of ours knows its extent.

    Returns
    -------
    (rows, cols) array
        Of the dtype of the mask.

    Raises
    ------
    AnnotationError
        The mask is of another area, see `mask_extent`; or one of ours of several classes, read as one target.
    """
    if mask.dtype == np.bool_:
        check_single_class(path)
    grid = source.grid
    extent = mask_extent(path, mask.shape, source.slide_size, slack_px=grid.cell_px)
    y = grid.origin[1] + (np.arange(rows.start, rows.stop) + 0.5) * grid.cell_px
    x = grid.origin[0] + (np.arange(cols.start, cols.stop) + 0.5) * grid.cell_px
    return np.asarray(mask[np.ix_(extent.rows_at(y), extent.cols_at(x))])

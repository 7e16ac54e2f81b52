"""Feature maps in HDF5: written block by block, resumable, read by windows.

Layout (version 1): `feature_map` (rows, cols, dim) float16 and `valid` (rows, cols) bool, chunked in square blocks, not
compressed; chunks without a valid cell are not stored and read as zeros. Root attributes: type, version and every
field of `FeatureMapInfo` (`settings` as JSON; fields that are None are left out).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import GeometryError, NumericsError, StoreError
from wsipipe.geometry import CellGrid
from wsipipe.store.atomic import atomic_path, sweep, writing
from wsipipe.store.feature_info import FILE_TYPE, FILE_VERSION, FeatureMapInfo, from_attributes, to_attributes
from wsipipe.store.feature_journal import Block, Journal
from wsipipe.store.hdf5 import new_hdf5
from wsipipe.store.lock import FileLock

__all__ = ["FeatureMap", "FeatureMapInfo", "FeatureMapWriter", "chunk_side", "is_finished"]

_CHUNK_BYTES = 4 * 2**20
# Half as large a side stores and reads less of the glass around tissue, but costs more chunks than it spares.
_CHUNK_CELLS = 32
_REMEDY = "delete it and run `wsipipe extract` again"


class FeatureMap:
    """A finished map, read by windows; never in memory whole.

    The file is opened lazily in each process and the handle is never pickled, so that maps can be sent to workers.
    Make one with `FeatureMap.open`.
    """

    def __init__(self, path: Path, info: FeatureMapInfo) -> None:
        self.path = path
        self.info = info
        self._handle: tuple[int, Any] | None = None

    @classmethod
    def open(cls, path: Path) -> FeatureMap:
        """Open a map.

        Raises
        ------
        StoreError
            The file is missing, cut off, no feature map, or of another version.
        """
        path = Path(path)
        with _open_file(path) as file:
            info = _read_info(path, file)
        return cls(path, info)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(rows, cols, dim)."""
        return self.info.shape

    @property
    def grid(self) -> CellGrid:
        """Where the cells lie on the slide."""
        return self.info.grid

    def read(self, rows: slice, cols: slice) -> NDArray[np.float32]:
        """Read the vectors of a window.

        Parameters
        ----------
        rows, cols : slice
            Cells, within the map and without a step; open ends mean the map's.

        Returns
        -------
        (r, c, dim) float32 array
            Zeros where nothing was computed (see `read_valid`).

        Raises
        ------
        GeometryError
            The window is empty or reaches past the map.
        StoreError
            The file is damaged there.
        """
        return np.asarray(self._window("feature_map", rows, cols), dtype=np.float32)

    def read_stored(self, rows: slice, cols: slice) -> NDArray[np.float16]:
        """Read as `read` does, but in half precision as stored: whoever widens it piece by piece needs less memory."""
        return np.asarray(self._window("feature_map", rows, cols), dtype=np.float16)

    def read_valid(self, rows: slice, cols: slice) -> NDArray[np.bool_]:
        """Which cells of a window were computed, (r, c) bool; errors as for `read`."""
        return np.asarray(self._window("valid", rows, cols), dtype=np.bool_)

    def close(self) -> None:
        """Give the handle back; reading again reopens it."""
        if self._handle is not None and self._handle[0] == os.getpid():
            self._handle[1].close()
        self._handle = None

    def _window(self, name: str, rows: slice, cols: slice) -> NDArray[Any]:
        height, width, _ = self.shape
        window = _within(rows, height, "rows"), _within(cols, width, "columns")
        try:
            return np.asarray(self._file()[name][window])
        except OSError as error:
            raise StoreError(f"is damaged: {_one_line(error)}", path=self.path, remedy=_REMEDY) from error

    def _file(self) -> Any:  # noqa: ANN401 (h5py has no types)
        if self._handle is None or self._handle[0] != os.getpid():
            self._handle = os.getpid(), _open_file(self.path)
        return self._handle[1]

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "info": self.info, "_handle": None}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FeatureMapWriter:
    """Writes a map block by block; killed at any moment, the next writer goes on where it stopped.

    Blocks go to a journal "<path>.partial" (see `feature_journal`), guarded by "<path>.lock"; `finish` turns it into
    the map. Make one with `FeatureMapWriter.open` and use it as a context manager.

    Notes
    -----
    Memory is that of one block. While `finish` runs, the disk holds the vectors twice.
    """

    def __init__(self, path: Path, info: FeatureMapInfo, journal: Journal, lock: FileLock) -> None:
        self.path = path
        self.info = info
        self._journal = journal
        self._lock = lock

    @classmethod
    def open(cls, path: Path, info: FeatureMapInfo, *, block: int) -> FeatureMapWriter:
        """Begin a map, or go on with an unfinished one of the same slide, settings and block.

        Parameters
        ----------
        path : Path
            The file wanted; parents are created.
        info : FeatureMapInfo
            Geometry and provenance.
        block : int
            Side in cells of the blocks that `write_block` takes.

        Raises
        ------
        StoreError
            Another process writes this map, or the folder cannot be written.
        """
        if block < 1:
            raise NumericsError(f"a block needs at least one cell, got {block}", path=path)
        path = Path(path)
        lock = FileLock(path)
        lock.acquire()
        try:
            with writing(path):
                sweep(path)
            journal = Journal(path.with_name(path.name + ".partial"), info, block=block)
        except StoreError:
            lock.release()
            raise
        return cls(path, info, journal, lock)

    @property
    def blocks(self) -> Iterator[tuple[int, int]]:
        """Blocks (i, j) not yet done, in row order."""
        (rows, cols), done = self._journal.blocks_shape, self._journal.done
        return iter([(i, j) for i in range(rows) for j in range(cols) if (i, j) not in done])

    @property
    def n_blocks(self) -> int:
        """Number of all blocks, done or not."""
        rows, cols = self._journal.blocks_shape
        return rows * cols

    def block_slices(self, i: int, j: int) -> tuple[slice, slice]:
        """Rows and columns of the map that block (i, j) covers.

        Raises
        ------
        GeometryError
            There is no such block.
        """
        rows, cols = self._journal.blocks_shape
        if not (0 <= i < rows and 0 <= j < cols):
            raise GeometryError(f"block ({i}, {j}) lies outside {rows} x {cols} blocks", path=self.path)
        return self._journal.slices(i, j)

    def write_block(self, i: int, j: int, values: NDArray[np.floating[Any]] | None, valid: NDArray[np.bool_]) -> None:
        """Store a block; once this returns, it survives the process.

        Parameters
        ----------
        i, j : int
            Place of the block.
        values : (h, w, dim) float array or None
            Vectors; what they say at invalid cells is not kept. None where no cell is valid.
        valid : (h, w) bool array
            Which cells were computed.

        Raises
        ------
        NumericsError
            The shapes do not fit the block.
        StoreError
            A valid vector holds NaN or exceeds float16 (65504), or the disk is full.
        """
        rows, cols = self.block_slices(i, j)
        shape = (rows.stop - rows.start, cols.stop - cols.start)
        mask = np.asarray(valid, dtype=np.bool_)
        if mask.shape != shape or (values is not None and values.shape != (*shape, self.info.dim)):
            got = mask.shape if values is None else values.shape
            raise NumericsError(f"block ({i}, {j}) is {(*shape, self.info.dim)}, got {got}", path=self.path)
        if values is None and mask.any():
            raise NumericsError(f"block ({i}, {j}) has valid cells but no values", path=self.path)
        vectors = np.empty((0, self.info.dim)) if values is None else values[mask]
        self._journal.append(Block(i, j, mask, self._as_half(vectors, i, j)))

    def finish(self) -> None:
        """Turn the journal into the map, whole or not at all, and close.

        Raises
        ------
        StoreError
            Blocks are missing or damaged (unfinished work then stays, see `Journal`), or the file cannot be written.
        """
        missing = sum(1 for _ in self.blocks)
        if missing:
            raise StoreError(f"lacks {missing} of {self.n_blocks} blocks", path=self.path, remedy="run it again")
        with atomic_path(self.path) as temporary:
            _assemble(temporary, self.info, self._journal)
        self._journal.close()
        self._journal.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Release the lock; unfinished work stays for the next writer."""
        self._journal.close()
        self._lock.release()

    def _as_half(self, vectors: NDArray[Any], i: int, j: int) -> NDArray[np.float16]:
        with np.errstate(over="ignore"):
            half = vectors.astype(np.float16, copy=False)
        if not np.isfinite(half).all():
            worst = float(np.nanmax(np.abs(vectors))) if np.isfinite(vectors).any() else float("nan")
            problem = "NaN" if np.isnan(half).any() else f"{worst:g}, beyond what float16 holds (65504)"
            remedy = "look at the encoder and its weights"
            raise StoreError(f"block ({i}, {j}) holds {problem}", path=self.path, remedy=remedy)
        return half

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_finished(path: Path, info: FeatureMapInfo) -> bool:
    """Whether `path` is a whole map of the same slide content and settings."""
    if not Path(path).is_file():
        return False
    try:
        return FeatureMap.open(path).info.same_work(info)
    except StoreError:
        return False


def chunk_side(info: FeatureMapInfo) -> int:
    """Side of a chunk in cells: a power of two up to 32 that keeps a chunk within 4 MiB."""
    side = _CHUNK_CELLS
    while side > 1 and side * side * info.dim * 2 > _CHUNK_BYTES:
        side //= 2
    return side


def _assemble(temporary: Path, info: FeatureMapInfo, journal: Journal) -> None:
    with new_hdf5(temporary) as file:
        features, valid = _create(file, info)
        for block in journal:
            _place(features, valid, block, journal.slices(block.i, block.j))


def _create(file: Any, info: FeatureMapInfo) -> tuple[Any, Any]:  # noqa: ANN401
    side = chunk_side(info)
    chunks = min(side, info.grid.rows), min(side, info.grid.cols)
    file.attrs.update(to_attributes(info))
    features = file.create_dataset("feature_map", info.shape, "f2", chunks=(*chunks, info.dim), fillvalue=0)
    valid = file.create_dataset("valid", info.grid.shape, np.bool_, chunks=chunks, fillvalue=False)
    return features, valid


def _place(features: Any, valid: Any, block: Block, slices: tuple[slice, slice]) -> None:  # noqa: ANN401
    """Write a block piece by piece, each within one chunk, leaving out pieces without a valid cell."""
    if not block.valid.any():
        return
    values = np.zeros((*block.valid.shape, features.shape[2]), np.float16)
    values[block.valid] = block.vectors
    top, left = slices[0].start, slices[1].start
    for rows in _cuts(slices[0], features.chunks[0]):
        for cols in _cuts(slices[1], features.chunks[1]):
            inner = slice(rows.start - top, rows.stop - top), slice(cols.start - left, cols.stop - left)
            if block.valid[inner].any():
                features[rows, cols] = values[inner]
                valid[rows, cols] = block.valid[inner]


def _cuts(span: slice, chunk: int) -> Iterator[slice]:
    start = span.start
    while start < span.stop:
        stop = min(span.stop, (start // chunk + 1) * chunk)
        yield slice(start, stop)
        start = stop


def _open_file(path: Path) -> Any:  # noqa: ANN401 (h5py has no types)
    if not path.is_file():
        raise StoreError("no such feature map", path=path, remedy="run `wsipipe extract` first")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise StoreError(f"is cut off or no HDF5 file: {_one_line(error)}", path=path, remedy=_REMEDY) from error


def _read_info(path: Path, file: Any) -> FeatureMapInfo:  # noqa: ANN401
    try:
        kind, version = file.attrs.get("type"), file.attrs.get("version")
        if kind != FILE_TYPE:
            raise StoreError(f"is no feature map: type {kind!r}, not {FILE_TYPE!r}", path=path)
        if version != FILE_VERSION:
            raise StoreError(f"has version {version}, this program reads {FILE_VERSION}", path=path, remedy=_REMEDY)
        info = from_attributes(file.attrs)
        shapes = file["feature_map"].shape, file["valid"].shape
    except (KeyError, ValueError, TypeError, OSError, GeometryError) as error:
        raise StoreError(f"is damaged: {_one_line(error)}", path=path, remedy=_REMEDY) from error
    if shapes != (info.shape, info.grid.shape):
        raise StoreError(f"is damaged: holds {shapes}, says {info.shape}", path=path, remedy=_REMEDY)
    return info


def _within(span: slice, size: int, what: str) -> slice:
    start = 0 if span.start is None else span.start
    stop = size if span.stop is None else span.stop
    if span.step not in (None, 1) or not 0 <= start < stop <= size:
        raise GeometryError(f"{what} {start}:{stop} do not lie within 0:{size}")
    return slice(start, stop)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())

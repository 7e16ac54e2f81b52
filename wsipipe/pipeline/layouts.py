"""Which pixels make which cells of a feature map: one region per patch, or one haloed tile per block of cells.

A map is computed block by block (the unit that is written, and resumed, as a whole); a block in pieces (the unit that
goes through the encoder at once).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wsipipe.geometry import CellGrid, Region
from wsipipe.numerics.tissue import Tissue

Cells = slice | NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Block:
    """A rectangle of map cells and which of them have tissue.

    Parameters
    ----------
    index : (int, int)
        Row and column of the block.
    rows, cols : slice
        Cells of the map.
    valid : (rows, cols) bool array
        Cells to compute.
    """

    index: tuple[int, int]
    rows: slice
    cols: slice
    valid: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Piece:
    """Regions that go through the encoder together, and where their features belong.

    Parameters
    ----------
    block : Block
        The block they are part of.
    regions : tuple of Region
        Target px, all of one size.
    rows, cols : slice or (k,) int array
        Cells inside the block.
    """

    block: Block
    regions: tuple[Region, ...]
    rows: Cells
    cols: Cells

    @property
    def cells(self) -> int:
        """Number of cells with tissue."""
        return int(np.count_nonzero(self.block.valid[self.rows, self.cols]))


class Layout(Protocol):
    """How a kind of map is cut into blocks and pieces."""

    @property
    def grid(self) -> CellGrid:
        """The map, in level-0 px."""
        ...

    @property
    def block_cells(self) -> int:
        """Side of a block in cells."""
        ...

    def valid(self, rows: slice, cols: slice) -> NDArray[np.bool_]:
        """Cells with tissue among `rows` x `cols` of the map."""
        ...

    def pieces(self, block: Block) -> Iterator[Piece]:
        """Pieces that compute every valid cell of a block."""
        ...

    def arrange(self, features: NDArray[np.float32], piece: Piece) -> NDArray[np.float32]:
        """Bring what the encoder gave for a piece into the shape of its cells, features last."""
        ...


@dataclass(frozen=True, eq=False)
class PatchLayout:
    """One patch, one cell; patches go through the encoder in batches.

    Parameters
    ----------
    grid : CellGrid
        Cells under the patches.
    kept : (rows, cols) bool array
        Patches with enough tissue.
    patch_px, stride_px : int
        Side of a patch and step between patches in target px.
    batch : int
        Patches that go through the encoder at once.
    """

    grid: CellGrid
    kept: NDArray[np.bool_]
    patch_px: int
    stride_px: int
    batch: int = 16
    block_cells: int = 16

    def valid(self, rows: slice, cols: slice) -> NDArray[np.bool_]:
        """See `Layout.valid`."""
        return self.kept[rows, cols]

    def pieces(self, block: Block) -> Iterator[Piece]:
        """See `Layout.pieces`; patches without tissue appear in none."""
        rows, cols = np.nonzero(block.valid)
        for start in range(0, len(rows), self.batch):
            r, c = rows[start : start + self.batch], cols[start : start + self.batch]
            corners = zip((c + block.cols.start).tolist(), (r + block.rows.start).tolist(), strict=True)
            yield Piece(block, tuple(self._region(col, row) for col, row in corners), r, c)

    def _region(self, col: int, row: int) -> Region:
        return Region(col * self.stride_px, row * self.stride_px, self.patch_px, self.patch_px)

    def arrange(self, features: NDArray[np.float32], piece: Piece) -> NDArray[np.float32]:
        """(n, dim) as it is."""
        return features


@dataclass(frozen=True, eq=False)
class DenseLayout:
    """A block of cells is one tile with a halo, cut to the block's tissue.

    Parameters
    ----------
    grid : CellGrid
        Cells of `stride_px` target px.
    tissue : Tissue
        Cells that touch it, and their neighbours, are valid: the mask's own px are coarser than most cells.
    stride_px, halo_px : int
        Of the encoder, in target px.
    core_px : int
        About the side of a block in target px. Larger cores waste less on halos and need more memory.
    """

    grid: CellGrid
    tissue: Tissue
    stride_px: int
    halo_px: int
    core_px: int = 1024

    @property
    def block_cells(self) -> int:
        """Side of a block in cells."""
        return max(1, self.core_px // self.stride_px)

    def valid(self, rows: slice, cols: slice) -> NDArray[np.bool_]:
        """See `Layout.valid`."""
        return _touching(self.tissue, self.grid, rows, cols)

    def pieces(self, block: Block) -> Iterator[Piece]:
        """See `Layout.pieces`: one piece, none where the block has no tissue.

        The tile is cut to the rows and columns with tissue, in steps of an eighth of a block, so that tiles come in
        few sizes (each new size costs the network's library set-up time and memory).
        """
        if not block.valid.any():
            return
        step = max(1, self.block_cells // 8)
        rows, cols = _span(block.valid, step), _span(block.valid.T, step)
        core = Region(
            (block.cols.start + cols.start) * self.stride_px,
            (block.rows.start + rows.start) * self.stride_px,
            (cols.stop - cols.start) * self.stride_px,
            (rows.stop - rows.start) * self.stride_px,
        )
        yield Piece(block, (core.padded(*[self.halo_px] * 4),), rows, cols)

    def arrange(self, features: NDArray[np.float32], piece: Piece) -> NDArray[np.float32]:
        """(1, dim, h, w) with the halo -> (h', w', dim) without."""
        halo = self.halo_px // self.stride_px
        _, _, height, width = features.shape
        return features[0, :, halo : height - halo, halo : width - halo].transpose(1, 2, 0)


@dataclass(frozen=True, eq=False)
class WindowLayout:
    """A block of cells is some square windows, laid edge to edge from the slide's corner, each encoded by itself.

    For encoders whose cells see all of the image (vision transformers): each cell comes from the window that it lies
    in, whatever the blocks are. Windows without tissue are left out.

    Parameters
    ----------
    grid : CellGrid
        Cells of `stride_px` target px.
    tissue : Tissue
        As for `DenseLayout`.
    stride_px, window_px : int
        Of the encoder, in target px.
    batch : int
        Windows that go through the encoder at once.
    core_px : int
        About the side of a block in target px.
    """

    grid: CellGrid
    tissue: Tissue
    stride_px: int
    window_px: int
    batch: int = 16
    core_px: int = 1024

    @property
    def window_cells(self) -> int:
        """Side of a window in cells."""
        return self.window_px // self.stride_px

    @property
    def block_cells(self) -> int:
        """Side of a block in cells: whole windows."""
        return max(1, self.core_px // self.window_px) * self.window_cells

    def valid(self, rows: slice, cols: slice) -> NDArray[np.bool_]:
        """See `Layout.valid`."""
        return _touching(self.tissue, self.grid, rows, cols)

    def pieces(self, block: Block) -> Iterator[Piece]:
        """See `Layout.pieces`; the cells of a piece are listed window by window."""
        side = self.window_cells
        height, width = block.valid.shape
        corners = [(r, c) for r in range(0, height, side) for c in range(0, width, side)]
        corners = [(r, c) for r, c in corners if block.valid[r : r + side, c : c + side].any()]
        for start in range(0, len(corners), self.batch):
            chosen = corners[start : start + self.batch]
            cells = np.concatenate([np.argwhere(self._inside(block, *corner)) + corner for corner in chosen])
            yield Piece(block, tuple(self._region(block, *corner) for corner in chosen), cells[:, 0], cells[:, 1])

    def arrange(self, features: NDArray[np.float32], piece: Piece) -> NDArray[np.float32]:
        """(n, dim, side, side) -> (cells, dim): windows at the map's edge lose what lies past it."""
        by_window = features.transpose(0, 2, 3, 1)
        x0, y0 = piece.block.cols.start * self.stride_px, piece.block.rows.start * self.stride_px
        corners = [((r.y - y0) // self.stride_px, (r.x - x0) // self.stride_px) for r in piece.regions]
        parts = [values[self._inside(piece.block, *corner)] for values, corner in zip(by_window, corners, strict=True)]
        return np.concatenate(parts)

    def _inside(self, block: Block, row: int, col: int) -> NDArray[np.bool_]:
        """Cells of the window at (row, col) of a block that the block has, (side, side)."""
        height, width = block.valid.shape
        ahead = np.arange(self.window_cells)
        inside: NDArray[np.bool_] = (row + ahead < height)[:, None] & (col + ahead < width)
        return inside

    def _region(self, block: Block, row: int, col: int) -> Region:
        x, y = (block.cols.start + col) * self.stride_px, (block.rows.start + row) * self.stride_px
        return Region(x, y, self.window_px, self.window_px)


def _touching(tissue: Tissue, grid: CellGrid, rows: slice, cols: slice) -> NDArray[np.bool_]:
    """Cells among `rows` x `cols` that touch tissue, and their neighbours."""
    around = CellGrid(
        rows=rows.stop - rows.start + 2,
        cols=cols.stop - cols.start + 2,
        cell_px=grid.cell_px,
        origin=(
            grid.origin[0] + (cols.start - 1) * grid.cell_px,
            grid.origin[1] + (rows.start - 1) * grid.cell_px,
        ),
    )
    return _dilated(tissue_fraction(tissue, around) > 0)


def tissue_fraction(tissue: Tissue, grid: CellGrid) -> NDArray[np.float32]:
    """Tissue fraction of cells of a small grid, (rows, cols), at a cost that does not depend on the slide's size."""
    scale, (x0, y0) = tissue.grid.cell_px, tissue.grid.origin
    rows = _cut(grid.origin[1] - y0, grid.rows * grid.cell_px, scale, tissue.grid.rows)
    cols = _cut(grid.origin[0] - x0, grid.cols * grid.cell_px, scale, tissue.grid.cols)
    part = CellGrid(
        rows=rows.stop - rows.start,
        cols=cols.stop - cols.start,
        cell_px=scale,
        origin=(x0 + cols.start * scale, y0 + rows.start * scale),
    )
    return Tissue(tissue.mask[rows, cols], part).fraction(grid)


def _cut(start: float, length: float, scale: float, size: int) -> slice:
    """Mask px that [start, start + length) touches; at least one, so that there is a mask."""
    first = min(max(int(start // scale), 0), size - 1)
    last = min(max(int(-(-(start + length) // scale)), first + 1), size)
    return slice(first, last)


def _dilated(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether a cell or one of its eight neighbours is set; the outermost cells are used up."""
    rows = mask[:-2] | mask[1:-1] | mask[2:]
    return np.asarray(rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:])


def _span(mask: NDArray[np.bool_], step: int) -> slice:
    """First to last row with a set cell, widened to multiples of `step`."""
    index = np.flatnonzero(np.any(mask, axis=1))
    start, stop = int(index[0]) // step * step, -(-(int(index[-1]) + 1) // step) * step
    return slice(start, min(stop, len(mask)))

"""Dense maps of networks that can be streamed: bands of block columns, each from its top to its bottom in strips.

The bands bound the memory, whatever the slide's width. What neighbouring bands both need is computed twice; within a
band nothing is, and what no cell with tissue sees is not computed at all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsipipe.errors import ConfigError
from wsipipe.geometry import Region
from wsipipe.models.devices import pinned
from wsipipe.models.row_layers import Layer
from wsipipe.models.row_stream import Rect, RowStream, column_bytes, runs
from wsipipe.pipeline.layouts import Block, DenseLayout
from wsipipe.pipeline.memory import release_memory
from wsipipe.pipeline.pixel_source import Source
from wsipipe.read_ahead import read_ahead

# Lower strips are slower, higher ones need more memory and are no faster on a CPU.
_STRIP_PX = 128
_QUANTUM_PX = 128
# What one layer of a strip may hold; three of these are there at once.
_LAYER_BYTES = 16 * 2**20
# Narrower bands, in blocks, would compute too much twice.
_LEAST_BLOCKS = 2

Index = tuple[int, int]
Values = NDArray[np.float16]


@dataclass(frozen=True, eq=False)
class DenseStream:
    """Blocks of a dense map, computed by streaming.

    Parameters
    ----------
    layout : DenseLayout
        The map's blocks.
    layers : sequence of Layer
        The encoder's network.
    device : torch.device
        Where its weights are.
    dim : int
        Length of a feature vector.
    """

    layout: DenseLayout
    layers: Sequence[Layer]
    device: torch.device
    dim: int

    @property
    def strip(self) -> int:
        """Rows of cells that go through the network at once: a divisor of a block's."""
        side = self.layout.block_cells
        most = max(1, _STRIP_PX // self.layout.stride_px)
        return max(rows for rows in range(1, min(side, most) + 1) if side % rows == 0)

    def blocks(
        self,
        todo: set[Index],
        occupied: NDArray[np.bool_],
        source: Source,
        *,
        threads: int,
        tell: Callable[[int, int], None],
    ) -> Iterator[list[tuple[Block, Values]]]:
        """Compute blocks, band by band and from the top.

        Parameters
        ----------
        todo : set of (row, column)
            The blocks to compute.
        occupied : (rows, columns) bool array
            Blocks of the map with tissue, whether to do or not: bands do not depend on what is done already.
        source : Source
            The slide.
        threads : int
            Threads that read.
        tell : callable
            Told the cells and the pixels of every strip.

        Yields
        ------
        list of (Block, (rows, cols, dim) float16 array)
            Blocks side by side and the values of their valid cells, parts of one array; other cells hold anything.
        """
        side = self.layout.block_cells
        most = _LAYER_BYTES // (column_bytes(self.layers, strip=self.strip) * side)
        for left, right in bands(np.any(occupied, axis=0), max(_LEAST_BLOCKS, most)):
            mine = {(i, j) for i, j in todo if left <= j < right}
            if mine:
                yield from self._band(left, right, mine, source, threads, tell)

    def _band(
        self,
        left: int,
        right: int,
        todo: set[Index],
        source: Source,
        threads: int,
        tell: Callable[[int, int], None],
    ) -> Iterator[list[tuple[Block, Values]]]:
        """Compute the blocks to do of block columns [left, right)."""
        side, strip = self.layout.block_cells, self.strip
        wanted, pending = self._cells(left, right, todo)
        stream = RowStream(self.layers, wanted, strip=strip, quantum=max(1, _QUANTUM_PX // self.layout.stride_px))
        first, last = (pick(todo)[0] * side for pick in (min, max))
        x = left * side * self.layout.stride_px

        def read(number: int) -> list[Tensor]:
            return [self._pixels(source, rect, x) for rect in stream.regions(number)]

        strips = read_ahead(stream.strips(first, last + side), read, threads=threads, depth=threads + 1)
        for i, group in itertools.groupby(strips, key=lambda item: item[0] * strip // side):
            rows = slice(i * side, min((i + 1) * side, len(wanted)))
            columns = [j for j in range(left, right) if (i, j) in todo]
            values = np.empty((rows.stop - rows.start if columns else 0, wanted.shape[1], self.dim), np.float16)
            for number, pixels in group:
                features = self._push(stream, number, pixels)
                part = slice(number * strip, min((number + 1) * strip, len(wanted)))
                if columns and features is not None:
                    _store(values[_less(part, rows.start)], features)
                cells = int(np.count_nonzero(pending[part])) if part.start >= 0 else 0
                tell(cells, sum(p.shape[2] * p.shape[3] for p in pixels))
            if columns:
                yield [self._cut((i, j), left, wanted[rows], values) for j in columns]
        release_memory()

    def _cells(self, left: int, right: int, todo: set[Index]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Cells with tissue of a band, and those among them that are to be computed."""
        side, grid = self.layout.block_cells, self.layout.grid
        wanted = np.zeros((grid.rows, min(right * side, grid.cols) - left * side), np.bool_)
        pending = np.zeros_like(wanted)
        for i, j in itertools.product(range(-(-grid.rows // side)), range(left, right)):
            rows, cols = grid.block(i, j, side)
            within = _less(cols, left * side)
            wanted[rows, within] = self.layout.valid(rows, cols)
            pending[rows, within] = wanted[rows, within] & ((i, j) in todo)
        return wanted, pending

    def _cut(self, index: Index, left: int, wanted: NDArray[np.bool_], values: Values) -> tuple[Block, Values]:
        """Give a block out of the rows of a band."""
        side = self.layout.block_cells
        rows, cols = self.layout.grid.block(*index, side)
        within = _less(cols, left * side)
        return Block(index, rows, cols, wanted[:, within]), values[:, within]

    def _pixels(self, source: Source, rect: Rect, x: int) -> Tensor:
        """(1, 3, h, w) uint8, channels-last."""
        region = Region(x + rect.left, rect.top, rect.right - rect.left, rect.bottom - rect.top)
        return pinned(source.read((region,)), self.device).permute(0, 3, 1, 2)

    def _push(self, stream: RowStream, number: int, pixels: list[Tensor]) -> Tensor | None:
        try:
            return stream.push(number, [part.to(self.device, non_blocking=True) for part in pixels])
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                "the device has too little memory for a strip of the slide",
                remedy="use --device cpu, or fewer --workers",
            ) from error


def bands(occupied: NDArray[np.bool_], most: int) -> Iterator[tuple[int, int]]:
    """Cut the occupied columns of blocks into bands [left, right) of at most `most`, as even as can be."""
    for left, right in runs(occupied):
        parts = -(-(right - left) // most)
        cuts = [left + (right - left) * part // parts for part in range(parts + 1)]
        yield from itertools.pairwise(cuts)


def _less(span: slice, start: int) -> slice:
    """Count a span from `start` on."""
    return slice(span.start - start, span.stop - start)


def _store(values: Values, features: Tensor) -> None:
    """(1, dim, rows, cols) float32 -> (rows, cols, dim) float16, in one go; rows past the map are left out."""
    with torch.inference_mode():
        torch.from_numpy(values).copy_(features[0].permute(1, 2, 0)[: len(values)])

"""Layouts: every cell with tissue is computed once, from the right pixels, and nothing else is read."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from wsipipe.geometry import CellGrid, Region
from wsipipe.numerics.tissue import Tissue
from wsipipe.pipeline.layouts import Block, DenseLayout, Layout, PatchLayout, Piece, WindowLayout, tissue_fraction


@pytest.fixture
def tissue() -> Tissue:
    """Blobs on 90 x 130 mask px of 16 level-0 px each."""
    noise = ndimage.gaussian_filter(np.random.default_rng(4).normal(size=(90, 130)), 6)
    return Tissue(noise > 0.07, CellGrid(rows=90, cols=130, cell_px=16.0))


def blocks(layout: Layout) -> list[Block]:
    side, (rows, cols) = layout.block_cells, layout.grid.shape
    made = []
    for i in range(-(-rows // side)):
        for j in range(-(-cols // side)):
            r, c = (slice(k * side, min((k + 1) * side, n)) for k, n in ((i, rows), (j, cols)))
            made.append(Block((i, j), r, c, layout.valid(r, c)))
    return made


def test_patches_are_read_where_their_cells_lie(tissue: Tissue) -> None:
    kept = np.random.default_rng(0).random((23, 37)) < 0.3
    grid = CellGrid(rows=23, cols=37, cell_px=48.0, origin=(8.0, 8.0))
    layout = PatchLayout(grid, kept, patch_px=32, stride_px=24, batch=7)
    seen = np.zeros_like(kept, dtype=int)
    for block in blocks(layout):
        for piece in layout.pieces(block):
            assert 1 <= len(piece.regions) <= 7
            assert piece.cells == len(piece.regions)
            for region, row, col in zip(piece.regions, piece.rows, piece.cols, strict=True):
                r, c = block.rows.start + row, block.cols.start + col
                assert region == Region(c * 24, r * 24, 32, 32)
                seen[r, c] += 1
    assert np.array_equal(seen, kept)


@pytest.mark.parametrize(("stride", "scale"), [(16, 1.0), (16, 2.3), (32, 0.5)])
def test_dense_pieces_cover_every_valid_cell_once(tissue: Tissue, stride: int, scale: float) -> None:
    grid = CellGrid.covering(130 * 16, 90 * 16, stride * scale)
    layout = DenseLayout(grid, tissue, stride_px=stride, halo_px=3 * stride, core_px=16 * stride)
    valid, covered = np.zeros(grid.shape, bool), np.zeros(grid.shape, int)
    for block in blocks(layout):
        valid[block.rows, block.cols] = block.valid
        for piece in layout.pieces(block):
            (region,) = piece.regions
            core = region.padded(*[-3 * stride] * 4)
            rows, cols = (slice(a // stride, b // stride) for a, b in ((core.y, core.y_end), (core.x, core.x_end)))
            assert (core.x % stride, core.y % stride, core.width % stride, core.height % stride) == (0, 0, 0, 0)
            assert rows == slice(block.rows.start + piece.rows.start, block.rows.start + piece.rows.stop)
            assert cols == slice(block.cols.start + piece.cols.start, block.cols.start + piece.cols.stop)
            covered[rows, cols] += 1
    assert covered.max() == 1
    assert np.all(covered[valid] == 1)
    assert covered.mean() < 0.9  # tissue-free margins of blocks are left out
    touched = tissue.fraction(grid) > 0
    assert np.array_equal(valid, ndimage.binary_dilation(touched, np.ones((3, 3), bool)) | touched)


def test_a_block_without_tissue_has_no_piece() -> None:
    mask: NDArray[np.bool_] = np.zeros((40, 40), bool)
    mask[30:, 30:] = True
    layout = DenseLayout(
        CellGrid(rows=40, cols=40, cell_px=16.0), Tissue(mask, CellGrid(40, 40, 16.0)), 16, 32, core_px=160
    )
    assert [block.index for block in blocks(layout) if list(layout.pieces(block))] == [
        (2, 2), (2, 3), (3, 2), (3, 3),
    ]  # fmt: skip


def test_dense_features_lose_their_halo() -> None:
    layout = DenseLayout(CellGrid(9, 9, 16.0), Tissue(np.ones((1, 1), bool), CellGrid(1, 1, 144.0)), 16, 32)
    features = np.arange(3 * 8 * 9, dtype=np.float32).reshape(1, 3, 8, 9)
    block = Block((0, 0), slice(0, 4), slice(0, 5), np.ones((4, 5), bool))
    arranged = layout.arrange(features, Piece(block, (Region(-32, -32, 144, 128),), slice(0, 4), slice(0, 5)))
    assert arranged.shape == (4, 5, 3)
    assert arranged[0, 0].tolist() == features[0, :, 2, 2].tolist()
    assert arranged[3, 4].tolist() == features[0, :, 5, 6].tolist()


@pytest.mark.parametrize("core_px", [96, 250, 1024])
@pytest.mark.parametrize("batch", [1, 5])
def test_windows_bring_every_cell_its_own_value(tissue: Tissue, core_px: int, batch: int) -> None:
    """Each cell gets what its window, laid from the slide's corner, says of its place, whatever the blocks are."""
    grid = CellGrid.covering(130 * 16, 90 * 16, 23.0)
    layout = WindowLayout(grid, tissue, stride_px=16, window_px=96, batch=batch, core_px=core_px)
    assert (layout.window_cells, layout.block_cells % 6) == (6, 0)
    values, valid = np.full((*grid.shape, 2), -1.0), np.zeros(grid.shape, bool)
    for block in blocks(layout):
        valid[block.rows, block.cols] = block.valid
        for piece in layout.pieces(block):
            assert len(piece.regions) <= batch
            assert all((r.x % 96, r.y % 96, r.width, r.height) == (0, 0, 96, 96) for r in piece.regions)
            # Each cell of a window says where it lies: (row, col) of the map.
            ahead = np.mgrid[:6, :6]
            features = np.stack([ahead + np.array([r.y, r.x])[:, None, None] // 16 for r in piece.regions]).astype(
                np.float32
            )
            values[block.rows, block.cols][piece.rows, piece.cols] = layout.arrange(features, piece)
    filled = values[..., 0] >= 0
    assert np.array_equal(values[filled], np.argwhere(filled))
    assert filled[valid].all()
    assert filled.mean() < 1  # windows without tissue are left out


@pytest.mark.parametrize(
    "grid",
    [
        CellGrid(5, 7, 11.0, (100.0, 333.0)),
        CellGrid(4, 4, 90.0, (-200.0, -40.0)),
        CellGrid(3, 3, 16.0, (2070.0, 1430.0)),
        CellGrid(2, 2, 16.0, (5000.0, 5000.0)),
        CellGrid(2, 2, 16.0, (-5000.0, 64.0)),
    ],
)
def test_fraction_from_the_part_equals_fraction_from_the_whole(tissue: Tissue, grid: CellGrid) -> None:
    np.testing.assert_allclose(tissue_fraction(tissue, grid), tissue.fraction(grid), atol=1e-6)

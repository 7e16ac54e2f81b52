"""Dense maps by streaming: in bands of any width, gone on with anywhere, the same."""

from __future__ import annotations

import itertools
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsipipe.errors import ConfigError
from wsipipe.geometry import CellGrid, Region
from wsipipe.models.row_layers import Layer, Window
from wsipipe.numerics.tissue import Tissue
from wsipipe.pipeline.dense_stream import DenseStream, bands
from wsipipe.pipeline.layouts import DenseLayout
from wsipipe.pipeline.pixel_source import PixelSource

CPU = torch.device("cpu")
STRIDE, DIM = 8, 3


def mean(x: Tensor, side: int, stride: int) -> Tensor:
    return nn.functional.avg_pool2d(x.to(torch.float32), side, stride)


def network() -> tuple[Layer, ...]:
    """Means of ever more pixels: every output sees 22 px to the left and 23 to the right."""
    wide = Window(lambda x: mean(x, 5, 2), 5, 2, 2, channels=DIM, macs=1)
    return (wide, wide, Window(lambda x: mean(x, 4, 2), 4, 2, 2, channels=DIM, macs=1))


class Plane:
    """Pixels of any region, and which regions were read."""

    def __init__(self) -> None:
        self.regions: list[Region] = []

    def read(self, regions: tuple[Region, ...]) -> NDArray[np.uint8]:
        self.regions += regions
        return np.stack([plane(region) for region in regions])


def plane(region: Region) -> NDArray[np.uint8]:
    y = np.arange(region.y, region.y_end)[:, None, None]
    x = np.arange(region.x, region.x_end)[:, None]
    return ((7 * y * y + 13 * x * (x + y) + 41 * np.arange(3)) % 251).astype(np.uint8)


def expected(grid: CellGrid) -> NDArray[np.float32]:
    margin = 8
    whole = plane(Region(0, 0, grid.cols * STRIDE, grid.rows * STRIDE).padded(*[margin * STRIDE] * 4))
    x = torch.from_numpy(whole).permute(2, 0, 1)[None]
    for side, padding in ((5, 2), (5, 2), (4, 2)):
        x = mean(nn.functional.pad(x, [padding] * 4), side, 2)
    return x[0].permute(1, 2, 0).numpy()[margin : margin + grid.rows, margin : margin + grid.cols]


@pytest.fixture
def layout() -> DenseLayout:
    mask = np.zeros((23, 37), np.bool_)
    mask[2:9, 3:20] = mask[12:20, 9:14] = mask[13:22, 30:34] = True
    return DenseLayout(CellGrid(23, 37, STRIDE), Tissue(mask, CellGrid(23, 37, STRIDE)), STRIDE, 32, core_px=32)


def occupied(layout: DenseLayout) -> NDArray[np.bool_]:
    valid = np.pad(layout.valid(slice(0, 23), slice(0, 37)), ((0, 1), (0, 3)))
    return valid.reshape(6, 4, 10, 4).any(axis=(1, 3))


def computed(
    layout: DenseLayout, todo: set[tuple[int, int]], source: Plane, tell: list[int]
) -> dict[tuple[int, int], NDArray[np.float16]]:
    stream = DenseStream(layout, network(), CPU, DIM)
    blocks = stream.blocks(
        todo, occupied(layout), cast(PixelSource, source), threads=1, tell=lambda cells, pixels: tell.append(cells)
    )
    found = {}
    for block, values in itertools.chain.from_iterable(blocks):
        found[block.index] = np.where(block.valid[..., None], values, np.float16(0))
    return found


@pytest.mark.parametrize("layer_bytes", [1, 12000, 2**24])
def test_bands_of_any_width_make_the_same_map(
    layer_bytes: int, layout: DenseLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsipipe.pipeline.dense_stream._LAYER_BYTES", layer_bytes)
    monkeypatch.setattr("wsipipe.pipeline.dense_stream._LEAST_BLOCKS", 1)
    monkeypatch.setattr("wsipipe.pipeline.dense_stream._QUANTUM_PX", 16)
    todo = set(zip(*(axis.tolist() for axis in np.nonzero(occupied(layout))), strict=True))
    source, tell = Plane(), []
    found = computed(layout, todo, source, tell)
    assert found.keys() == todo
    valid = layout.valid(slice(0, 23), slice(0, 37))
    want = np.where(valid[..., None], expected(layout.grid), 0)
    for (i, j), values in found.items():
        part = want[4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
        assert values.shape == part.shape
        np.testing.assert_allclose(values, part, rtol=1e-3)
    assert sum(tell) == valid.sum()
    read = sum(region.width * region.height for region in source.regions)
    assert read < (3 if layer_bytes == 1 else 2) * 23 * 37 * STRIDE**2


def test_blocks_that_are_left_come_out_the_same_bit_for_bit(layout: DenseLayout) -> None:
    todo = set(zip(*(axis.tolist() for axis in np.nonzero(occupied(layout))), strict=True))
    whole = computed(layout, todo, Plane(), [])
    left = {(i, j) for i, j in todo if i >= 3 and (i, j) != (4, 2)}
    source, tell = Plane(), []
    part = computed(layout, left, source, tell)
    assert part.keys() == left
    for index, values in part.items():
        assert np.array_equal(values, whole[index])
    assert sum(tell) == sum(np.count_nonzero(values.any(axis=2)) for values in part.values())
    assert min(region.y for region in source.regions) > 0


@pytest.mark.parametrize(("core_px", "strip"), [(1024, 8), (160, 5), (48, 3), (16, 1)])
def test_strips_divide_blocks(core_px: int, strip: int, layout: DenseLayout) -> None:
    wide = DenseLayout(layout.grid, layout.tissue, 16, 32, core_px=core_px)
    assert DenseStream(wide, network(), CPU, DIM).strip == strip


def test_bands_are_even_and_leave_out_what_is_empty() -> None:
    occupied = np.array([0, 1, 1, 1, 1, 1, 0, 0, 1], np.bool_)
    assert list(bands(occupied, 9)) == [(1, 6), (8, 9)]
    assert list(bands(occupied, 3)) == [(1, 3), (3, 6), (8, 9)]
    assert list(bands(occupied, 1)) == [(i, i + 1) for i in (1, 2, 3, 4, 5, 8)]
    assert list(bands(np.zeros(3, np.bool_), 2)) == []


def test_a_device_that_is_too_small_is_told(layout: DenseLayout) -> None:
    def refuse(x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    stream = DenseStream(layout, (Window(refuse, 8, 8, 0, channels=DIM),), CPU, DIM)
    blocks = stream.blocks(
        {(0, 1)}, occupied(layout), cast(PixelSource, Plane()), threads=1, tell=lambda cells, pixels: None
    )
    with pytest.raises(ConfigError, match=r"too little memory for a strip of the slide.*--device cpu"):
        next(blocks)

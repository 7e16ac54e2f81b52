"""Streamed rows against one pass over the picture, set in white as wide as the network looks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsipipe.models.encoders import Streamable
from wsipipe.models.filterbank import FilterBank
from wsipipe.models.resnet import ResNetEncoder, build_resnet
from wsipipe.models.row_layers import IDENTITY, Residual, Window, layers_of
from wsipipe.models.row_stream import RowStream, column_bytes, runs

NETS = ("resnet18", "resnet34", "resnet50")
WHITE = 255


def encoder(name: str, *, stride: int = 16, dtype: torch.dtype = torch.float32, fold: bool = True) -> ResNetEncoder:
    return build_resnet(name, kind="dense", weights="none", stride_px=stride, fold=fold).to(dtype)


def crop(pixels: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """(1, 3, h, w) of (H, W, 3), white outside."""
    height, width, _ = pixels.shape
    out = torch.full((bottom - top, right - left, 3), WHITE, dtype=torch.uint8)
    y, x = slice(max(top, 0), max(min(bottom, height), 0)), slice(max(left, 0), max(min(right, width), 0))
    if y.start < y.stop and x.start < x.stop:
        out[y.start - top : y.stop - top, x.start - left : x.stop - left] = pixels[y, x]
    return out.permute(2, 0, 1)[None]


def streamed(stream: RowStream, pixels: Tensor, shape: tuple[int, int], *, strip: int, first: int = 0) -> Tensor:
    """(rows, cols, dim), NaN where nothing came."""
    out = None
    for number in stream.strips(first):
        features = stream.push(number, [crop(pixels, *rect) for rect in stream.regions(number)])
        if features is not None:
            out = torch.full((*shape, features.shape[1]), torch.nan, dtype=features.dtype) if out is None else out
            rows = slice(number * strip, min((number + 1) * strip, shape[0]))
            if rows.start >= 0:
                out[rows] = features[0].permute(1, 2, 0)[: rows.stop - rows.start]
    assert out is not None
    return out


@torch.inference_mode()
def in_one_pass(net: ResNetEncoder, pixels: Tensor, shape: tuple[int, int]) -> Tensor:
    halo, (rows, cols) = net.halo_px, shape
    white = crop(pixels, -halo, rows * net.stride_px + halo, -halo, cols * net.stride_px + halo)
    margin = halo // net.stride_px
    features = net.body(white.permute(0, 2, 3, 1))[0].permute(1, 2, 0)
    return features[margin : margin + rows, margin : margin + cols]


def cells(net: ResNetEncoder, pixels: Tensor) -> tuple[int, int]:
    return -(-pixels.shape[0] // net.stride_px), -(-pixels.shape[1] // net.stride_px)


def blobs(shape: tuple[int, int], seed: int) -> NDArray[np.bool_]:
    """Two clusters of cells with glass between them, one of them at the edge, and a cell alone."""
    wanted = np.zeros(shape, np.bool_)
    rng = np.random.default_rng(seed)
    wanted[: shape[0] // 3, -shape[1] // 3 :] = rng.random((shape[0] // 3, -(-shape[1] // 3))) < 0.5
    wanted[-1, 0] = True
    wanted[shape[0] // 2, 1] = True
    return wanted


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    """Of an odd size: no multiple of anything."""
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (85, 131, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("name", "stride", "dtype", "tolerance"),
    [
        ("resnet18", 16, torch.float64, 1e-12),
        ("resnet18", 32, torch.float64, 1e-12),
        ("resnet50", 16, torch.float64, 1e-12),
        *((name, 16, torch.float32, 1e-6) for name in NETS),  # resnet34 takes too long in float64
    ],
)
def test_a_stream_equals_one_pass(name: str, stride: int, dtype: torch.dtype, tolerance: float, pixels: Tensor) -> None:
    net = encoder(name, stride=stride, dtype=dtype)
    shape = cells(net, pixels)
    expected = in_one_pass(net, pixels, shape)
    rng = np.random.default_rng(3)
    for wanted in (np.ones(shape, np.bool_), blobs(shape, 2)):
        strip, quantum = int(rng.integers(1, 7)), int(rng.integers(1, 3))
        stream = RowStream(net.row_layers(), wanted, strip=strip, quantum=quantum, dtype=dtype)
        got = streamed(stream, pixels, shape, strip=strip)
        error = (got - expected)[torch.from_numpy(wanted)].abs().max()
        assert error <= tolerance * expected.abs().max(), (strip, quantum)


def test_batch_norms_that_are_not_folded_are_applied(pixels: Tensor) -> None:
    net = encoder("resnet18", fold=False)
    shape = cells(net, pixels)
    stream = RowStream(net.row_layers(), np.ones(shape, np.bool_), strip=5)
    expected = in_one_pass(net, pixels, shape)
    assert (streamed(stream, pixels, shape, strip=5) - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("first", [1, 4])
def test_begun_in_the_middle_it_gives_the_same_bits(first: int, pixels: Tensor) -> None:
    net = encoder("resnet18")
    shape = cells(net, pixels)
    wanted = blobs(shape, 4)
    wanted[2:, 3:6] = True
    whole, part = (
        streamed(RowStream(net.row_layers(), wanted, strip=3, quantum=2), pixels, shape, strip=3, first=start)
        for start in (0, first)
    )
    wanted[:first] = False
    assert torch.equal(part[torch.from_numpy(wanted)], whole[torch.from_numpy(wanted)])


def test_what_no_wanted_output_sees_is_not_asked_for() -> None:
    net = encoder("resnet18")
    wanted = np.zeros((60, 80), np.bool_)
    wanted[30, 20] = wanted[31, 70] = True
    stream = RowStream(net.row_layers(), wanted, strip=2, quantum=1)
    asked = [rect for number in stream.strips() for rect in stream.regions(number)]
    before, after = 105, 105  # what resnet18 reaches to layer3: a halo of 112
    assert min(rect.top for rect in asked) in range(30 * 16 - before - 32, 30 * 16 - before + 1)
    assert max(rect.bottom for rect in asked) in range(31 * 16 + after + 1, 31 * 16 + after + 33)
    columns = {(rect.left, rect.right) for rect in asked}
    assert columns == {(13 * 16, 27 * 16), (63 * 16, 77 * 16)}
    assert stream.macs() < 0.05 * stream.macs_per_output() * wanted.size


def test_work_is_near_that_of_one_pass_and_far_below_that_of_tiles() -> None:
    """A field of 8192 x 8192 px: less than one pass over it and the halo round it all, 1.15 times the field."""
    stream = RowStream(encoder("resnet34").row_layers(), np.ones((512, 512), np.bool_), strip=8)
    work = stream.macs() / (stream.macs_per_output() * 512**2)
    tile, once = ((side + 2 * 288) ** 2 / side**2 for side in (1024, 8192))
    assert 1 < work < once
    assert work < 0.5 * tile


def test_multiply_adds_are_those_of_the_layers() -> None:
    """ResNet34 to layer3 takes 120 GFLOP per megapixel, that is 60e9 multiply-adds."""
    stream = RowStream(encoder("resnet34").row_layers(), np.ones((1, 1), np.bool_), strip=1)
    assert stream.macs_per_output() / 256 == pytest.approx(60e3, rel=0.03)


def test_memory_is_told() -> None:
    layers = encoder("resnet34").row_layers()
    # layer1: 64 channels, 4 x 4 places per output, and two rows of 4 that stay
    assert column_bytes(layers, strip=8) == 4 * 64 * 4 * (4 * 8 + 2)


class Watched(RowStream):
    """Counts the rooms that it makes, and makes them of what no result may come from."""

    rooms = 0

    def _room(self, *arguments: Any) -> Tensor:
        room = super()._room(*arguments)
        self.rooms += room.is_floating_point()
        return room.fill_(torch.nan if room.is_floating_point() else 77)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_three_layers_are_held_at_once_and_none_is_read_before_it_is_written(name: str) -> None:
    rng = np.random.default_rng(5)
    wanted = np.zeros((12, 40), np.bool_)
    wanted[2:5, 3:9] = wanted[4:10, 20:24] = wanted[9:, 30:38] = True
    stream = Watched(encoder(name).row_layers(), wanted, strip=2, quantum=2)
    for number in stream.strips():
        pixels = [
            torch.from_numpy(rng.integers(0, 256, (1, 3, r.bottom - r.top, r.right - r.left), dtype=np.uint8))
            for r in stream.regions(number)
        ]
        features = stream.push(number, pixels)
        if features is not None:  # also of cells beside those that are wanted
            assert features[..., wanted[2 * number : 2 * number + 2].any(axis=0)].isfinite().all()
    assert stream.rooms == 3


def test_any_chain_of_windows_and_residuals() -> None:
    """Sums of windows of the input, whose result can be told from the pixels without a network."""

    def total(x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x.double(), 3, 1) * 9

    box = Window(total, kernel=3, stride=1, padding=1, channels=3)
    half = Window(lambda x: x.double()[:, :, ::2, ::2].clone(), kernel=1, stride=2, padding=0, channels=3)
    layers = (box, half, Residual((box,), IDENTITY))
    grey = torch.arange(12 * 10, dtype=torch.uint8).view(12, 10, 1).expand(12, 10, 3)
    stream = RowStream(layers, np.ones((6, 5), np.bool_), strip=2, quantum=1, dtype=torch.float64)
    got = streamed(stream, grey, (6, 5), strip=2)
    plane = total(crop(grey, -9, 21, -9, 19))[:, :, ::2, ::2]  # places -8, -6, ...
    expected = (total(plane) + plane[:, :, 1:-1, 1:-1])[0, :, 3:9, 3:8].permute(1, 2, 0)
    torch.testing.assert_close(got, expected)


def test_nothing_wanted_is_no_work() -> None:
    stream = RowStream(encoder("resnet18").row_layers(), np.zeros((9, 9), np.bool_), strip=2)
    assert len(stream.strips()) == 0
    assert stream.push(0, []) is None


@pytest.mark.parametrize(("mask", "expected"), [([0, 1, 1, 0, 1], [(1, 3), (4, 5)]), ([0, 0], []), ([1], [(0, 1)])])
def test_runs(mask: list[int], expected: list[tuple[int, int]]) -> None:
    assert runs(np.array(mask, np.bool_)) == expected


def test_only_what_can_be_streamed_says_so() -> None:
    assert isinstance(encoder("resnet18"), Streamable)
    assert not isinstance(FilterBank(4), Streamable)
    with pytest.raises(TypeError, match="Linear cannot be streamed"):
        list(layers_of(nn.Linear(2, 2)))
    with pytest.raises(TypeError, match=r"\(2, 4\) cannot be streamed"):
        list(layers_of(nn.AvgPool2d((2, 4))))

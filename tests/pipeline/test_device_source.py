"""Pixels decoded and put together on a device: those of the plain way, or the plain way itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from slidemaker import tissue_picture, write_slide
from tilemaker import write_tiles
from wsipipe.config import Recipe
from wsipipe.errors import SlideError
from wsipipe.geometry import Region
from wsipipe.models.encoders import Encoder
from wsipipe.models.jpeg_decoding import UndecodableError, decode_jpegs
from wsipipe.numerics.stain.recolouring import PUBLISHED, Recolouring
from wsipipe.pipeline import device_source
from wsipipe.pipeline.device_source import DeviceSource, open_device_source
from wsipipe.pipeline.extract import _source, extract_slide
from wsipipe.pipeline.pixel_source import PixelSource
from wsipipe.pipeline.stain import RecolouredView
from wsipipe.slides import MppView, SlideEntry, open_slide
from wsipipe.store.feature_map import FeatureMap

# torchvision 0.29 announces that its decoder will go.
pytestmark = pytest.mark.filterwarnings("ignore:.*TorchVision are deprecated:DeprecationWarning")
CPU = torch.device("cpu")
MPP = (0.5, 0.83, 1.0, 0.2, 3.1)
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@pytest.fixture(scope="module")
def image(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(picture[100:470, 100:602])


@pytest.fixture(scope="module")
def path(image: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two levels, 4:2:0, 64 px tiles, 0.5 and 1 um per px."""
    return write_tiles(tmp_path_factory.mktemp("device") / "plain.svs", [image, image[::2, ::2]])


def pieces(view: MppView, side: int = 77) -> list[tuple[Region, ...]]:
    """Overlapping regions that no tile divides, some past the edges and one beside the slide, three to a piece."""
    steps = [
        Region(x, y, side, side - 5)
        for y in range(-20, view.height + side, 60)
        for x in range(-20, view.width + side, 60)
    ]
    return [tuple(steps[at : at + 3]) for at in range(0, len(steps), 3)]


def opened(view: MppView, device: torch.device = CPU) -> DeviceSource:
    source = open_device_source(view, device)
    assert source is not None
    return source


@pytest.mark.parametrize("mpp", MPP)
def test_pixels_are_those_of_the_plain_source(path: Path, mpp: float) -> None:
    with open_slide(path) as slide:
        view = MppView(slide, mpp)
        with opened(view) as ours, PixelSource(view) as plain:
            for regions in pieces(view):
                got = ours.read(regions)
                assert got.dtype == torch.uint8
                assert np.array_equal(got.numpy(), plain.read(regions))


def test_threads_share_one_source(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_source, "CACHE_BYTES", 3 * 64 * 64 * 3)
    with open_slide(path) as slide:
        view = MppView(slide, 0.83)
        with opened(view) as ours, PixelSource(view) as plain, ThreadPoolExecutor(4) as pool:
            for regions, got in zip(pieces(view), pool.map(ours.read, pieces(view)), strict=True):
                assert np.array_equal(got.numpy(), plain.read(regions))


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many streams each call of the decoder got."""
    calls: list[int] = []

    def counted(streams: Sequence[bytes], device: torch.device) -> list[Tensor]:
        calls.append(len(streams))
        return decode_jpegs(streams, device)

    monkeypatch.setattr(device_source, "decode_jpegs", counted)
    return calls


def test_a_piece_is_one_call_and_tiles_are_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_slide(path) as slide, opened(MppView(slide, 0.5)) as source:
        calls = counting(monkeypatch)
        source.read((Region(0, 0, 128, 128), Region(32, 32, 128, 128)))
        source.read((Region(64, 64, 64, 64), Region(128, 128, 64, 64)))
        source.read((Region(192, 0, 64, 64), Region(0, 0, 64, 64)))
    assert calls == [9, 0, 1]


def test_the_least_recently_used_tiles_go(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_source, "CACHE_BYTES", 2 * 64 * 64 * 3)
    with open_slide(path) as slide, opened(MppView(slide, 0.5)) as source:
        calls = counting(monkeypatch)
        for column in (0, 1, 0, 2, 0, 1):
            source.read((Region(64 * column, 0, 64, 64),))
    assert calls == [1, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("left_out", [(9,), (8, 9, 17, 18)])
def test_tiles_that_were_left_out_come_from_the_reader(
    tmp_path: Path, image: NDArray[np.uint8], left_out: tuple[int, ...]
) -> None:
    path = write_tiles(tmp_path / "gaps.svs", [image], change=lambda index, data: b"" if index in left_out else data)
    with open_slide(path) as slide:
        view = MppView(slide, 0.5)
        with opened(view) as ours, PixelSource(view) as plain:
            for regions in pieces(view):
                assert np.array_equal(ours.read(regions).numpy(), plain.read(regions))


def cut_short(data: bytes) -> bytes:
    return data[: len(data) // 2]


def of_another_size(data: bytes) -> bytes:
    return data.replace(b"\xff\xc0\x00\x11\x08\x00\x40\x00\x40", b"\xff\xc0\x00\x11\x08\x00\x20\x00\x40")


def no_stream(data: bytes) -> bytes:
    return bytes(len(data) - 2) + b"\xff\xd9"


@pytest.mark.parametrize("damage", [cut_short, of_another_size, no_stream])
def test_damaged_tiles_are_told_and_others_read(
    tmp_path: Path, image: NDArray[np.uint8], damage: Callable[[bytes], bytes]
) -> None:
    path = write_tiles(
        tmp_path / "damaged.svs", [image], change=lambda index, data: damage(data) if index == 17 else data
    )  # 8 columns: tile 17 is in column 1, row 2
    with open_slide(path) as slide:
        view = MppView(slide, 0.5)
        with opened(view) as ours, PixelSource(view) as plain:
            with pytest.raises(SlideError, match=r"damaged\.svs: tile in column 1, row 2 of level 0 .*copy it again"):
                ours.read((Region(0, 128, 192, 64),))
            beside = (Region(0, 0, 192, 128),)
            assert np.array_equal(ours.read(beside).numpy(), plain.read(beside))


def test_a_decoder_that_stops_leaves_the_work_to_the_reader(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(streams: Sequence[bytes], device: torch.device) -> list[Tensor]:
        raise UndecodableError("no more")

    with open_slide(path) as slide:
        view = MppView(slide, 0.83)
        with opened(view) as ours, PixelSource(view) as plain:
            monkeypatch.setattr(device_source, "decode_jpegs", broken)
            regions = pieces(view)[4]
            assert np.array_equal(ours.read(regions).numpy(), plain.read(regions))


def darker(image: Tensor) -> Tensor:
    return image // 8 * 8


def cropped(image: Tensor) -> Tensor:
    return image[:-1]


def spotted(image: Tensor) -> Tensor:
    image = image.clone()
    image[30, 30] = 255 - image[30, 30]
    return image


def as_if_ycbcr(image: Tensor) -> Tensor:
    """Converted once more than it should be, as where Adobe's marker is passed over."""
    y, cb, cr = (image[..., c].float() for c in range(3))
    rgb = torch.stack([y + 1.402 * (cr - 128), y - 0.344 * (cb - 128) - 0.714 * (cr - 128), y + 1.772 * (cb - 128)], -1)
    return rgb.clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("change", [darker, cropped, spotted, as_if_ycbcr])
def test_a_decoder_with_other_pixels_is_not_used(
    path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]
) -> None:
    monkeypatch.setattr(device_source, "decode_jpegs", lambda *of: [change(image) for image in decode_jpegs(*of)])
    with open_slide(path) as slide:
        assert open_device_source(MppView(slide, 0.5), CPU) is None


def test_a_decoder_that_rounds_otherwise_is_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_source, "decode_jpegs", lambda *of: [image | 1 for image in decode_jpegs(*of)])
    with open_slide(path) as slide, opened(MppView(slide, 0.5)) as source:
        assert (source.read((Region(0, 0, 64, 64),)) & 1).all()


def test_other_slides_and_recoloured_ones_are_left_to_the_cpu(path: Path, slide_path: Path, tmp_path: Path) -> None:
    lossless = write_slide(tmp_path / "lossless.svs", tissue_picture(300, 300, margin=40), compression="deflate")
    with open_slide(lossless) as slide:
        assert open_device_source(MppView(slide, 0.5), CPU) is None
    with open_slide(slide_path, reader="openslide") as slide:
        assert open_device_source(MppView(slide, 0.5), CPU) is None
    with open_slide(path) as slide:
        recolouring = Recolouring("reinhard", PUBLISHED["reinhard"], PUBLISHED["reinhard"])
        assert open_device_source(RecolouredView(slide, 0.5, recolouring), CPU) is None


def features(path: Path, out: Path, kind: str, mpp: float, device: str = "cpu") -> tuple[NDArray[np.float32], str]:
    encoder = {"name": "resnet18", "kind": kind, "weights": "none"}
    tile = {"mpp": mpp, "patch_size_px": 64, "overlap_px": 10, "min_tissue": 0.2}
    recipe = Recipe.model_validate({"tile": tile, "encoder": encoder})
    outcome = extract_slide(SlideEntry(path.stem, path), out, recipe, device=device)
    with FeatureMap.open(outcome.outputs[0]) as found:
        return found.read(slice(None), slice(None)), outcome.message


@pytest.mark.parametrize(("kind", "mpp"), [("patch", 0.5), ("dense", 0.83)])
def test_feature_maps_are_those_of_the_plain_source(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, mpp: float
) -> None:
    plain, message = features(path, tmp_path / "plain", kind, mpp)
    assert "decoded" not in message
    monkeypatch.setattr("wsipipe.pipeline.extract._source", lambda view, *_: opened(view))
    ours, message = features(path, tmp_path / "ours", kind, mpp)
    assert message.endswith("MP/s, tiles decoded on cpu")
    assert plain.any()
    assert np.array_equal(ours, plain)


@pytest.mark.parametrize("name", ["breast_C2_240_q90.svs", "CMU-1-Small-Region.svs"])
def test_pixels_of_real_slides_are_those_of_the_plain_source(shared: Path, name: str) -> None:
    with open_slide(shared / "slides" / name, mpp=0.5) as slide:
        view = MppView(slide, 0.83)
        with opened(view) as ours, PixelSource(view) as plain:
            x, y = view.width // 2 - 150, view.height // 2 - 150
            regions = (Region(x, y, 300, 290), Region(view.width - 250, view.height - 250, 300, 290))
            assert np.array_equal(ours.read(regions).numpy(), plain.read(regions))


@pytest.mark.parametrize("found", [True, False])
def test_a_gpu_decodes_where_the_encoder_runs_on_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, found: bool
) -> None:
    asked: list[torch.device] = []
    source = object() if found else None
    monkeypatch.setattr(device_source, "open_device_source", lambda view, device: (asked.append(device), source)[1])
    gpu, other = torch.device("cuda", 1), torch.device("cuda", 0)
    with open_slide(path) as slide:
        view = MppView(slide, 0.5)
        chosen = _source(view, cast(Encoder, SimpleNamespace(device=gpu)), gpu)
        assert chosen is source if found else isinstance(chosen, PixelSource)
        assert asked == [gpu]
        for encoder, device in (
            (SimpleNamespace(device=other), gpu),
            (SimpleNamespace(), gpu),
            (SimpleNamespace(), CPU),
        ):
            assert isinstance(_source(view, cast(Encoder, encoder), device), PixelSource)
        assert asked == [gpu]


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("mpp", MPP)
def test_cuda_gives_about_the_pixels_of_the_cpu(path: Path, mpp: float) -> None:
    with open_slide(path) as slide:
        view = MppView(slide, mpp)
        with opened(view, torch.device("cuda:0")) as ours, PixelSource(view) as plain:
            for regions in pieces(view):
                got = ours.read(regions)
                assert got.is_cuda
                apart = np.abs(got.cpu().numpy().astype(int) - plain.read(regions))
                assert apart.mean() <= device_source.MOST_MEAN
                assert apart.max() <= device_source.MOST


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("kind", ["patch", "dense"])
def test_cuda_makes_about_the_map_of_the_cpu(path: Path, tmp_path: Path, kind: str) -> None:
    plain, _ = features(path, tmp_path / "cpu", kind, 0.83)
    ours, message = features(path, tmp_path / "cuda", kind, 0.83, "cuda:0")
    assert message.endswith("tiles decoded on cuda:0")
    assert np.abs(ours - plain).mean() <= 0.05 * np.abs(plain).mean()

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import openslide
import pytest
import scipy.ndimage
import tifffile
import tiffslide
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsipipe.errors import GeometryError, NumericsError, StoreError
from wsipipe.geometry import CellGrid
from wsipipe.store import tiff_writing
from wsipipe.store.raster import (
    MASK_VALUE,
    RasterInfo,
    as_mask,
    iter_bands,
    own_raster_info,
    raster_info,
    read_raster,
    write_pyramid,
    write_slide_pyramid,
)

ALL = slice(None)
OME = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"
FLAVOURS = ["plain", "ome"]


def blobs(rows: int, cols: int, seed: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(size=(rows, cols))
    return as_mask(scipy.ndimage.gaussian_filter(noise, 5) > 0)


def in_bands(picture: NDArray[np.uint8], height: int) -> Iterator[NDArray[np.uint8]]:
    return (picture[start : start + height] for start in range(0, len(picture), height))


def write(path: Path, picture: NDArray[np.uint8], flavour: str, **options: Any) -> CellGrid:
    grid = CellGrid(*picture.shape[:2], 4.0, (3.0, 5.0))
    options = {"mpp": 2.0136, "reduce": "nearest", "tile": 64} | options
    write_pyramid(path, in_bands(picture, 50), grid=grid, flavour=flavour, **options)  # type: ignore[arg-type]
    return grid


def levels_of(picture: NDArray[np.uint8], tile: int) -> list[NDArray[np.uint8]]:
    """Levels by nearest neighbour, made at once from level 0."""
    count = 1 + max(0, int(np.ceil(np.log2(max(picture.shape[:2]) / tile))))
    return [picture[:: 2**level, :: 2**level] for level in range(count)]


def grey(image: Any) -> NDArray[np.uint8]:
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 2 else pixels[..., 0]


def test_a_mask_is_white_on_black_for_every_viewer() -> None:
    made = as_mask(np.array([[0.0, 2.0], [1.0, 0.0]]))
    assert made.dtype == np.uint8
    assert made.tolist() == [[0, MASK_VALUE], [MASK_VALUE, 0]]
    assert MASK_VALUE == 255


@pytest.mark.parametrize("size", [(301, 277), (64, 64), (1, 200), (200, 1), (129, 65)])
def test_openslide_reads_every_level_of_the_plain_flavour(tmp_path: Path, size: tuple[int, int]) -> None:
    picture = blobs(*size)
    write(tmp_path / "m.tif", picture, "plain")
    expected = levels_of(picture, 64)
    with openslide.OpenSlide(tmp_path / "m.tif") as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_dimensions == tuple(level.shape[::-1] for level in expected)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(2.0136, rel=1e-9)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(2.0136, rel=1e-9)
        for level, pixels in enumerate(expected):
            np.testing.assert_array_equal(grey(slide.read_region((0, 0), level, pixels.shape[::-1])), pixels)


def test_openslide_reads_the_finest_level_of_the_ome_flavour(tmp_path: Path) -> None:
    picture = blobs(301, 277)
    write(tmp_path / "m.ome.tif", picture, "ome")
    with openslide.OpenSlide(tmp_path / "m.ome.tif") as slide:
        assert slide.dimensions == (277, 301)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(2.0136, rel=1e-9)
        np.testing.assert_array_equal(grey(slide.read_region((0, 0), 0, (277, 301))), picture)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_tiffslide_reads_every_level(tmp_path: Path, flavour: str) -> None:
    picture = blobs(301, 277)
    write(tmp_path / "m.tif", picture, flavour)
    expected = levels_of(picture, 64)
    with tiffslide.TiffSlide(tmp_path / "m.tif") as slide:
        assert slide.level_dimensions == tuple(level.shape[::-1] for level in expected)
        assert slide.properties["tiffslide.mpp-x"] == pytest.approx(2.0136, rel=1e-9)
        for level, pixels in enumerate(expected):
            np.testing.assert_array_equal(grey(slide.read_region((0, 0), level, pixels.shape[::-1])), pixels)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_tifffile_reads_every_level_and_the_tags_are_right(tmp_path: Path, flavour: str) -> None:
    picture = blobs(301, 277)
    write(tmp_path / "m.tif", picture, flavour)
    expected = levels_of(picture, 64)
    with tifffile.TiffFile(tmp_path / "m.tif") as file:
        assert file.is_ome == (flavour == "ome")
        assert not file.is_bigtiff
        (series,) = file.series
        assert len(series.levels) == len(expected) == 4
        assert len(file.pages) == (1 if flavour == "ome" else 4)
        for number, (level, pixels) in enumerate(zip(series.levels, expected, strict=True)):
            page = level.pages[0]
            assert page.tile == (64, 64)
            assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
            assert page.photometric == tifffile.PHOTOMETRIC.MINISBLACK
            assert page.is_reduced == (number > 0)
            per_cm = 1e4 / (2.0136 * 2**number)
            assert page.get_resolution(unit="centimeter") == pytest.approx((per_cm, per_cm), rel=1e-6)
            np.testing.assert_array_equal(level.asarray(), pixels)


def test_ome_metadata_tell_size_and_resolution(tmp_path: Path) -> None:
    write(tmp_path / "m.tif", blobs(301, 277), "ome")
    with tifffile.TiffFile(tmp_path / "m.tif") as file:
        pixels = ElementTree.fromstring(file.ome_metadata).find(f"{OME}Image/{OME}Pixels")
    assert pixels is not None
    told = pixels.attrib
    assert (told["SizeX"], told["SizeY"], told["SizeC"], told["Type"]) == ("277", "301", "1", "uint8")
    assert (told["PhysicalSizeX"], told["PhysicalSizeXUnit"]) == ("2.0136", "µm")
    assert (told["PhysicalSizeY"], told["PhysicalSizeYUnit"]) == ("2.0136", "µm")


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 150),
    cols=st.integers(1, 150),
    flavour=st.sampled_from(FLAVOURS),
    rgb=st.booleans(),
    band=st.integers(1, 160),
)
def test_any_size_comes_back_through_our_reader_and_tifffile(
    tmp_path_factory: pytest.TempPathFactory, rows: int, cols: int, flavour: str, rgb: bool, band: int
) -> None:
    path = tmp_path_factory.mktemp("raster") / "m.tif"
    picture = np.random.default_rng(rows).integers(0, 256, (rows, cols, 3) if rgb else (rows, cols), dtype=np.uint8)
    grid = write(path, picture, flavour, tile=32)
    assert raster_info(path) == RasterInfo(grid, 2.0136, channels=3 if rgb else 1)
    np.testing.assert_array_equal(read_raster(path, ALL, ALL), picture)
    np.testing.assert_array_equal(
        read_raster(path, slice(rows // 3, rows), slice(0, cols // 2 + 1)), picture[rows // 3 :, : cols // 2 + 1]
    )
    np.testing.assert_array_equal(np.concatenate(list(iter_bands(path, band))), picture)
    with tifffile.TiffFile(path) as file:
        # For rasters of a row or two, tifffile does not group top-level pages to levels.
        levels = [level.pages[0] for level in file.series[0].levels] if flavour == "ome" else list(file.pages)
        for level, expected in zip(levels, levels_of(picture, 32), strict=True):
            np.testing.assert_array_equal(level.asarray(), expected)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_probability_is_averaged(tmp_path: Path, flavour: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (200, 256), dtype=np.uint8)
    write(tmp_path / "p.tif", picture, flavour, reduce="mean")
    means = picture.reshape(100, 2, 128, 2).mean(axis=(1, 3))
    with tifffile.TiffFile(tmp_path / "p.tif") as file:
        half = file.series[0].levels[1].asarray()
    np.testing.assert_array_equal(half, np.floor(means + 0.5))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_an_unknown_resolution_is_not_invented(tmp_path: Path, flavour: str) -> None:
    write(tmp_path / "m.tif", blobs(70, 80), flavour, mpp=None)
    assert raster_info(tmp_path / "m.tif").mpp is None
    with openslide.OpenSlide(tmp_path / "m.tif") as slide:
        assert "openslide.mpp-x" not in slide.properties
    assert b"PhysicalSize" not in (tmp_path / "m.tif").read_bytes()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_large_rasters_become_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flavour: str) -> None:
    monkeypatch.setattr(tiff_writing, "_CLASSIC_BYTES", 100_000)
    picture = blobs(400, 500)
    write(tmp_path / "m.tif", picture, flavour)
    with tifffile.TiffFile(tmp_path / "m.tif") as file:
        assert file.is_bigtiff
    np.testing.assert_array_equal(read_raster(tmp_path / "m.tif", ALL, ALL), picture)
    with openslide.OpenSlide(tmp_path / "m.tif") as slide:
        np.testing.assert_array_equal(grey(slide.read_region((0, 0), 0, (500, 400))), picture)


@pytest.mark.parametrize("reduce", ["nearest", "mean"])
def test_memory_does_not_grow_with_the_raster(tmp_path: Path, reduce: str) -> None:
    band = np.zeros((256, 2048), np.uint8)
    peaks = []
    for count in (4, 40):
        tracemalloc.start()
        write_pyramid(
            tmp_path / "m.tif",
            (band for _ in range(count)),
            grid=CellGrid(256 * count, 2048, 1.0),
            mpp=1.0,
            reduce=reduce,  # type: ignore[arg-type]
            tile=256,
        )
        assert sum(int(part.any()) for part in iter_bands(tmp_path / "m.tif", 256)) == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
    assert peaks[1] < 256 * 2048 * 10


def test_a_failed_raster_leaves_the_former_one_and_no_spill(tmp_path: Path) -> None:
    write(tmp_path / "m.tif", blobs(300, 300), "plain")
    former = (tmp_path / "m.tif").read_bytes()

    def broken() -> Iterator[NDArray[np.uint8]]:
        yield np.zeros((200, 300), np.uint8)
        raise StoreError("slide damaged")

    with pytest.raises(StoreError, match="slide damaged"):
        write_pyramid(tmp_path / "m.tif", broken(), grid=CellGrid(300, 300, 1.0), mpp=None, tile=64)
    assert [path.name for path in tmp_path.iterdir()] == ["m.tif"]
    assert (tmp_path / "m.tif").read_bytes() == former


@pytest.mark.parametrize("rows", [299, 301])
def test_bands_that_do_not_add_up_are_told(tmp_path: Path, rows: int) -> None:
    with pytest.raises(NumericsError, match=f"the bands hold {rows} rows of 300"):
        write_pyramid(
            tmp_path / "m.tif", [np.zeros((rows, 300), np.uint8)], grid=CellGrid(300, 300, 1.0), mpp=None, tile=64
        )
    assert not any(tmp_path.iterdir())


def test_impossible_requests_are_told(tmp_path: Path) -> None:
    grid = CellGrid(4, 4, 1.0)
    with pytest.raises(NumericsError, match="a multiple of 16, got 100"):
        write_pyramid(tmp_path / "m.tif", [np.zeros((4, 4), np.uint8)], grid=grid, mpp=None, tile=100)
    with pytest.raises(NumericsError, match="no band to write"):
        write_pyramid(tmp_path / "m.tif", [], grid=grid, mpp=None)
    (tmp_path / "out").touch()
    with pytest.raises(StoreError, match="choose another output folder"):
        write_pyramid(tmp_path / "out" / "m.tif", [np.zeros((4, 4), np.uint8)], grid=grid, mpp=None)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_raster_cut_off_is_told(tmp_path: Path, flavour: str) -> None:
    write(tmp_path / "whole.tif", blobs(300, 300), flavour)
    whole = (tmp_path / "whole.tif").read_bytes()
    for size in [0, 1, 7, 8, 100, 300, *range(400, len(whole), 701)]:
        (tmp_path / "m.tif").write_bytes(whole[:size])
        try:
            pixels = read_raster(tmp_path / "m.tif", ALL, ALL)
        except StoreError as error:
            assert error.path == tmp_path / "m.tif"  # noqa: PT017 (either outcome is right)
        else:
            np.testing.assert_array_equal(pixels, blobs(300, 300))
    (tmp_path / "m.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match=r"m\.tif: is damaged or no TIFF"):
        read_raster(tmp_path / "m.tif", ALL, ALL)


def test_what_is_no_raster_of_ours_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such raster"):
        raster_info(tmp_path / "m.tif")
    (tmp_path / "m.tif").write_text("no TIFF")
    with pytest.raises(StoreError, match="is damaged or no TIFF"):
        raster_info(tmp_path / "m.tif")
    for description in ("text", "[1]", '{"type": "other"}'):
        tifffile.imwrite(tmp_path / "m.tif", blobs(64, 64), tile=(32, 32), description=description, metadata=None)
        with pytest.raises(StoreError, match="is no raster of ours"):
            raster_info(tmp_path / "m.tif")
    tifffile.imwrite(tmp_path / "m.ome.tif", blobs(64, 64), tile=(32, 32))
    with pytest.raises(StoreError, match="is no raster of ours"):
        raster_info(tmp_path / "m.ome.tif")
    newer = '{"type": "wsipipe.raster", "version": 9}'
    tifffile.imwrite(tmp_path / "m.tif", blobs(64, 64), tile=(32, 32), description=newer, metadata=None)
    with pytest.raises(StoreError, match="has version 9, this program reads 1"):
        raster_info(tmp_path / "m.tif")


@pytest.mark.parametrize(
    "inside",
    [
        "<StructuredAnnotations/>",
        "<StructuredAnnotations>text</StructuredAnnotations>",
        "<StructuredAnnotations><MapAnnotation><Value/></MapAnnotation></StructuredAnnotations>",
        "<StructuredAnnotations><MapAnnotation><Value><M K='a'>1</M><M K='b'>2</M></Value></MapAnnotation>"
        "<MapAnnotation><Value><M K='c'>3</M></Value></MapAnnotation></StructuredAnnotations>",
        "<StructuredAnnotations><MapAnnotation><Value><M K='a'>1</M></Value></MapAnnotation></StructuredAnnotations>",
        "<broken>",
    ],
)
def test_whatever_others_write_into_their_ome_xml_is_none_of_ours(tmp_path: Path, inside: str) -> None:
    path = tmp_path / "m.ome.tif"
    tifffile.imwrite(path, blobs(64, 64), tile=(32, 32), description=f"<OME>{inside}</OME>", metadata=None)
    assert own_raster_info(path) is None
    with pytest.raises(StoreError, match=r"m\.ome\.tif: is no raster of ours"):
        raster_info(path)


@pytest.mark.parametrize(
    "grid",
    ["null", "4", "[]", "{}", '{"origin": null}', '{"origin": [0, 0], "rows": "9", "cols": 9, "cell_px": 1}',
     '{"origin": [0, 0], "rows": 0, "cols": 9, "cell_px": 1}', '{"origin": [0, 0], "other": 1}'],
)  # fmt: skip
def test_a_damaged_grid_is_told(tmp_path: Path, grid: str) -> None:
    path = tmp_path / "m.tif"
    description = f'{{"type": "wsipipe.raster", "version": 1, "mpp": 1, "grid": {grid}}}'
    tifffile.imwrite(path, blobs(64, 64), tile=(32, 32), description=description, metadata=None)
    with pytest.raises(StoreError, match=r"m\.tif: is damaged or no TIFF"):
        raster_info(path)


@pytest.mark.parametrize(
    "window", [(slice(0, 301), ALL), (ALL, slice(-1, 5)), (slice(5, 5), ALL), (slice(0, 9, 2), ALL)]
)
def test_windows_past_the_raster_are_refused(tmp_path: Path, window: tuple[slice, slice]) -> None:
    write(tmp_path / "m.tif", blobs(300, 300), "plain")
    with pytest.raises(GeometryError, match="do not lie within 0:300"):
        read_raster(tmp_path / "m.tif", *window)
    with pytest.raises(GeometryError, match="at least one row, got 0"):
        next(iter_bands(tmp_path / "m.tif", 0))


def test_a_slide_opens_as_aperio_with_levels_resolution_and_thumbnail(tmp_path: Path) -> None:
    path = tmp_path / "s.svs"
    # Smooth and grey, so that JPEG (4:2:0) costs next to nothing and levels can be told from shifted ones.
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(768, 1024)), 12)
    picture = np.repeat(np.clip(128 + 1500 * noise, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    height, width = picture.shape[:2]
    write_slide_pyramid(path, in_bands(picture, 100), width=width, height=height, mpp=0.4567)
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert float(slide.properties["openslide.mpp-x"]) == 0.4567
        assert float(slide.properties["openslide.objective-power"]) == pytest.approx(21.9, abs=0.01)
        sizes = slide.level_dimensions
        assert sizes == ((1024, 768), (512, 384), (256, 192))
        thumbnail = np.asarray(slide.associated_images["thumbnail"])[..., :3]
        pixels = [np.asarray(slide.read_region((0, 0), n, size))[..., :3] for n, size in enumerate(sizes)]
    with tiffslide.TiffSlide(path) as slide:
        assert slide.level_dimensions == sizes
        assert slide.properties["tiffslide.mpp-x"] == 0.4567
    expected = picture.astype(float)
    for level in pixels:
        shifted = np.abs(level[1:] - expected[:-1])
        assert 4 * np.abs(level - expected).mean() < shifted.mean()
        expected = expected.reshape(expected.shape[0] // 2, 2, expected.shape[1] // 2, 2, 3).mean(axis=(1, 3))
    assert thumbnail.shape == (384, 512, 3)
    assert np.abs(thumbnail.astype(float) - pixels[1]).mean() < 0.5


def test_a_slide_of_one_tile_has_one_level(tmp_path: Path) -> None:
    white = np.full((200, 100, 3), 255, np.uint8)
    write_slide_pyramid(tmp_path / "s.svs", [white], width=100, height=200, mpp=1.0)
    with openslide.OpenSlide(tmp_path / "s.svs") as slide:
        assert slide.level_dimensions == ((100, 200),)
        assert np.asarray(slide.read_region((0, 0), 0, (100, 200))).min() >= 254

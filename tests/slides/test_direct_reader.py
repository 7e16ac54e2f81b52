"""Tiles read straight from the file: the pixels of OpenSlide, whatever the tiles are made of."""

from __future__ import annotations

import copy
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile

from slidemaker import write_slide
from tilemaker import write_tiles
from wsipipe.errors import SlideError
from wsipipe.geometry import Region
from wsipipe.slides import open_slide, slide_identity, tile_file
from wsipipe.slides.direct_reader import ROUNDING, DirectReader
from wsipipe.slides.jpeg_stream import without_colour_markers
from wsipipe.slides.openslide_reader import BLOCK_PX, OpenSlideReader
from wsipipe.slides.tiffslide_reader import TiffSlideReader
from wsipipe.slides.tile_levels import find_tile_levels


@pytest.fixture(scope="module")
def image(picture):
    """Tissue of a size that no tile divides, (370, 502, 3); a half of it is whole."""
    return np.ascontiguousarray(picture[100:470, 100:602])


@pytest.fixture(scope="module")
def plain(image, tmp_path_factory):
    """Two levels, 4:2:0, 64 px tiles."""
    return write_tiles(tmp_path_factory.mktemp("plain") / "plain.svs", [image, image[::2, ::2]])


def random_regions(width, height, count=12, seed=0):
    """Regions of all sizes, some past the edges."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        w, h = rng.integers(1, 260, 2)
        yield Region(int(rng.integers(-20, width)), int(rng.integers(-20, height)), int(w), int(h))


def largest_difference(ours, theirs, level, regions):
    return max(
        np.abs(ours.read_region(region, level).astype(int) - theirs.read_region(region, level)).max()
        for region in regions
    )


def whole(reader, level=0):
    return reader.read_region(Region(0, 0, *reader.level_dimensions[level]), level)


@pytest.mark.parametrize("vendor", ["aperio", "generic"])
@pytest.mark.parametrize(
    ("space", "subsampling"), [("ycbcr", "420"), ("ycbcr", "422"), ("ycbcr", "444"), ("rgb", "444"), ("gray", "444")]
)
@pytest.mark.parametrize("size", [(64, 64), (128, 48), (512, 400)])
def test_pixels_are_those_of_openslide(tmp_path, image, vendor, space, subsampling, size):
    path = write_tiles(
        tmp_path / "s.tif", [image, image[::2, ::2]], size=size, space=space, subsampling=subsampling,
        vendor=vendor, bigtiff=size[0] == 64,
    )  # fmt: skip
    with open_slide(path) as ours, open_slide(path, reader="openslide") as theirs:
        assert ours.backend == "direct"
        assert (ours.vendor, ours.mpp, ours.properties) == (theirs.vendor, theirs.mpp, theirs.properties)
        for level in (0, 1):
            assert ours.level_backend(level) == "direct"
            assert largest_difference(ours, theirs, level, random_regions(502, 370)) <= ROUNDING
        shown = image if space != "gray" else image[..., 1:2]
        assert np.abs(whole(ours).astype(int) - shown).mean() < 8


def test_pixels_are_those_of_tifffile(plain):
    with open_slide(plain, reader="direct") as reader:
        for level in (0, 1):
            assert np.array_equal(whole(reader, level), tifffile.imread(plain, key=level))


@pytest.mark.parametrize("marker", ["adobe", "none"])
def test_rgb_samples_are_not_converted_with_or_without_a_marker(tmp_path, image, marker):
    change = {"adobe": lambda index, data: data, "none": lambda index, data: without_colour_markers(data)}[marker]
    path = write_tiles(tmp_path / "rgb.svs", [image], space="rgb", change=change)
    with open_slide(path) as ours, open_slide(path, reader="openslide") as theirs:
        assert ours.backend == "direct"
        assert np.array_equal(whole(ours), whole(theirs))
        assert np.abs(whole(ours).astype(int) - image).mean() < 5


def test_tables_that_stand_once_in_the_file(tmp_path, image):
    tables = bytearray(b"\xff\xd8")

    def abbreviate(index, data):
        """Move the tables of the first tile to the page; all tiles have the same."""
        kept, at = bytearray(b"\xff\xd8"), 2
        while data[at + 1] != 0xDA:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
            target = tables if data[at + 1] in (0xDB, 0xC4) else kept
            if target is kept or not index:
                target += data[at:end]
            at = end
        return bytes(kept + data[at:])

    write_tiles(tmp_path / "first.svs", [image], change=abbreviate)
    path = write_tiles(tmp_path / "s.svs", [image], change=abbreviate, tables=bytes(tables) + b"\xff\xd9")
    with open_slide(path) as ours, open_slide(path, reader="openslide") as theirs:
        assert ours.backend == "direct"
        assert np.array_equal(whole(ours), whole(theirs))


@pytest.mark.parametrize(
    "options",
    [
        {"compression": None},
        {"compression": "deflate"},
        {"compression": "lzw"},
        {"compression": "deflate", "predictor": True},
        {"compression": "jpeg2000"},
        {"compression": "deflate", "bigtiff": True},
    ],
)
def test_tiles_that_are_no_jpeg(tmp_path, image, options):
    options = dict(options)
    path, big = tmp_path / "s.tif", options.pop("bigtiff", False)
    tifffile.imwrite(path, image, tile=(64, 96), photometric="rgb", metadata=None, bigtiff=big, **options)
    with open_slide(path, reader="direct") as ours:
        padded = np.pad(image, ((20, 300), (20, 300), (0, 0)), constant_values=255)
        for region in random_regions(502, 370):
            expected = padded[region.y + 20 : region.y_end + 20, region.x + 20 : region.x_end + 20]
            assert np.array_equal(ours.read_region(region), expected)


@pytest.mark.parametrize("vendor", ["aperio", "generic"])
def test_tiles_that_were_left_out_are_painted_as_by_openslide(tmp_path, image, vendor):
    path = write_tiles(
        tmp_path / "gaps.svs", [image, image[::2, ::2]], vendor=vendor,
        change=lambda index, data: b"" if index in (0, 5, 10, 47) else data,
    )  # fmt: skip
    with open_slide(path) as ours, open_slide(path, reader="openslide") as theirs:
        assert (ours.backend, ours.level_backend(1)) == ("direct", "openslide" if vendor == "aperio" else "direct")
        assert (ours.read_region(Region(0, 0, 64, 64)) == 255).all()
        for level in (0, 1):
            assert largest_difference(ours, theirs, level, [*random_regions(502, 370), Region(0, 0, 502, 370)]) == 0


def cut_short(index, data):
    return data[: len(data) // 2] if index == 17 else data


def of_another_size(index, data):
    return (
        data.replace(b"\xff\xc0\x00\x11\x08\x00\x40\x00\x40", b"\xff\xc0\x00\x11\x08\x00\x20\x00\x40")
        if index == 17
        else data
    )


def no_stream(index, data):
    return bytes(len(data)) if index == 17 else data


@pytest.mark.parametrize("change", [cut_short, of_another_size, no_stream])
def test_damaged_tiles_are_named_and_the_rest_stays_readable(tmp_path, image, change):
    path = write_tiles(tmp_path / "damaged.svs", [image], change=change)  # 8 columns: tile 17 is in column 1, row 2
    with open_slide(path) as reader:
        assert reader.backend == "direct"
        for _ in range(2):
            with pytest.raises(SlideError, match=r"damaged\.svs: tile in column 1, row 2 of level 0 .*copy it again"):
                reader.read_region(Region(90, 140, 200, 150))
        assert np.abs(reader.read_region(Region(128, 0, 300, 370)).astype(int) - image[:, 128:428]).mean() < 8
    with (
        DirectReader(OpenSlideReader(path), damaged="white") as reader,
        pytest.warns(UserWarning, match=r"damaged\.svs: tile in column 1, row 2 .*left white"),
    ):
        pixels = whole(reader)
    assert (pixels[128:192, 64:128] == 255).all()
    assert np.abs(pixels[:128].astype(int) - image[:128]).mean() < 8


@pytest.mark.parametrize("compression", ["deflate", "lzw", None])
def test_damaged_tiles_without_loss(tmp_path, image, compression):
    path = tmp_path / "damaged.tif"
    tifffile.imwrite(path, image, tile=(64, 64), photometric="rgb", metadata=None, compression=compression)
    with tifffile.TiffFile(path, mode="r+b") as file:
        counts = file.pages[0].tags["TileByteCounts"]
        counts.overwrite([count // 2 if index == 17 else count for index, count in enumerate(counts.value)])
    with open_slide(path, reader="direct") as reader, pytest.raises(SlideError, match="column 1, row 2 of level 0"):
        whole(reader)


def test_files_cut_off_while_they_are_open(plain, tmp_path):
    path = tmp_path / "short.svs"
    path.write_bytes(plain.read_bytes())
    with open_slide(path) as reader:
        os.truncate(path, 20_000)
        with pytest.raises(
            SlideError, match=r"short\.svs: tile in column \d, row \d of level 0 .*the file ends before"
        ):
            whole(reader)


def test_other_pixels_than_the_library_are_not_taken(plain, monkeypatch):
    paint = OpenSlideReader._paint
    monkeypatch.setattr(OpenSlideReader, "_paint", lambda *args: paint(*args) // 2)
    with open_slide(plain) as reader:
        assert (reader.backend, reader.level_backend(0)) == ("openslide", "openslide")
        assert whole(reader).max() < 128
    with open_slide(plain, reader="direct") as reader:
        assert whole(reader).max() > 200


def test_a_level_that_differs_is_left_to_the_library(plain, monkeypatch):
    paint = OpenSlideReader._paint
    monkeypatch.setattr(OpenSlideReader, "_paint", lambda self, part, level: paint(self, part, level) // (1 + level))
    with open_slide(plain) as reader:
        assert [reader.level_backend(level) for level in (0, 1)] == ["direct", "openslide"]
        assert whole(reader, 1).max() < 128


def test_uneven_levels_are_as_stored(tmp_path, picture):
    """OpenSlide displaces them by up to half a level-0 px, but for the first block."""
    path = write_slide(tmp_path / "uneven.svs", picture[:701, :999], downsample=2.7, levels=2)
    with open_slide(path) as ours, open_slide(path, reader="openslide") as theirs:
        assert not ours.level_downsamples[1].is_integer()
        assert [ours.level_backend(level) for level in (0, 1)] == ["direct", "direct"]
        assert np.array_equal(whole(ours, 1), tifffile.imread(path, key=1))
        first = Region(0, 0, BLOCK_PX, BLOCK_PX)
        assert np.array_equal(ours.read_region(first, 1), theirs.read_region(first, 1))
        assert not np.array_equal(whole(ours, 1), whole(theirs, 1))


def test_an_uneven_level_that_differs_where_nothing_is_displaced_is_left_to_the_library(tmp_path, picture, monkeypatch):
    path = write_slide(tmp_path / "uneven.svs", picture[:701, :999], downsample=2.7, levels=2)
    paint = OpenSlideReader._paint
    monkeypatch.setattr(OpenSlideReader, "_paint", lambda self, part, level: paint(self, part, level) // (1 + level))
    with open_slide(path) as reader:
        assert [reader.level_backend(level) for level in (0, 1)] == ["direct", "openslide"]


def test_tiffslide_may_be_the_library(plain):
    with DirectReader(TiffSlideReader(plain)) as ours, open_slide(plain, reader="tiffslide") as theirs:
        assert np.array_equal(whole(ours), whole(theirs))


def test_why_a_slide_cannot_be_read_directly(tmp_path, image, plain, monkeypatch):
    strips, deep = tmp_path / "strips.tif", tmp_path / "deep.tif"
    tifffile.imwrite(strips, image, photometric="rgb", metadata=None)
    tifffile.imwrite(deep, image.astype(np.uint16), tile=(64, 64), photometric="rgb", metadata=None)
    with pytest.raises(SlideError, match=r"strips\.tif: .*level 0: 0 tiled pages have its 502 x 370 px"):
        open_slide(strips, reader="direct")
    with pytest.raises(SlideError, match=r"deep\.tif: .*level 0: its samples are not 8-bit pixels"):
        open_slide(deep, reader="direct")
    monkeypatch.setattr("wsipipe.slides.direct_reader.PLAIN_VENDORS", ())
    with pytest.raises(SlideError, match=r"plain\.svs: .*slides of vendor aperio cannot be read directly"):
        open_slide(plain, reader="direct")
    with open_slide(plain) as reader:
        assert reader.backend == "openslide"


def test_several_pages_of_one_size_are_not_told_apart(tmp_path, image):
    path = tmp_path / "stack.tif"
    with tifffile.TiffWriter(path) as writer:
        for part in (image, image[::-1]):
            writer.write(part, tile=(64, 64), photometric="rgb", metadata=None)
    found = find_tile_levels(path, [(502, 370)])
    assert found == ["2 tiled pages have its 502 x 370 px"]


def test_threads_read_the_same(plain):
    regions = list(random_regions(502, 370, count=60))
    with open_slide(plain) as reader:
        expected = [reader.read_region(region) for region in regions]
    with open_slide(plain) as reader, ThreadPoolExecutor(4) as pool:
        for found, one in zip(pool.map(reader.read_region, regions), expected, strict=True):
            assert np.array_equal(found, one)


def test_a_small_cache_gives_the_same_pixels_and_stays_small(plain):
    levels = find_tile_levels(plain, [(502, 370)])
    one, tile = Region(10, 10, 400, 300), 64 * 64 * 3
    whole_file = tile_file.TileFile(plain, levels)
    expected = whole_file.read(one, 0, stand_in=_no_stand_in)
    for slots in (0, 1, 3):
        file = tile_file.TileFile(plain, levels, cache_bytes=slots * tile)
        for region in (one, Region(0, 0, 200, 90), Region(130, 100, 300, 270), Region(63, 63, 2, 2)):
            file.read(region, 0, stand_in=_no_stand_in)
            assert len(file.cache) <= slots
        assert np.array_equal(file.read(one, 0, stand_in=_no_stand_in), expected)


def test_tiles_that_cannot_be_read_leave_their_room_to_others(tmp_path, image):
    path = write_tiles(tmp_path / "bad.svs", [image], change=lambda index, data: data[:90] if not index else data)
    file = tile_file.TileFile(path, find_tile_levels(path, [(502, 370)]), cache_bytes=64 * 64 * 3)
    for _ in range(2):
        with pytest.raises(AssertionError, match="was not read"):
            file.read(Region(10, 10, 20, 20), 0, stand_in=_no_stand_in)
        assert len(file.cache) == 0
    file.read(Region(70, 10, 20, 20), 0, stand_in=_no_stand_in)
    assert len(file.cache) == 1


def _no_stand_in(tile, error):
    raise AssertionError(f"{tile} was not read: {error}")


def test_a_copy_checks_nothing_again(plain, monkeypatch):
    with open_slide(plain) as reader:
        expected = whole(reader)
        data = pickle.dumps(reader)
    monkeypatch.setattr(OpenSlideReader, "_open", lambda self: pytest.fail("OpenSlide is not needed"))
    with pickle.loads(data) as copy:
        assert np.array_equal(whole(copy), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_copy_has_a_library_of_its_own(plain, monkeypatch):
    """Threads read through copies: one that is closed, or meets damage, must not close the others' handle."""
    monkeypatch.setattr(DirectReader, "_agrees", lambda self, level: level == 0)
    with open_slide(plain) as reader:
        expected = whole(reader, 1)  # through the library
        with copy.copy(reader) as other:
            assert np.array_equal(whole(other, 1), expected)
            assert other._library is not reader._library
        assert reader._library._handle is not None
        assert np.array_equal(whole(reader, 1), expected)


def test_a_forked_process_reads_the_same(plain):
    with open_slide(plain) as reader:
        expected = whole(reader)
        child = os.fork()
        if not child:
            os._exit(0 if np.array_equal(whole(reader), expected) else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert np.array_equal(whole(reader), expected)


def test_closing_closes_the_file(plain):
    with open_slide(plain) as reader:
        whole(reader)
        number = reader._handle._bytes._file
        os.fstat(number)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(number)


def test_systems_without_pread(plain, monkeypatch):
    with open_slide(plain) as reader:
        expected = whole(reader)
        monkeypatch.setattr(tile_file, "_HAS_PREAD", False)
        monkeypatch.delattr(os, "pread")
        assert np.array_equal(whole(reader), expected)


def test_who_reads_a_slide_does_not_change_what_it_is(plain):
    before = slide_identity(plain)
    with open_slide(plain) as ours, open_slide(plain, reader="openslide") as theirs:
        assert slide_identity(ours.path) == slide_identity(theirs.path) == before
        assert (ours.bounds, ours.mpp_source) == (theirs.bounds, theirs.mpp_source)

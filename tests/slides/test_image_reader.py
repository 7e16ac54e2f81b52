"""Plain images through Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from wsipipe.errors import SlideError
from wsipipe.geometry import Region
from wsipipe.slides import open_slide
from wsipipe.slides.image_reader import image_kind

SMALL = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def read_all(path, **options):
    with open_slide(path, mpp=0.5, reader="image", **options) as reader:
        return reader.read_region(Region(0, 0, *reader.dimensions))


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_lossless_formats_come_back_whole(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(SMALL).save(path)
    assert image_kind(path) == {"png": "PNG", "tif": "TIFF", "bmp": "BMP"}[suffix]
    assert np.array_equal(read_all(path), SMALL)


def test_jpeg(tmp_path, picture):
    path = tmp_path / "a.jpg"
    Image.fromarray(picture).save(path, quality=95)
    assert np.array_equal(read_all(path), np.asarray(Image.open(path)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    image = Image.fromarray(SMALL).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    assert np.array_equal(read_all(path), np.asarray(image.convert("RGB")))


def test_transparent_is_white(tmp_path):
    rgba = np.dstack([SMALL, np.zeros((30, 40), np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert (read_all(tmp_path / "a.png") == 255).all()


def test_transparent_palette_entry_is_white(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png", transparency=0)
    assert read_all(tmp_path / "a.png").tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_sixteen_bit_grey(tmp_path):
    grey = np.array([[0, 257, 65535]], np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(grey).save(tmp_path / name)
        assert read_all(tmp_path / name)[0, :, 0].tolist() == [0, 1, 255]


def test_floating_point_is_refused(tmp_path):
    Image.fromarray(np.zeros((3, 3), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(SlideError, match=r"a\.tif: cannot be read at x 0.*floating-point samples"):
        read_all(tmp_path / "a.tif")


def test_resolution_of_the_file_is_used_when_it_makes_sense(tmp_path):
    for name, dpi, mpp in (("a.png", 50800, 0.5), ("b.jpg", 72, None), ("c.tif", 25400, 1.0)):
        Image.fromarray(SMALL).save(tmp_path / name, dpi=(dpi, dpi))
        with open_slide(tmp_path / name, reader="image") as reader:
            assert reader.mpp == (None if mpp is None else pytest.approx(mpp, rel=1e-3))


def test_decoded_once(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(SMALL).save(path)
    opened = []
    plain = PngImagePlugin.PngImageFile._open
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "_open", lambda image: (opened.append(1), plain(image))[1])
    with open_slide(path, mpp=0.5) as reader:
        first = reader.read_region(Region(0, 0, 10, 10))
        assert np.array_equal(reader.read_region(Region(0, 0, 10, 10)), first)
    assert len(opened) == 1


def test_large_images_raise_no_alarm_of_pillow(tmp_path, monkeypatch):
    """Pillow warns above 89 Mpx, which here is an error; sections of 9270 x 9910 px are ordinary."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr("wsipipe.slides.image_reader._PIECE_PX", 80)
    Image.fromarray(SMALL).save(tmp_path / "a.png")
    assert np.array_equal(read_all(tmp_path / "a.png"), SMALL)


def test_images_too_large_to_decode_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("wsipipe.slides.image_reader.LARGEST_PX", 1000)
    Image.fromarray(SMALL).save(tmp_path / "a.png")
    with pytest.raises(SlideError, match=r"plain image of 40 x 30 px.*\(write it as a tiled pyramidal TIFF first\)"):
        open_slide(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_cut_off_images_are_told_when_read(tmp_path, picture, name):
    path = tmp_path / name
    Image.fromarray(picture).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_slide(path, mpp=0.5) as reader:
        for _ in range(2):
            with pytest.raises(SlideError, match=rf"{name}: cannot be read at x 0, y 0.*image says .*truncated"):
                reader.read_region(Region(0, 0, 10, 10))


def test_cut_within_the_header(tmp_path, picture):
    path = tmp_path / "a.jpg"
    Image.fromarray(picture).save(path)
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(SlideError, match=r"a\.jpg: cannot be opened: Pillow says"):
        open_slide(path)


def test_what_is_no_image(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("words")
    with pytest.raises(SlideError, match="neither PNG, JPEG, TIFF nor BMP"):
        open_slide(path, reader="image")

"""Which library opens a slide, and what is said when none does."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from slidemaker import write_slide
from wsipipe.errors import ResolutionError, SlideError
from wsipipe.geometry import Region
from wsipipe.slides import open_slide, require_mpp


def test_openslide_comes_first_and_its_tiles_are_read_directly(slide_path):
    with open_slide(str(slide_path)) as reader:
        assert (reader.backend, reader.vendor, reader.mpp) == ("direct", "aperio", 0.5)
        assert reader.mpp_source == "openslide.mpp-x"


@pytest.mark.parametrize(
    ("forced", "vendor"), [("openslide", "aperio"), ("tiffslide", "aperio"), ("image", "image"), ("direct", "aperio")]
)
def test_a_library_can_be_forced(slide_path, forced, vendor):
    with open_slide(slide_path, reader=forced) as reader:
        assert (reader.backend, reader.vendor) == (forced, vendor)


def test_plain_cores_fall_to_the_next_library(tmp_path, picture):
    strips = tmp_path / "core.tif"
    tifffile.imwrite(strips, picture[:100, :100], photometric="rgb", resolution=(20000, 20000), resolutionunit=3)
    with open_slide(strips) as reader:
        assert (reader.backend, reader.mpp) == ("tiffslide", 0.5)
        assert np.array_equal(reader.read_region(Region(5, 6, 50, 40)), picture[6:46, 5:55])
    png = tmp_path / "core.png"
    Image.fromarray(picture[:100, :100]).save(png)
    with open_slide(png) as reader:
        assert reader.backend == "image"


def test_generic_pyramids_take_their_resolution_from_the_tiff(tmp_path, picture):
    path = write_slide(tmp_path / "g.tif", picture, vendor="generic", mpp=0.7)
    for backend in ("openslide", "tiffslide"):
        with open_slide(path, reader=backend) as reader:
            assert require_mpp(reader) == pytest.approx(0.7, rel=1e-4)


def test_no_resolution_names_the_flag(tmp_path, picture):
    path = write_slide(tmp_path / "none.svs", picture, mpp=None, levels=1)
    with open_slide(path) as reader:
        assert reader.mpp is None
        with pytest.raises(ResolutionError, match=r"none\.svs: has no known resolution: .*--slide-mpp"):
            require_mpp(reader)
    with open_slide(path, mpp=1.0) as reader:
        assert require_mpp(reader) == 1.0


def test_absurd_override(slide_path):
    with pytest.raises(ResolutionError, match=r"tissue\.svs: a resolution of 500 um per px is absurd"):
        open_slide(slide_path, mpp=500)


def test_unknown_reader(slide_path):
    with pytest.raises(
        SlideError, match=r"no reader is called 'bioformats'.*auto, openslide, tiffslide, image, direct"
    ):
        open_slide(slide_path, reader="bioformats")


def test_no_such_file(tmp_path):
    with pytest.raises(SlideError, match=r"none\.svs: no such file$"):
        open_slide(tmp_path / "none.svs")


def test_empty_file(tmp_path):
    path = tmp_path / "empty.svs"
    path.touch()
    with pytest.raises(SlideError, match=r"empty\.svs: is empty$"):
        open_slide(path)


def test_folder(tmp_path):
    with pytest.raises(SlideError, match="folder without DICOM files"):
        open_slide(tmp_path)


def test_unknown_format_tells_what_every_library_said(tmp_path):
    path = tmp_path / "words.svs"
    path.write_text("these are words, no slide")
    with pytest.raises(SlideError) as caught:
        open_slide(path)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in ("words.svs", "OpenSlide says", "tiffslide says"))


@pytest.mark.parametrize("reader", ["auto", "direct", "openslide", "tiffslide", "image"])
@pytest.mark.parametrize("share", [0.3, 0.999])
def test_cut_off_slides_are_refused_by_all(slide_path, tmp_path, share, reader):
    path = tmp_path / "cut.svs"
    data = slide_path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SlideError, match=r"cut\.svs: is cut off"):
        open_slide(path, reader=reader)


def test_unreadable_file(slide_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("wsipipe.slides.opening.image_kind", refuse)
    with pytest.raises(SlideError, match=r"tissue\.svs: cannot be read: Permission denied"):
        open_slide(slide_path)

"""Real slides of several makers, whole and cut off."""

from __future__ import annotations

import numpy as np
import pytest

from wsipipe.errors import SlideError
from wsipipe.geometry import Region
from wsipipe.slides import MppView, list_slides, open_slide, read_overview

pytestmark = pytest.mark.shared

EXPECTED = {
    "CMU-1-Small-Region.svs": ("direct", "aperio", (2220, 2967), 1, 0.499),
    "TCGA-CR-7395.svs": ("direct", "aperio", (4443, 3567), 2, None),
    "breast_C2_240_jp2k.svs": ("direct", "aperio", (9274, 9911), 3, 0.5),
    "breast_C2_240_q90.svs": ("direct", "aperio", (9274, 9911), 3, 0.5),
    "dicom_cmu1": ("openslide", "dicom", (2220, 2967), 12, 0.499),
    "fluorescence-TRITC.ndpi": ("openslide", "hamamatsu", (3968, 4864), 7, 0.22818),
    "breast_C2.jpg": ("image", "image", (9274, 9911), 1, None),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_understood(shared, name):
    backend, vendor, dimensions, levels, mpp = EXPECTED[name]
    with open_slide(shared / "slides" / name) as reader:
        assert (reader.backend, reader.vendor, reader.dimensions) == (backend, vendor, dimensions)
        assert len(reader.level_dimensions) == levels
        assert reader.mpp == (None if mpp is None else pytest.approx(mpp, rel=1e-4))


def test_one_file_of_a_dicom_series_is_the_slide(shared):
    folder = shared / "slides" / "dicom_cmu1"
    region = Region(700, 900, 200, 150)
    with open_slide(folder) as whole, open_slide(folder / "level-3-frames-0-1.dcm") as part:
        assert part.level_dimensions == whole.level_dimensions
        assert np.array_equal(part.read_region(region, 1), whole.read_region(region, 1))


def test_all_are_listed(shared):
    keys = [entry.key for entry in list_slides([shared / "slides"])]
    assert {name.split(".")[0] for name in EXPECTED} <= {key.split(".")[0] for key in keys}


@pytest.mark.parametrize("name", [name for name, expected in EXPECTED.items() if expected[0] == "direct"])
def test_tiles_read_directly_are_those_of_openslide(shared, name):
    path = shared / "slides" / name
    with open_slide(path) as ours, open_slide(path, reader="openslide") as theirs:
        for level, (width, height) in enumerate(ours.level_dimensions):
            assert ours.level_backend(level) == "direct"
            if not ours.level_downsamples[level].is_integer():  # OpenSlide displaces those
                continue
            for region in (Region(width // 2, height // 2, 333, 291), Region(width - 300, height - 200, 310, 210)):
                difference = ours.read_region(region, level).astype(int) - theirs.read_region(region, level)
                assert np.abs(difference).max() <= 2


@pytest.mark.parametrize("name", ["TCGA-CR-7395.svs", "breast_C2_240_jp2k.svs", "fluorescence-TRITC.ndpi"])
def test_libraries_agree_on_the_finest_level(shared, name):
    path = shared / "slides" / name
    with open_slide(path, reader="openslide") as one, open_slide(path, reader="tiffslide") as other:
        region = Region(one.dimensions[0] // 2, one.dimensions[1] // 2, 400, 300)
        assert np.array_equal(one.read_region(region), other.read_region(region))


def test_uneven_pyramid_is_seamless(shared):
    with open_slide(shared / "slides" / "TCGA-CR-7395.svs", mpp=1.0) as reader:
        view = MppView(reader, 2.0)
        assert view.level == 1
        whole = view.read(Region(700, 500, 700, 600))
        for x, y in ((0, 0), (100, 333), (511, 17)):
            assert np.array_equal(view.read(Region(700 + x, 500 + y, 99, 77)), whole[y : y + 77, x : x + 99])


def test_pyramid_and_single_level_show_the_same(shared):
    with open_slide(shared / "slides" / "breast_C2_240_q90.svs") as pyramid:
        coarse = read_overview(pyramid, 16.0)
    with open_slide(shared / "slides" / "breast_C2.jpg", mpp=0.5) as single:
        fine = read_overview(single, 16.0)
    assert coarse.shape == fine.shape
    assert np.corrcoef(coarse.ravel(), fine.ravel())[0, 1] > 0.985


@pytest.mark.parametrize("cut", [0.5, 0.99, -1, 10])
@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "TCGA-CR-7395.svs", "fluorescence-TRITC.ndpi"])
def test_cut_off(shared, tmp_path, name, cut):
    data = (shared / "slides" / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * cut) if isinstance(cut, float) else cut])
    for reader in ("auto", "openslide", "tiffslide"):
        with pytest.raises(SlideError, match="is cut off"):
            open_slide(path, reader=reader)


def test_dicom_cut_off(shared, tmp_path):
    source = shared / "slides" / "dicom_cmu1" / "level-0-frames-0-30.dcm"
    path = tmp_path / "a.dcm"
    path.write_bytes(source.read_bytes()[:500_000])
    with pytest.raises(SlideError, match=r"a\.dcm: cannot be"), open_slide(path) as reader:
        reader.read_region(Region(0, 0, *reader.dimensions))

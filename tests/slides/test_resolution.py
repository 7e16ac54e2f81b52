"""Which resolution is believed."""

from __future__ import annotations

import pytest

from wsipipe.errors import ResolutionError
from wsipipe.slides.resolution import find_resolution

OME = '<OME xmlns="x"><Image><Pixels PhysicalSizeX="{x}" PhysicalSizeXUnit="{unit}" PhysicalSizeY="{y}"/></Image></OME>'


@pytest.mark.parametrize(
    ("properties", "mpp", "source"),
    [
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.25", "aperio.MPP": "0.5"}, 0.25, "openslide.mpp-x"),
        ({"tiffslide.mpp-x": "0.3", "tiffslide.mpp-y": "0.3"}, 0.3, "tiffslide.mpp-x"),
        ({"openslide.mpp-x": "0.25"}, 0.25, "openslide.mpp-x"),
        ({"aperio.MPP": "0.499"}, 0.499, "aperio.MPP"),
        ({"philips.DICOM_PIXEL_SPACING": '"0.00025" "0.00025"'}, 0.25, "philips.DICOM_PIXEL_SPACING"),
        ({"mirax.LAYER_0_LEVEL_0_SECTION.MICROMETER_PER_PIXEL_X": "0.23"}, 0.23, "mirax.LAYER"),
        ({"ventana.ScanRes": "0.465"}, 0.465, "ventana.ScanRes"),
        (
            {
                f"dicom.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing[{i}]": "0.0005"
                for i in range(2)
            },
            0.5,
            "dicom.",
        ),
        (
            {"tiff.XResolution": "20000", "tiff.YResolution": "20000", "tiff.ResolutionUnit": "centimeter"},
            0.5,
            "tiff.XResolution",
        ),
        (
            {"tiff.XResolution": "101600/1", "tiff.YResolution": "101600", "tiff.ResolutionUnit": "2"},
            0.25,
            "tiff.XResolution",
        ),
        ({"image.dpi-x": "50800", "image.dpi-y": "50800"}, 0.5, "image.dpi-x"),
        ({"tiff.ImageDescription": OME.format(x="0.4", y="0.4", unit="µm")}, 0.4, "OME PhysicalSizeX"),
        ({"openslide.comment": OME.format(x="400", y="400", unit="nm")}, 0.4, "OME PhysicalSizeX"),
    ],
)
def test_every_place_is_read_in_order(properties, mpp, source):
    resolution = find_resolution(properties, override=None)
    assert resolution.mpp == pytest.approx(mpp)
    assert resolution.source.startswith(source)


def test_nothing_stated_is_none():
    resolution = find_resolution({"openslide.vendor": "aperio"}, override=None)
    assert (resolution.mpp, resolution.source) == (None, "the file does not say")


def test_override_wins_and_tells_what_the_file_says():
    resolution = find_resolution({"aperio.MPP": "0.25"}, override=1.0)
    assert resolution.mpp == 1.0
    assert resolution.source == "override (the file says 0.25: aperio.MPP)"
    assert find_resolution({}, override=1.0).source == "override"


@pytest.mark.parametrize("override", [0.0, -0.5, 0.01, 500.0, float("nan"), float("inf")])
def test_absurd_override_is_refused(override):
    with pytest.raises(ResolutionError, match=rf"x\.svs: a resolution of {override} um per px is absurd.*--slide-mpp"):
        find_resolution({}, override=override, path="x.svs")


@pytest.mark.parametrize("dpi", ["72", "96", "300", "600"])
def test_printing_defaults_are_not_believed(dpi):
    tiff = {"tiff.XResolution": dpi, "tiff.YResolution": dpi, "tiff.ResolutionUnit": "inch"}
    resolution = find_resolution(tiff, override=None)
    assert resolution.mpp is None
    assert "tiff.XResolution not believed" in resolution.source


def test_generic_tiff_of_openslide_may_hide_a_printing_default():
    mpp = str(25400 / 600)
    generic = {"openslide.vendor": "generic-tiff", "openslide.mpp-x": mpp, "openslide.mpp-y": mpp}
    assert find_resolution(generic, override=None).mpp is None
    assert find_resolution(generic | {"openslide.vendor": "aperio"}, override=None).mpp == pytest.approx(
        42.33, abs=0.01
    )


def test_absurd_value_gives_way_to_the_next_and_is_told():
    resolution = find_resolution({"openslide.mpp-x": "352.8", "aperio.MPP": "0.5"}, override=None)
    assert resolution.mpp == 0.5
    assert resolution.source == "aperio.MPP; openslide.mpp-x not believed: 352.8 um per px is absurd"


def test_ome_behind_a_default_dpi():
    properties = {
        "tiff.XResolution": "72", "tiff.YResolution": "72", "tiff.ResolutionUnit": "inch",
        "tiff.ImageDescription": OME.format(x="0.5", y="0.5", unit="µm"),
    }  # fmt: skip
    assert find_resolution(properties, override=None).mpp == 0.5


def test_small_difference_of_x_and_y_is_averaged_and_told():
    resolution = find_resolution({"openslide.mpp-x": "0.50", "openslide.mpp-y": "0.52"}, override=None)
    assert resolution.mpp == pytest.approx(0.51)
    assert "mean of x 0.5 and y 0.52" in resolution.source


def test_contradicting_x_and_y_are_not_believed():
    resolution = find_resolution({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.5"}, override=None)
    assert resolution.mpp is None
    assert "contradict" in resolution.source


@pytest.mark.parametrize("value", ["", "n/a", "0", "-1", "1/0"])
def test_what_is_no_number_is_passed_over(value):
    assert find_resolution({"openslide.mpp-x": value, "aperio.MPP": "0.5"}, override=None).source == "aperio.MPP"


def test_ome_in_a_unit_that_is_no_length_is_passed_over():
    assert find_resolution({"tiff.ImageDescription": OME.format(x="1", y="1", unit="pixel")}, override=None).mpp is None

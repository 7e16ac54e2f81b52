"""What is told of a slide."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from slidemaker import write_slide
from wsipipe.config import TileSettings, parse_recipe
from wsipipe.errors import ResolutionError, SlideError, StoreError
from wsipipe.geometry import CellGrid, Region
from wsipipe.numerics.tissue import Tissue
from wsipipe.pipeline import info
from wsipipe.pipeline.extract import extract_slide
from wsipipe.pipeline.info import describe_slide
from wsipipe.pipeline.tile import tile_slide
from wsipipe.slides import SlideEntry, slide_identity


def test_everything_that_was_understood(slide_path, picture):
    told = describe_slide(slide_path)
    assert list(told)[:8] == ["file", "bytes", "vendor", "reader", "width", "height", "levels", "mpp"]
    assert json.loads(json.dumps(told)) == told
    assert told["bytes"] == slide_path.stat().st_size
    assert (told["vendor"], told["reader"], told["width"], told["height"]) == ("aperio", "direct", 1024, 768)
    assert told["levels"][1] == {"width": 512, "height": 384, "downsample": 2.0, "mpp": 1.0, "reader": "direct"}
    assert (told["mpp"], told["mpp_source"], told["objective_power"]) == (0.5, "openslide.mpp-x", 20.0)
    assert told["bounds"] == [0, 0, 1024, 768]
    assert told["identity"] == slide_identity(slide_path)
    assert told["notes"] == []
    # Tissue fills the picture within its margin of 96 px.
    inner = (1024 - 192) * (768 - 192)
    assert told["tissue_mm2"] == pytest.approx(inner * 0.25e-6, rel=0.3)
    assert told["tissue_fraction"] == pytest.approx(inner / picture[..., 0].size, rel=0.3)


def test_tissue_past_the_edge_of_the_slide_does_not_count(slide_path, monkeypatch):
    tissue = Tissue(np.array([[False, False], [True, True]]), CellGrid(2, 2, 512.0))
    monkeypatch.setattr(info, "find_tissue", lambda *_: tissue)
    told = describe_slide(slide_path)
    assert told["tissue_mm2"] == pytest.approx(1024 * 256 * 0.25e-6)
    assert told["tissue_fraction"] == pytest.approx(1 / 3)


def test_missing_resolution_is_a_note_that_names_the_flag(tmp_path, picture):
    path = write_slide(tmp_path / "none.svs", picture, mpp=None)
    told = describe_slide(path)
    assert (told["mpp"], told["mpp_source"], told["tissue_fraction"]) == (None, "the file does not say", None)
    assert told["levels"][2]["mpp"] is None
    assert any("--slide-mpp" in note for note in told["notes"])
    assert describe_slide(path, mpp=0.5)["tissue_fraction"] > 0.3


def test_glass_without_tissue_is_a_note(tmp_path):
    path = write_slide(tmp_path / "glass.svs", np.full((600, 800, 3), 243, np.uint8))
    told = describe_slide(path)
    assert told["tissue_fraction"] is None
    assert any(note.startswith("no tissue found") for note in told["notes"])


def test_slides_that_are_slow_to_read_coarsely(tmp_path, picture, monkeypatch):
    monkeypatch.setattr(info, "_LARGE_PX", 1000)
    single = write_slide(tmp_path / "one.svs", picture, levels=1)
    assert "no pyramid: coarse reads are slow" in describe_slide(single)["notes"]
    far = write_slide(tmp_path / "far.svs", picture, levels=2, downsample=16)
    assert "levels far apart: reads between them are slow" in describe_slide(far)["notes"]


def test_colours_under_a_wrong_photometric_tag(tmp_path, picture):
    ycbcr = np.asarray(Image.fromarray(picture).convert("YCbCr"))
    path = write_slide(tmp_path / "odd.svs", ycbcr, compression="deflate")
    assert any("YCbCr taken for RGB" in note for note in describe_slide(path)["notes"])


def test_objective_power_may_be_missing(tmp_path, picture):
    path = write_slide(tmp_path / "g.tif", picture, vendor="generic")
    assert describe_slide(path)["objective_power"] is None


def test_our_own_files_are_told_from_slides(tmp_path, slide_path):
    entry = SlideEntry("tissue", slide_path)
    tile_slide(entry, tmp_path, TileSettings(mpp=1.0, patch_size_px=64))
    recipe = parse_recipe({"tile": {"mpp": 1.0}, "encoder": {"name": "filterbank", "kind": "dense", "stride_px": 8}})
    (features,) = extract_slide(entry, tmp_path, recipe).outputs
    told = describe_slide(features)
    assert json.loads(json.dumps(told)) == told
    assert (told["holds"], told["slide"], told["encoder"]) == ("feature map of wsipipe", "tissue", "filterbank")
    assert (told["rows"], told["cols"], told["width"], told["cell_px"]) == (48, 64, 1024, 16.0)
    tiles = describe_slide(tmp_path / "tiles" / "tissue.h5")
    assert (tiles["holds"], tiles["patch_size_px"], tiles["slide_mpp"]) == ("tile file of wsipipe", 64, 0.5)
    features.write_bytes(b"damaged")
    with pytest.raises(StoreError, match=r"tissue\.h5: is cut off or no HDF5 file"):
        describe_slide(features)


def test_errors_pass_through(tmp_path, slide_path):
    with pytest.raises(SlideError, match="no such file"):
        describe_slide(tmp_path / "none.svs")
    with pytest.raises(ResolutionError, match="absurd"):
        describe_slide(slide_path, mpp=1000)


def test_scanned_area_apart_from_the_slide(slide_path, monkeypatch):
    bounds = Region(100, 50, 800, 600)
    monkeypatch.setattr("wsipipe.slides.openslide_reader._bounds", lambda properties: bounds)
    told = describe_slide(slide_path)
    assert told["bounds"] == [100, 50, 800, 600]
    assert any(note.startswith("scanned area smaller than the slide") for note in told["notes"])

"""The files of a slide: all there or none, and all telling the same, in every library that opens them."""

from __future__ import annotations

import json

import numpy as np
import openslide
import pytest
import tifffile
import tiffslide
from PIL import Image
from shapely.geometry import box

from slidemaker import write_slide
from wsipipe.annotations.reading import read_regions
from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.errors import StoreError
from wsipipe.geometry import CellGrid, Region
from wsipipe.numerics.polygons import rasterize
from wsipipe.numerics.tissue import Tissue
from wsipipe.pipeline.overlay import draw_overlay
from wsipipe.pipeline.results import (
    SUFFIXES,
    Segmentation,
    UnseenSlide,
    is_written,
    result_paths,
    settled,
    write_results,
)
from wsipipe.slides import open_slide

GRID = CellGrid(12, 16, 64.0)
PROVENANCE = {"command": "test", "settings": "abc"}


def segmentation(probability=None, *, tissue=None, offset=(0.0, 0.0)):
    if probability is None:
        probability = np.zeros(GRID.shape, np.float32)
        probability[3:9, 4:12] = 0.9
        probability[5:7, 6:9] = 0.1
    valid = np.ones(GRID.shape, bool)
    bands = ((probability[i : i + 5], valid[i : i + 5]) for i in range(0, GRID.rows, 5))
    tissue = tissue or Tissue(np.ones((1, 1), bool), CellGrid(1, 1, 1024.0))
    return Segmentation(GRID, bands, tissue, offset=offset)


@pytest.fixture
def written(tmp_path, slide_path):
    with open_slide(slide_path) as reader:
        report = write_results(tmp_path, "s", reader, segmentation(), provenance=PROVENANCE)
    return dict(zip(SUFFIXES, result_paths(tmp_path, "s"), strict=True)), report


def test_mask_probability_polygons_and_report_agree_pixel_for_pixel(written):
    paths, report = written
    mask = tifffile.imread(paths[".mask.tif"]) > 0
    assert 0 < mask.sum() < mask.size
    np.testing.assert_array_equal(mask, tifffile.imread(paths[".probability.tif"]) >= 0.5 * 255)
    np.testing.assert_array_equal(mask, tifffile.imread(paths[".mask.ome.tif"]) > 0)
    grid = CellGrid(*mask.shape, report["raster"]["downsample"])
    polygons = [region.geometry for region in read_regions(paths[".geojson"])]
    np.testing.assert_array_equal(mask, rasterize(polygons, grid))
    assert len(polygons[0].interiors) == 1
    told = report["classes"]["Tumor"]
    assert told["pixels"] == mask.sum()
    assert told["area_mm2"] == pytest.approx(mask.sum() * (grid.cell_px * 0.5 / 1000) ** 2)
    assert json.loads(paths[".report.json"].read_text()) == report


def test_tissue_past_the_edge_of_the_slide_does_not_count(written):
    assert written[1]["tissue_mm2"] == pytest.approx(1024 * 768 * 0.25e-6)  # of one cell of 1024 px squared


def test_the_mask_lies_over_the_slide_in_every_library(written, slide_path):
    """Level 0 of the mask is a whole reduction of the slide, and says its resolution."""
    path = written[0][".mask.tif"]
    for library, mpp in ((openslide.OpenSlide, "openslide.mpp-x"), (tiffslide.TiffSlide, "tiffslide.mpp-x")):
        with openslide.OpenSlide(slide_path) as slide, library(path) as opened:
            step = slide.dimensions[0] / opened.dimensions[0]
            assert step == 32
            assert slide.dimensions[1] / opened.dimensions[1] == step
            inside = opened.read_region((5 * 64 // 32, 4 * 64 // 32), 0, (1, 1))
            assert np.asarray(inside).flat[0] == 255  # RGBA or grey, as the library likes
            assert float(opened.properties[mpp]) == pytest.approx(0.5 * step)


def test_nothing_outside_the_tissue_is_in_target(tmp_path, slide_path):
    tissue = Tissue(np.repeat([[True, False]], 2, axis=0), CellGrid(2, 2, 512.0))
    with open_slide(slide_path) as reader:
        write_results(
            tmp_path, "s", reader, segmentation(np.ones(GRID.shape, np.float32), tissue=tissue), provenance={}
        )
    mask = tifffile.imread(result_paths(tmp_path, "s")[0]) > 0
    assert mask[:, :16].all()
    assert not mask[:, 16:].any()


def test_offsets_move_the_polygons_and_are_told(tmp_path, slide_path):
    with open_slide(slide_path) as reader:
        for key, offset in (("a", (0.0, 0.0)), ("b", (100.0, 40.0))):
            write_results(tmp_path, key, reader, segmentation(offset=offset), provenance={})
    raw = [json.loads(result_paths(tmp_path, key)[3].read_text()) for key in "ab"]
    corners = [np.array(data["features"][0]["geometry"]["coordinates"][0][0]) for data in raw]
    np.testing.assert_allclose(corners[0] - corners[1], (100, 40))
    # Our own reader knows the frame that the file tells, and moves it back.
    again = [read_regions(result_paths(tmp_path, key)[3])[0].geometry for key in "ab"]
    assert again[0].equals(again[1])


def test_finished_work_is_recognised_by_content(tmp_path, slide_path, written):
    folder = written[0][".geojson"].parent
    assert is_written(folder, "s", PROVENANCE)
    assert not is_written(folder, "s", PROVENANCE | {"settings": "other"})
    written[0][".mask.tif"].unlink()
    assert not is_written(folder, "s", PROVENANCE)


def test_a_failure_half_way_leaves_the_former_files(tmp_path, slide_path, written, monkeypatch):
    folder = written[0][".geojson"].parent
    before = {path: path.read_bytes() for path in folder.iterdir()}

    def full(*_, **__):
        raise StoreError("no space left on device")

    monkeypatch.setattr("wsipipe.pipeline.results.write_geojson", full)
    with open_slide(slide_path) as reader, pytest.raises(StoreError, match="no space left"):
        write_results(folder, "s", reader, segmentation(1 - np.eye(12, 16, dtype=np.float32)), provenance={})
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_slide_without_resolution_is_written_in_pixels(tmp_path, picture):
    path = write_slide(tmp_path / "s.tif", picture, mpp=None)
    with open_slide(path) as reader:
        report = write_results(tmp_path / "out", "s", reader, segmentation(), provenance={})
    assert report["classes"]["Tumor"]["area_mm2"] is None
    assert report["classes"]["Tumor"]["pixels"] > 0


def test_the_overlay_shows_slide_and_region(written):
    overlay = np.asarray(Image.open(written[0][".overlay.png"]))
    assert overlay.shape == (768, 1024, 3)
    inside, outside = overlay[4 * 64 - 8, 5 * 64].astype(int), overlay[1 * 64, 13 * 64].astype(int)
    assert not np.array_equal(inside, outside)


def test_the_picture_of_a_region_is_where_the_region_is(slide_path):
    """The overlay's frame is the slide's: a filled square changes exactly its own pixels."""
    with open_slide(slide_path) as reader:
        plain = draw_overlay(reader, [])
        drawn = draw_overlay(reader, [OutlinedRegion(box(256, 128, 512, 384), "Tumor")])
        np.testing.assert_array_equal(plain, reader.read_region(Region(0, 0, 1024, 768)))
    changed = np.argwhere((plain != drawn).any(-1))
    np.testing.assert_allclose(changed.min(0), (128, 256), atol=2)
    np.testing.assert_allclose(changed.max(0), (384, 512), atol=2)


def test_without_the_slide_all_but_the_overlay_is_written(written, tmp_path):
    """From what a feature map says of its slide; an overlay of a former run does not stay."""
    paths, report = written
    before = {suffix: path.read_bytes() for suffix, path in paths.items()}
    unseen = UnseenSlide(tmp_path / "s.h5", tuple(report["size_px"]), report["mpp"], "feature map")
    told = write_results(tmp_path, "s", unseen, segmentation(), provenance=PROVENANCE, details={"points": [1, 2]})
    assert not paths[".overlay.png"].exists()
    assert paths[".probability.tif"].read_bytes() == before[".probability.tif"]
    assert told["classes"] == report["classes"]
    assert (told["points"], told["path"]) == ([1, 2], str(tmp_path / "s.h5"))
    assert settled(tmp_path, "s", PROVENANCE) is None
    outcome = settled(tmp_path, "s", PROVENANCE, overlay=False)
    assert (outcome.status, outcome.outputs) == ("skipped", result_paths(tmp_path, "s", overlay=False))
    assert all(path.is_file() for path in outcome.outputs)


@pytest.mark.parametrize("damaged", ["", '{"type": ', "[]"])
def test_a_damaged_report_is_work_to_do(written, tmp_path, damaged):
    assert is_written(tmp_path, "s", PROVENANCE)
    written[0][".report.json"].write_text(damaged)
    assert not is_written(tmp_path, "s", PROVENANCE)

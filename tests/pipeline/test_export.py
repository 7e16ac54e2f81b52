"""Finished masks in the formats of other programs: all telling the same, in the right place."""

from __future__ import annotations

import json

import highdicom
import numpy as np
import pyarrow.parquet
import pyogrio
import pytest
import shapely
import tifffile
from PIL import Image
from typer.testing import CliRunner

from wsipipe.annotations.reading import read_regions
from wsipipe.errors import AnnotationError, ConfigError, ResolutionError, StoreError
from wsipipe.geometry import CellGrid, Region
from wsipipe.numerics.polygons import rasterize
from wsipipe.numerics.tissue import Tissue
from wsipipe.pipeline.export import FORMATS, Exporting, export_many, export_mask, list_masks
from wsipipe.pipeline.results import Segmentation, write_results
from wsipipe.slides import open_slide
from wsipipe_cli.main import app

GRID = CellGrid(48, 64, 16.0)
POLYGONS = ("geojson", "geojson.gz", "asap", "gpkg", "parquet")
OFFSET = (100.0, 40.0)


@pytest.fixture
def project(tmp_path, slide_path):
    """A finished mask with a hole, an island in it, and pixels that touch diagonally: (its path, its pixels, grid)."""
    rows, cols = np.mgrid[: GRID.rows, : GRID.cols]
    radius = np.hypot(rows - 24, cols - 32)
    inside = ((radius < 18) & (radius > 9)) | (radius < 4)
    inside[1, 1] = inside[2, 2] = True
    probability = np.where(inside, 0.9, 0.2).astype(np.float32)
    bands = iter([(probability, np.ones(GRID.shape, bool))])
    tissue = Tissue(np.ones((1, 1), bool), CellGrid(1, 1, 1024.0))
    with open_slide(slide_path) as reader:
        found = Segmentation(GRID, bands, tissue, class_name="Necrosis", offset=OFFSET)
        write_results(tmp_path / "masks", "s", reader, found, provenance={})
    path = tmp_path / "masks" / "s.mask.tif"
    pixels = tifffile.imread(path) > 0
    return path, pixels, CellGrid(*pixels.shape, 1024 / pixels.shape[1])


def polygons_of(path):
    """Polygons of a file in level-0 px, by readers of others where there are some."""
    if path.suffix == ".gpkg":
        return list(shapely.from_wkb(pyogrio.raw.read(path)[2]))
    if path.suffix == ".parquet":
        return list(shapely.from_wkb(pyarrow.parquet.read_table(path)["geometry"].to_pylist()))
    return [region.geometry for region in read_regions(path)]


@pytest.mark.parametrize("name", POLYGONS)
def test_every_format_gives_the_mask_back_pixel_for_pixel(project, tmp_path, name):
    path, pixels, grid = project
    outcome = export_mask(path, tmp_path / "exports", Exporting((name,)))
    assert outcome.outputs == (tmp_path / "exports" / f"s{FORMATS[name]}",)
    found = polygons_of(outcome.outputs[0])
    assert all(polygon.is_valid for polygon in found)
    np.testing.assert_array_equal(rasterize(found, grid), pixels)
    assert sum(polygon.area for polygon in found) == pytest.approx(pixels.sum() * grid.cell_px**2)


def test_geojson_is_what_predict_writes(project, tmp_path):
    path, _, _ = project
    made = export_mask(path, tmp_path, Exporting(("geojson",))).outputs[0]
    assert made.read_bytes() == (path.parent / "s.geojson").read_bytes()


def test_regions_have_class_colour_area_and_mean_probability(project, tmp_path):
    path, pixels, grid = project
    outputs = export_mask(path, tmp_path, Exporting(("geojson", "gpkg"))).outputs
    features = json.loads(outputs[0].read_text())["features"]
    assert {feature["properties"]["classification"]["name"] for feature in features} == {"Necrosis"}
    assert features[0]["properties"]["classification"]["color"] == [50, 50, 50]
    measured = [feature["properties"]["measurements"] for feature in features]
    assert sum(one["Area um^2"] for one in measured) == pytest.approx(pixels.sum() * (grid.cell_px * 0.5) ** 2)
    probability = tifffile.imread(path.parent / "s.probability.tif") / 255
    weights = [one["Area um^2"] for one in measured]
    mean = np.average([one["Mean probability"] for one in measured], weights=weights)
    assert mean == pytest.approx(probability[pixels].mean())
    meta, _, _, columns = pyogrio.raw.read(outputs[1])
    table = dict(zip(meta["fields"], columns, strict=True))
    np.testing.assert_allclose(table["area_um2"], weights)
    assert set(table["class"]) == {"Necrosis"}


def test_frames_are_those_of_the_programs(project, tmp_path):
    """QuPath counts from the bounds, ASAP and tables from the slide's corner; --no-crop takes the offset away."""
    path, _, _ = project
    corner = np.array(polygons_of(path.parent / "s.geojson")[0].bounds[:2])

    def raw(options):
        data = json.loads(export_mask(path, tmp_path, options).outputs[0].read_text())
        return data["wsipipe"], shapely.geometry.shape(data["features"][0]["geometry"]).bounds[:2]

    told, cropped = raw(Exporting(("geojson",)))
    assert (told["frame"], told["offset_px"], told["slide"]) == ("bounds", [100, 40], "s")
    np.testing.assert_allclose(cropped, corner - OFFSET)
    told, whole = raw(Exporting(("geojson",), crop=False))
    assert (told["frame"], told["offset_px"]) == ("level-0", [0, 0])
    np.testing.assert_allclose(whole, corner)
    for name in ("asap", "gpkg", "parquet"):
        found = polygons_of(export_mask(path, tmp_path, Exporting((name,))).outputs[0])
        np.testing.assert_allclose(found[0].bounds[:2], corner)


def test_simplified_outlines_have_fewer_corners_and_the_exact_areas_as_figures(project, tmp_path):
    path, pixels, grid = project
    exact, simple = (
        export_mask(path, tmp_path / str(um), Exporting(("geojson",), simplify_um=um)).outputs[0] for um in (0, 8)
    )
    found = polygons_of(simple)
    assert all(polygon.is_valid for polygon in found)
    assert shapely.get_num_coordinates(found).sum() < 0.7 * shapely.get_num_coordinates(polygons_of(exact)).sum()
    assert (rasterize(found, grid) != pixels).mean() < 0.02
    areas = [[region.measurements["Area um^2"] for region in read_regions(file)] for file in (exact, simple)]
    assert areas[0] == areas[1]


def test_a_mask_of_another_program_lies_over_its_slide(tmp_path, slide_path):
    mask = np.zeros((96, 128), np.uint8)
    mask[10:20, 30:50] = 7
    Image.fromarray(mask).save(tmp_path / "tissue_mask.png")
    how = Exporting(("geojson",), slide=slide_path, class_name="Gland")
    outcome = export_mask(tmp_path / "tissue_mask.png", tmp_path, how)
    assert (outcome.key, outcome.message) == ("tissue", "1 regions of Gland")
    (region,) = read_regions(outcome.outputs[0])
    assert region.geometry.bounds == (30 * 8, 10 * 8, 50 * 8, 20 * 8)
    assert region.measurements["Area um^2"] == 200 * 16
    alone = export_mask(tmp_path / "tissue_mask.png", tmp_path, Exporting(("geojson",))).outputs[0]
    (region,) = read_regions(alone)
    assert (region.geometry.bounds, dict(region.measurements)) == ((30, 10, 50, 20), {"Area px^2": 200})
    Image.fromarray(mask[:50]).save(tmp_path / "tissue_mask.png")
    with pytest.raises(AnnotationError, match="is 128 x 50 px, its slide 1024 x 768 px"):
        export_mask(tmp_path / "tissue_mask.png", tmp_path, how)


def test_the_bounds_of_the_slide_count_for_masks_of_other_programs(tmp_path, slide_path, monkeypatch):
    monkeypatch.setattr("wsipipe.slides.openslide_reader._bounds", lambda properties: Region(64, 32, 900, 700))
    Image.fromarray(np.ones((96, 128), np.uint8)).save(tmp_path / "tissue.png")
    made = export_mask(tmp_path / "tissue.png", tmp_path, Exporting(("geojson",), slide=slide_path)).outputs[0]
    data = json.loads(made.read_text())
    assert shapely.geometry.shape(data["features"][0]["geometry"]).bounds == (-64, -32, 960, 736)
    assert read_regions(made)[0].geometry.bounds == (0, 0, 1024, 768)


def test_dicom_needs_a_dicom_slide(project, tmp_path, slide_path):
    path, _, _ = project
    with pytest.raises(StoreError, match=r"refers to a DICOM slide; tissue.svs is none"):
        export_mask(path, tmp_path, Exporting(("dicom-seg",)))
    (path.parent / "s.report.json").unlink()
    with pytest.raises(StoreError, match=r"refers to its slide: no slide is given \(give --slide"):
        export_mask(path, tmp_path, Exporting(("dicom-seg",)))
    with pytest.raises(StoreError, match=r"gone.svs is not there"):
        export_mask(path, tmp_path, Exporting(("dicom-seg",), slide=tmp_path / "gone.svs"))


def test_a_mask_of_a_real_dicom_slide(shared, tmp_path):
    folder = shared / "slides" / "dicom_cmu1"
    mask = np.zeros((371, 278), np.uint8)  # an eighth, rounded up
    mask[100:200, 50:90] = 255
    Image.fromarray(mask).save(tmp_path / "dicom_cmu1_mask.png")
    how = Exporting(("dicom-seg",), slide=folder)
    (made,) = export_mask(tmp_path / "dicom_cmu1_mask.png", tmp_path, how).outputs
    read = highdicom.seg.segread(made)
    np.testing.assert_array_equal(read.get_total_pixel_matrix(combine_segments=True), mask > 0)


def test_what_cannot_be_exported_is_told(project, tmp_path):
    path, _, _ = project
    with pytest.raises(ConfigError, match=r"unknown format 'pdf' \(give one or more of geojson, geojson.gz, asap"):
        Exporting(("asap", "pdf"))
    with pytest.raises(ConfigError, match="no format"):
        Exporting(())
    with pytest.raises(ConfigError, match="not be negative"):
        Exporting(("asap",), simplify_um=-1)
    Image.fromarray(np.ones((9, 9), np.uint8)).save(tmp_path / "plain.png")
    with pytest.raises(ResolutionError, match="no resolution to simplify by"):
        export_mask(tmp_path / "plain.png", tmp_path, Exporting(("asap",), simplify_um=2))
    assert export_mask(tmp_path / "plain.png", tmp_path, Exporting(("asap",), simplify_um=2, slide_mpp=0.5)).outputs
    probability = path.parent / "s.probability.tif"
    probability.unlink()
    assert (
        "Mean probability"
        not in read_regions(export_mask(path, tmp_path, Exporting(("geojson",))).outputs[0])[0].measurements
    )
    probability.write_bytes(b"II*\x00 cut off")
    with pytest.raises(StoreError, match=r"probability\.tif"):
        export_mask(path, tmp_path, Exporting(("geojson",)))


def test_masks_are_found_in_folders(project, tmp_path):
    path, _, _ = project
    assert list_masks([path.parent]) == [path]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty: holds no \*.mask.tif"):
        list_masks([tmp_path / "empty"])
    with pytest.raises(ConfigError, match="two masks are of slide 's'"):
        list_masks([path, tmp_path / "s.png"])


def test_one_slide_is_not_taken_for_several_masks(project, tmp_path, slide_path):
    path, _, _ = project
    with pytest.raises(ConfigError, match=r"tissue\.svs: is one slide for 2 masks \(give a folder"):
        export_many([path, tmp_path / "t.png"], tmp_path, Exporting(("asap",), slide=slide_path))


def test_a_bad_mask_costs_only_itself(project, tmp_path):
    path, _, _ = project
    (tmp_path / "bad.png").write_bytes(b"no picture")
    how = Exporting(("asap",))
    outcomes = export_many([tmp_path / "bad.png", path], tmp_path / "exports", how)
    assert [outcome.status for outcome in outcomes] == ["failed", "done"]
    assert "is no picture" in outcomes[0].message


def test_the_command(project, tmp_path):
    path, _, _ = project
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app, ["export", str(path.parent), "--to", "asap,gpkg", "--to", "GeoJSON", "-o", str(out)]
    )
    assert result.exit_code == 0
    assert "regions of Necrosis" in result.output
    assert sorted(file.name for file in (out / "exports").iterdir()) == ["s.geojson", "s.gpkg", "s.xml"]
    result = CliRunner().invoke(app, ["export", str(path), "--to", "dicom-seg", "-o", str(out)])
    assert result.exit_code == 1
    assert "DICOM" in result.output

"""Three classes from clicks to masks: Dice of each against the truth, and their colours in every file."""

from __future__ import annotations

import json

import numpy as np
import openslide
import pytest
import shapely
import tifffile
from PIL import Image
from typer.testing import CliRunner

from classmaker import QUPATH_COLORS, truth, write_three_classes
from wsipipe.annotations.classes import TissueClass
from wsipipe.errors import ConfigError
from wsipipe.numerics.metrics import dice
from wsipipe.pipeline.point_predictions import predict_points
from wsipipe.slides import list_slides
from wsipipe.store.checkpoint import load_checkpoint
from wsipipe.store.raster import raster_info
from wsipipe_cli.main import app

RECIPE = """
tile: {mpp: 1.0}
encoder: {name: filterbank, kind: dense, stride_px: 8}
network: {width: 8, depth: 1}
training: {epochs: 5, steps_per_epoch: 6, learning_rate: 1.0e-2, window: 128, point_width: 3, previews: 1}
"""
NAMES = ("Tumor", "Stroma", "Fat")
COLORS = tuple(tuple(color) for color in QUPATH_COLORS.values())
FLOORS = (0.85, 0.9, 0.9)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A trained model of three classes and its masks."""
    folder = tmp_path_factory.mktemp("classes")
    manifest = write_three_classes(folder)
    (folder / "r.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        trained = run("train", manifest, "--recipe", "r.yaml", "--classes", "Tumor,Stroma,Fat=Fat*", "--device", "cpu")
        assert trained.exit_code == 0, f"{trained.output}\n{trained.exception}"
        predicted = run("predict", "slide.svs", "--model", "wsipipe-out/runs/slides", "--device", "cpu")
        assert predicted.exit_code == 0, f"{predicted.output}\n{predicted.exception}"
        yield folder


@pytest.fixture(scope="module")
def masks(desk):
    return desk / "wsipipe-out" / "masks"


@pytest.fixture(scope="module")
def labels(masks):
    """The mask as it is stored, one value per class."""
    return tifffile.imread(masks / "slide.mask.tif")


def on(labels, grid):
    """The truth on the pixels of a raster."""
    step = int(grid.cell_px)
    return truth()[step // 2 :: step, step // 2 :: step][: labels.shape[0], : labels.shape[1]]


def test_each_class_is_found(masks, labels):
    wanted = on(labels, raster_info(masks / "slide.mask.tif").grid)
    scores = [dice(labels == value, wanted == value) for value in (1, 2, 3)]
    assert all(score > floor for score, floor in zip(scores, FLOORS, strict=True)), scores
    assert (labels[wanted == 0] == 0).mean() > 0.9


def test_the_mask_is_the_most_probable_class_and_nothing_off_the_tissue(masks, labels):
    probability = tifffile.imread(masks / "slide.probability.tif")
    assert probability.shape == (*labels.shape, 3)
    tissue = probability.any(axis=2)
    np.testing.assert_array_equal(labels, np.where(tissue, probability.argmax(axis=2) + 1, 0))
    assert abs(probability.sum(axis=2)[tissue].astype(int) - 255).max() <= 2


@pytest.mark.parametrize("name", ["slide.mask.tif", "slide.mask.ome.tif"])
def test_masks_show_and_name_the_classes_in_the_colours_of_the_clicks(masks, labels, name):
    info = raster_info(masks / name)
    assert info.classes == tuple(map(TissueClass, NAMES, COLORS))
    with openslide.OpenSlide(str(masks / name)) as slide:
        shown = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    np.testing.assert_array_equal(shown, np.array([(255, 255, 255), *COLORS], np.uint8)[labels])


def test_geojson_has_the_regions_of_each_class_with_holes_and_colours(masks, labels):
    features = json.loads((masks / "slide.geojson").read_text())["features"]
    told = [feature["properties"]["classification"] for feature in features]
    assert {(one["name"], tuple(one["color"])) for one in told} == set(zip(NAMES, COLORS, strict=True))
    pixel = raster_info(masks / "slide.mask.tif").grid.cell_px ** 2
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in features]
    for value, name in enumerate(NAMES, start=1):
        area = sum(shape.area for shape, one in zip(shapes, told, strict=True) if one["name"] == name)
        assert area == pytest.approx((labels == value).sum() * pixel)
    largest = max(zip(shapes, told, strict=True), key=lambda pair: pair[0].area * (pair[1]["name"] == "Stroma"))[0]
    assert not largest.contains(shapely.Point(250, 250))  # the tumour lies in a hole of the stroma
    assert shapely.Polygon(largest.exterior).contains(shapely.Point(250, 250))
    assert all(0.3 < feature["properties"]["measurements"]["Mean probability"] <= 1 for feature in features)


def test_the_overlay_is_tinted_by_class(masks):
    with Image.open(masks / "slide.overlay.png") as image:
        tints = [np.asarray(image.crop((x, y, x + 30, y + 30))).mean(axis=(0, 1)) for x, y in ((240, 240), (510, 200))]
    assert tints[0][0] > tints[0][2]  # tumour, blue as it is, under red
    assert tints[1][2] > 150  # fat, yellow as it is (blue 130), under blue


def test_the_report_tells_the_area_of_each_class(masks, labels):
    report = json.loads((masks / "slide.report.json").read_text())
    assert report["threshold"] is None
    assert list(report["classes"]) == list(NAMES)
    pixel_mm2 = (report["raster"]["downsample"] * report["mpp"] / 1000) ** 2
    for value, of in enumerate(report["classes"].values(), start=1):
        assert (of["value"], of["color"]) == (value, list(COLORS[value - 1]))
        assert of["pixels"] == (labels == value).sum()
        assert of["area_mm2"] == pytest.approx(of["pixels"] * pixel_mm2)
        assert of["regions"] >= 1


def test_the_checkpoint_knows_its_classes(desk):
    checkpoint = load_checkpoint(desk / "wsipipe-out" / "runs" / "slides" / "checkpoint.safetensors")
    told = [{"name": name, "color": list(color)} for name, color in zip(NAMES, COLORS, strict=True)]
    assert checkpoint.provenance["classes"] == told
    assert [of.name for of in checkpoint.recipe.training.classes] == list(NAMES)
    assert checkpoint.provenance["val_dice"] > 0.85


def test_pictures_of_the_run_are_drawn(desk):
    for path in (desk / "wsipipe-out" / "runs" / "slides" / "previews").iterdir():
        with Image.open(path) as image:
            assert np.asarray(image).std() > 10


def test_a_threshold_is_refused(desk):
    refused = run("predict", "slide.svs", "--model", "wsipipe-out/runs/slides", "--threshold", "0.4", "-o", "elsewhere")
    assert refused.exit_code == 1
    assert "tells 3 classes apart and takes the most probable one: --threshold does not apply" in refused.output
    assert not (desk / "elsewhere" / "masks").exists()


def test_export_keeps_the_classes(desk, masks):
    exported = run("export", masks / "slide.mask.tif", "--to", "geojson,asap")
    assert exported.exit_code == 0, exported.output
    files = desk / "wsipipe-out" / "exports" / "slide.geojson", masks / "slide.geojson"
    one, other = (json.loads(path.read_text())["features"] for path in files)
    assert one == other
    asap = (desk / "wsipipe-out" / "exports" / "slide.xml").read_text()
    assert all(f'PartOfGroup="{name}"' in asap for name in NAMES)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--to", "geojson", "--class", "Gland"), "holds the classes Tumor, Stroma, Fat, not one to be named"),
        (("--to", "dicom-seg"), "a DICOM segmentation is written of one class, the mask has 3"),
    ],
)
def test_export_refuses_what_holds_one_class(masks, arguments, told):
    refused = run("export", masks / "slide.mask.tif", *arguments)
    assert refused.exit_code == 1
    assert told in " ".join(refused.output.split())


def test_evaluate_compares_each_class_with_the_rest(desk, masks, labels):
    judged = run("evaluate", masks / "slide.mask.tif", desk / "labels" / "slide.png")
    assert judged.exit_code == 0, judged.output
    rows = json.loads((desk / "wsipipe-out" / "evaluation.json").read_text())["rows"]
    assert [row["slide"] for row in rows] == [*(f"slide: {name}" for name in NAMES), "mean", "pooled"]
    wanted = on(labels, raster_info(masks / "slide.mask.tif").grid)
    known = wanted > 0
    for value, row in enumerate(rows[:3], start=1):
        assert row["dice"] == pytest.approx(dice(labels[known] == value, wanted[known] == value), abs=1e-6)
        assert row["auc"] > 0.95
    assert rows[3]["dice"] == pytest.approx(np.mean([row["dice"] for row in rows[:3]]), abs=1e-6)


def test_evaluate_refuses_other_labels(desk, masks):
    Image.fromarray(truth() + np.uint8(1)).save(desk / "more.png")
    (desk / "drawn.geojson").write_text((masks / "slide.geojson").read_text())
    for reference, told in (
        ("more.png", "holds the value 4, the 3 classes are 1 to 3"),
        ("drawn.geojson", "is no mask"),
    ):
        refused = run("evaluate", masks / "slide.mask.tif", reference, "-o", "judged")
        assert refused.exit_code == 1
        assert told in refused.output


def test_points_are_neither_audited_nor_suggested_by_several_classes(desk, masks):
    suggested = run("points", "suggest", masks / "slide.probability.tif")
    assert suggested.exit_code == 1
    assert "is of several classes" in suggested.output
    (entry,) = list_slides([desk / "slide.svs"])
    with pytest.raises(ConfigError, match="points are judged as in target or not"):
        predict_points(entry, np.zeros((1, 2)), model=desk / "wsipipe-out" / "runs" / "slides", out=desk)

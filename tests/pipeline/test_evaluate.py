from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image
from shapely.geometry import Polygon, box

from slidemaker import write_slide
from wsipipe.annotations.classes import ClassMap, TissueClass
from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.errors import AnnotationError, ConfigError, StoreError
from wsipipe.geometry import CellGrid
from wsipipe.numerics.metrics import METRICS, Counts, auc, cohen_kappa, dice
from wsipipe.numerics.polygons import outline_mask, rasterize
from wsipipe.numerics.tissue import Tissue
from wsipipe.pipeline.evaluate import Score, as_markdown, as_rows, evaluate, pooled, score_pair, write_evaluation
from wsipipe.pipeline.evaluation_pairs import Pair, find_pairs
from wsipipe.pipeline.references import mask_bands, polygon_bands
from wsipipe.pipeline.results import Segmentation, write_results
from wsipipe.slides import open_slide
from wsipipe.store.geojson import write_geojson
from wsipipe.store.label_raster import LabelRaster
from wsipipe.store.raster import as_mask, write_pyramid
from wsipipe.store.tables import read_csv, read_json, write_json


def blobs(rows, cols, phase=0.0):
    y, x = np.mgrid[:rows, :cols]
    return np.sin(x * 25 / cols + phase) * np.cos(y * 18 / rows) > 0.2


def png(path, mask):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(mask).save(path)
    return path


def raster(path, values, cell_px=1.0):
    grid = CellGrid(*values.shape, cell_px)
    write_pyramid(path, [values], grid=grid, mpp=None)
    return path


@pytest.fixture
def predicted(tmp_path):
    """Mask and probability of a slide of 2400 x 1800 px, at a quarter of its resolution, as predict writes them."""
    probability = np.random.default_rng(0).integers(0, 256, (450, 600)).astype(np.uint8)
    probability[blobs(450, 600)] |= 128
    (tmp_path / "masks").mkdir()
    raster(tmp_path / "masks" / "s.probability.tif", probability, 4.0)
    raster(tmp_path / "masks" / "s.mask.tif", as_mask(probability >= 128), 4.0)
    return tmp_path / "masks", probability


def test_a_small_pair_by_hand(tmp_path):
    mask, truth = np.zeros((4, 5), bool), np.zeros((4, 5), bool)
    mask[0, :4] = True
    truth[0, 1:] = truth[1, 1:2] = True
    score = score_pair(Pair("a", png(tmp_path / "p.png", mask), png(tmp_path / "r.png", truth)))
    assert score.counts == Counts(hits=3, false_alarms=1, misses=2, rejections=14)
    assert score.figures()["dice"] == pytest.approx(6 / 9)
    assert math.isnan(score.figures()["auc"])


@pytest.mark.parametrize("scale", [1, 4, 3])
def test_bands_agree_with_the_whole(tmp_path, predicted, scale):
    folder, probability = predicted
    truth = blobs(450 * scale, 600 * scale, 0.3)
    score = score_pair(Pair("s", folder / "s.mask.tif", png(tmp_path / "r.png", truth)))
    centres = (np.floor((np.arange(n) + 0.5) * scale).astype(int) for n in (450, 600))
    sampled = truth[np.ix_(*centres)]
    figures = score.figures()
    assert figures["dice"] == pytest.approx(dice(probability >= 128, sampled))
    assert figures["kappa"] == pytest.approx(cohen_kappa(probability >= 128, sampled))
    assert figures["auc"] == pytest.approx(auc(probability, sampled), abs=1e-12)
    assert score.counts.total == 450 * 600


def test_coarse_references_are_sampled_too(tmp_path, predicted):
    folder, probability = predicted
    truth = blobs(45, 60)
    score = score_pair(Pair("s", folder / "s.mask.tif", png(tmp_path / "r.png", truth)))
    assert score.counts == Counts.of(probability >= 128, np.kron(truth, np.ones((10, 10), bool)))


def test_bands_of_any_height_give_one_answer(tmp_path):
    path, grid = png(tmp_path / "r.png", blobs(90, 70)), CellGrid(45, 35, 2.0)
    whole = np.concatenate(list(mask_bands(LabelRaster(path), grid, (70, 90), rows=1000)))
    np.testing.assert_array_equal(whole, blobs(90, 70)[1::2, 1::2])
    for rows in (1, 7, 45):
        bands = list(mask_bands(LabelRaster(path), grid, (70, 90), rows=rows))
        assert {len(band) for band in bands[:-1]} <= {rows}
        np.testing.assert_array_equal(np.concatenate(bands), whole)


def test_polygons_give_what_their_mask_gives(tmp_path, predicted):
    folder, _ = predicted
    truth = blobs(450, 600, 0.7)
    polygons = [OutlinedRegion(polygon, "Tumor") for polygon in outline_mask(truth, CellGrid(450, 600, 4.0))]
    write_geojson(tmp_path / "s.geojson", polygons)
    drawn = score_pair(Pair("s", folder / "s.mask.tif", tmp_path / "s.geojson"))
    assert drawn == score_pair(Pair("s", folder / "s.mask.tif", png(tmp_path / "r.png", truth)))


def test_polygons_drawn_in_bands_are_those_drawn_at_once(tmp_path):
    shapes = [Polygon([(3, 2), (90, 15), (60, 70), (10, 55)]), box(70, 60, 99, 79)]
    write_geojson(tmp_path / "a.geojson", [OutlinedRegion(shape, "Tumor") for shape in shapes])
    grid = CellGrid(40, 50, 2.0)
    bands = polygon_bands(tmp_path / "a.geojson", grid, classes=ClassMap(), offset=(0, 0))
    for rows in (1, 7, 40):
        np.testing.assert_array_equal(np.concatenate(list(bands.bands(rows))), rasterize(shapes, grid))


def test_classes_say_which_polygons_count(tmp_path):
    regions = [OutlinedRegion(box(0, 0, 60, 80), "_0"), OutlinedRegion(box(20, 20, 40, 40), "_2")]
    write_geojson(tmp_path / "a.geojson", regions)
    pair = Pair("a", png(tmp_path / "p.png", np.ones((80, 100), bool)), tmp_path / "a.geojson")
    with pytest.raises(AnnotationError, match=r"classes found: '_0' \(1\), '_2' \(1\) .*--positive"):
        score_pair(pair)
    score = score_pair(pair, classes=ClassMap(("_0",), ("_2",)))
    assert score.counts.hits == 60 * 80 - 20 * 20


def test_a_slide_on_which_nothing_was_outlined(tmp_path):
    write_geojson(tmp_path / "a.geojson", [])
    score = score_pair(Pair("a", png(tmp_path / "p.png", np.eye(9, dtype=bool)), tmp_path / "a.geojson"))
    assert score.counts == Counts(0, 9, 0, 72)
    assert score.figures()["dice"] == 0.0


def test_results_of_predict_know_the_size_and_frame_of_their_slide(tmp_path):
    """A slide that is no whole number of raster pixels, polygons that count from its bounds."""
    path = write_slide(tmp_path / "s.svs", np.full((301, 403, 3), 200, np.uint8), levels=1)
    grid = CellGrid.covering(403, 301, 16.0)
    probability = np.zeros(grid.shape, np.float32)
    probability[4:12, 5:20] = 1
    segmentation = Segmentation(
        grid,
        iter([(probability, np.ones(grid.shape, bool))]),
        Tissue(np.ones(grid.shape, bool), grid),
        offset=(7.0, 5.0),
    )
    with open_slide(path) as slide:
        write_results(tmp_path / "masks", "s", slide, segmentation, provenance={})
    written = Pair("s", tmp_path / "masks" / "s.mask.tif", tmp_path / "masks" / "s.geojson")
    assert score_pair(written).figures()["dice"] == 1.0
    assert score_pair(Pair("s", written.prediction, written.prediction)).figures()["dice"] == 1.0
    level0 = np.zeros((301, 403), bool)
    level0[64:192, 80:320] = True
    assert score_pair(Pair("s", written.prediction, png(tmp_path / "r.png", level0))).figures()["dice"] > 0.95


@pytest.mark.parametrize("told", [True, False])
def test_a_mask_of_ours_on_a_small_slide_agrees_with_itself(tmp_path, told):
    """Its last column reaches past the slide, so that it has not the slide's proportions."""
    grid, mask = CellGrid.covering(300, 1034, 32.0), np.random.default_rng(0).random((33, 10)) < 0.5
    write_pyramid(tmp_path / "s.mask.tif", [as_mask(mask)], grid=grid, mpp=None)
    if told:
        write_json(tmp_path / "s.report.json", {"size_px": [300, 1034]})
    fine = png(tmp_path / "fine.png", np.kron(mask, np.ones((32, 32), bool))[:1034, :300])
    assert score_pair(Pair("s", tmp_path / "s.mask.tif", tmp_path / "s.mask.tif")).figures()["dice"] == 1.0
    if told:
        assert score_pair(Pair("s", tmp_path / "s.mask.tif", fine)).figures()["dice"] == 1.0


def test_a_reference_of_several_classes_is_not_taken_for_one_target(tmp_path):
    labels, classes = (
        np.tile(np.array([0, 1, 2], np.uint8), (30, 10)),
        [TissueClass("A", (1, 2, 3)), TissueClass("B", (4, 5, 6))],
    )
    write_pyramid(tmp_path / "r.mask.tif", [labels], grid=CellGrid(30, 30, 1.0), mpp=None, classes=classes)
    pair = Pair("s", png(tmp_path / "p.png", labels == 1), tmp_path / "r.mask.tif")
    with pytest.raises(AnnotationError, match=r"r.mask.tif: holds the classes A, B, not one target and the rest"):
        score_pair(pair)


def test_what_does_not_fit_is_refused(tmp_path, predicted):
    folder, probability = predicted
    with pytest.raises(AnnotationError, match="600 x 600 px, its slide 2400 x 1800 px"):
        score_pair(Pair("s", folder / "s.mask.tif", png(tmp_path / "r.png", blobs(600, 600))))
    write_geojson(tmp_path / "far.geojson", [OutlinedRegion(box(0, 0, 9000, 100), "Tumor")])
    with pytest.raises(AnnotationError, match=r"reach to \(9000, 100\) px, the prediction covers 2400 x 1800 px"):
        score_pair(Pair("s", folder / "s.mask.tif", tmp_path / "far.geojson"))
    for beyond, told in ((box(-900, 10, -130, 90), r"\(-900, 10\)"), (box(10, -95, 50, 40), r"\(10, -95\)")):
        write_geojson(tmp_path / "far.geojson", [OutlinedRegion(beyond, "Tumor")])
        with pytest.raises(AnnotationError, match=rf"reach to {told} px, the prediction covers 2400 x 1800 px"):
            score_pair(Pair("s", folder / "s.mask.tif", tmp_path / "far.geojson"))
    write_geojson(tmp_path / "near.geojson", [OutlinedRegion(box(-110, -80, 90, 70), "Tumor")])
    assert score_pair(Pair("s", folder / "s.mask.tif", tmp_path / "near.geojson")).counts.total == 450 * 600
    raster(folder / "s.probability.tif", probability[:300], 4.0)
    with pytest.raises(StoreError, match="is of other pixels or classes than the mask"):
        score_pair(Pair("s", folder / "s.mask.tif", png(tmp_path / "r.png", blobs(450, 600))))


def test_folders_are_paired_by_the_slides_names(tmp_path):
    ours = (
        "a.mask.tif",
        "a.mask.ome.tif",
        "a.probability.tif",
        "a.geojson",
        "a.overlay.png",
        "a.report.json",
        "b.png",
        "d.tif",
    )
    theirs = ("a.xml", "b.png", "b_mask.png", "c-anno.bmp", "notes.txt")
    for folder, names in (("p", ours), ("r", theirs)):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    found = find_pairs(tmp_path / "p", tmp_path / "r")
    assert [(pair.key, pair.prediction.name, pair.reference.name) for pair in found.pairs] == [
        ("a", "a.mask.tif", "a.xml"),
        ("b", "b.png", "b_mask.png"),
    ]
    assert (found.unpredicted, found.unreferenced) == (("c",), ("d",))
    assert found.pairs[0].probability.name == "a.probability.tif"
    alone = find_pairs(tmp_path / "p" / "d.tif", tmp_path / "r" / "a.xml")
    assert alone.pairs[0].key == "d"


def test_pairings_that_cannot_be_are_refused(tmp_path):
    for name in ("p/a.png", "p/a.tif", "q/x.png", "r/y.png", "e/readme.txt", "b/s.probability.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for ours, theirs, told in (
        ("p", "r", "holds two files for 'a': a.png and a.tif"),
        ("q", "r", "no prediction has the name of a reference: x and y"),
        ("e", "r", "holds no mask"),
        ("q", "none", "does not exist"),
        ("b/s.probability.tif", "r/y.png", r"is no mask \(give s.mask.tif\)"),
    ):
        with pytest.raises(ConfigError, match=told):
            find_pairs(tmp_path / ours, tmp_path / theirs)


def test_one_bad_pair_does_not_stop_the_others(tmp_path):
    for key in "abc":
        png(tmp_path / "p" / f"{key}.png", blobs(30, 40))
        png(tmp_path / "r" / f"{key}.png", blobs(30, 40, 0.2))
    (tmp_path / "p" / "b.png").write_bytes(b"nothing")
    (tmp_path / "r" / "z.png").touch()
    found = evaluate(find_pairs(tmp_path / "p", tmp_path / "r"))
    assert [score.name for score in found.scores] == ["a", "c"]
    assert [(of.key, of.status) for of in found.failed] == [("b", "failed")]
    assert found.notes == ("left out, references without a prediction: 1 (z)",)


def test_pooled_counts_every_pixel_and_mean_every_slide(tmp_path):
    one = Score("one", Counts(8, 2, 0, 90), (0, *[0] * 250, 1, 1, 1, 1, 4), (80, *[0] * 250, 5, 5, 1, 0, 1))
    two = Score("two", Counts(1, 0, 9, 0))
    three = Score("three", Counts(0, 0, 0, 50), (0,) * 256, (50, *[0] * 255))
    rows = as_rows([one, two, three])
    assert [row["slide"] for row in rows] == ["one", "two", "three", "mean", "pooled"]
    assert pooled([one, two]).counts == Counts(9, 2, 9, 90)
    assert rows[-1]["dice"] == pytest.approx(18 / 29, abs=1e-6)
    assert rows[-1]["pixels"] == 160
    dices = [one.figures()["dice"], two.figures()["dice"], 1.0]
    assert rows[-2]["dice"] == pytest.approx(np.mean(dices), abs=1e-6)
    assert rows[-2]["auc"] == pytest.approx(one.figures()["auc"], abs=1e-6)
    assert (rows[1]["auc"], rows[2]["auc"], rows[2]["kappa"]) == (None, None, None)
    assert "Undefined (one class only, or no probability raster): Cohen's kappa of 1, AUC of 2 rows." in as_markdown(
        rows
    )


def test_files_of_an_evaluation_tell_the_same(tmp_path):
    for key in "ab":
        png(tmp_path / "p" / f"{key}.png", blobs(30, 40))
        png(tmp_path / "r" / f"{key}.png", blobs(30, 40, 0.2))
    paths = write_evaluation(tmp_path, evaluate(find_pairs(tmp_path / "p", tmp_path / "r")))
    assert [path.name for path in paths] == ["evaluation.md", "evaluation.csv", "evaluation.json"]
    table, told = read_csv(paths[1]), read_json(paths[2])
    assert [row["slide"] for row in table] == ["a", "b", "mean", "pooled"]
    for row, other in zip(table, told["rows"], strict=True):
        assert [row[name] for name in METRICS] == ["" if other[name] is None else str(other[name]) for name in METRICS]
    assert told["auc_resolution"] == pytest.approx(1 / 255)
    assert f"{float(table[0]['dice']):.3f}" in paths[0].read_text()

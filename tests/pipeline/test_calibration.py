"""From held-out points to the report: what is fitted, stored, found again, written, and said where there is nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from wsipipe.config import parse_recipe, updated
from wsipipe.errors import CheckpointError
from wsipipe.geometry import CellGrid
from wsipipe.models.segmentation import build_model
from wsipipe.numerics.calibration import Calibration, calibrated
from wsipipe.pipeline.calibration import calibration_of, calibration_told, fit_to_held_out
from wsipipe.pipeline.extract import extract_slide
from wsipipe.pipeline.predict import predict_slide
from wsipipe.pipeline.samples import CellPoints, Sample
from wsipipe.pipeline.sources import ImageSource
from wsipipe.slides import SlideEntry, list_slides
from wsipipe.store.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from wsipipe.store.feature_map import FeatureMap
from wsipipe.store.raster import raster_info

RECIPE = {
    "network": {"width": 4, "depth": 2},
    "predict": {"window": 64, "overlap": 16},
    "tile": {"mpp": 1.0},
    "encoder": {"name": "filterbank", "kind": "dense", "stride_px": 8},
}
KNOWN = Calibration(2.0, 0.5, 30, 40)


def window(key, cells, label, top=0):
    source = ImageSource(SlideEntry(key, Path(f"{key}.png"), 1.0), 1.0, CellGrid(64, 64, 1.0), (64, 64), "auto")
    points = CellPoints(np.array(cells, np.int64).reshape(-1, 2), np.array(label, np.int64))
    return Sample(source, slice(top, top + 32), slice(0, 32), points)


def logits_of(sample):
    """A logit that tells the row on the map."""
    return torch.arange(sample.rows.start, sample.rows.stop)[:, None].float().expand(32, 32)


def test_points_are_read_at_their_cells_once_and_those_learnt_from_are_left_out():
    inside, outside = [(r, 3) for r in range(20, 32)], [(r, 5) for r in range(12)]
    held = window("b", inside + outside, [1] * 12 + [0] * 12)
    below = window("b", [(r - 16, 3) for r in range(20, 32)], [1] * 12, top=16)  # the same places, another window
    found = fit_to_held_out([window("a", inside, [1] * 12)], [held, below], logits_of)
    assert (found.in_target, found.out_of_target) == (12, 12)
    assert not found.note
    learnt = fit_to_held_out([window("b", inside[:4], [1] * 4)], [held], logits_of)
    assert learnt.in_target == 8
    assert "only 8 in-target and 12 out-of-target" in learnt.note


def test_points_of_slides_trained_on_are_said_to_be():
    held = window("a", [(r, c) for c in (1, 2) for r in range(24)], [1] * 24 + [0] * 24)
    found = fit_to_held_out([window("a", [(30, 30)], [1])], [held], logits_of)
    assert found.shift is not None
    assert "slides that it was trained on" in found.note


def test_it_survives_the_checkpoint_and_old_ones_have_none():
    recipe = parse_recipe(RECIPE)
    found = calibration_of(Checkpoint({}, recipe, json.loads(json.dumps(calibration_told(KNOWN)))), path=Path("x"))
    assert found == KNOWN
    old = calibration_of(Checkpoint({}, recipe, {}), path=Path("x"))
    assert (old.temperature, old.shift) == (1.0, None)
    assert "no held-out points" in old.note


@pytest.mark.parametrize(
    "told",
    [
        {"temperature": 0.0},
        {"temperature": "hot"},
        {"heat": 1.0},
        [1.0],
        {"temperature": 1.0, "shift": -1.0},
    ],
)
def test_damaged_entries_are_named(told):
    with pytest.raises(CheckpointError, match=r"run.*damaged calibration"):
        calibration_of(Checkpoint({}, parse_recipe(RECIPE), {"calibration": told}), path=Path("run"))


@pytest.fixture
def run(tmp_path, slide_path):
    """Give a function that writes a model (not trained) with a calibration; and the slide that it fits."""
    recipe = parse_recipe(RECIPE)
    (entry,) = list_slides([slide_path])
    with FeatureMap.open(extract_slide(entry, tmp_path, recipe).outputs[0]) as features:
        info = features.info
    names = ("encoder", "kind", "mpp", "stride_px", "weights_digest")
    facts = {"in_channels": info.dim} | {name: getattr(info, name) for name in names}
    torch.manual_seed(0)
    tensors = build_model(info.dim, recipe).state_dict()

    def write(calibration, **changes):
        told = {} if calibration is None else calibration_told(calibration)
        checkpoint = Checkpoint(tensors, updated(recipe, changes), facts | told)
        save_checkpoint(tmp_path / "run" / "checkpoint.safetensors", checkpoint)
        outcome = predict_slide(entry, model=tmp_path / "run", out=tmp_path)
        masks = tmp_path / "masks"
        report = json.loads((masks / "tissue.report.json").read_text())
        return outcome, report, *(tifffile.imread(masks / f"tissue.{name}.tif") for name in ("probability", "mask"))

    return write


def test_the_raster_is_calibrated_and_the_mask_stays(tmp_path, run):
    _, _, raw, mask = run(None)
    assert raster_info(tmp_path / "masks" / "tissue.probability.tif").about.endswith("not calibrated")
    outcome, report, probability, same = run(replace(KNOWN, note="calibrated on points of its own"))
    assert outcome.status == "done"
    np.testing.assert_array_equal(mask, same)
    expected = calibrated((raw / 255).astype(np.float32), 2.0) * 255
    inner = (raw > 25) & (raw < 230)  # elsewhere the raw raster is too coarse to compare with
    assert inner.any()
    # Cells are calibrated and then interpolated, which is not quite the same the other way round.
    assert (
        np.median(np.abs(probability - expected)[inner]) < 1 < np.median(np.abs(probability - raw.astype(float))[inner])
    )
    assert "calibrated at a temperature of 2" in raster_info(tmp_path / "masks" / "tissue.probability.tif").about
    assert raster_info(tmp_path / "masks" / "tissue.mask.tif").about == ""
    assert report["calibration"]["temperature"] == 2.0
    assert run(KNOWN)[0].status == "skipped"
    assert run(replace(KNOWN, temperature=3.0))[0].status == "done"


def test_the_report_gives_an_interval_of_the_area(run):
    outcome, report, probability, _ = run(KNOWN)
    told = report["classes"]["Tumor"]
    assert told["area_low_mm2"] < told["area_expected_mm2"] < told["area_high_mm2"]
    pixel_mm2 = (report["raster"]["downsample"] * report["mpp"] / 1000) ** 2
    assert told["area_expected_mm2"] == pytest.approx(probability.sum() / 255 * pixel_mm2)
    assert "blocks of 250 um err as a whole" in report["calibration"]["area_interval"]
    assert f"(95%: {told['area_low_mm2']:.3f} to {told['area_high_mm2']:.3f})" in outcome.message


@pytest.mark.parametrize("calibration", [None, Calibration(note="not calibrated: only 1 in-target")])
def test_without_calibration_there_is_no_interval_but_a_reason(run, calibration):
    outcome, report, _, _ = run(calibration)
    assert outcome.status == "done"
    assert not {"area_low_mm2", "area_expected_mm2"} & report["classes"]["Tumor"].keys()
    assert report["calibration"]["area_interval"] == "none: the model is not calibrated"
    assert report["calibration"]["note"].startswith("not calibrated")


def test_what_is_refined_keeps_its_mask_and_the_interval_is_of_what_it_was_refined_from(tmp_path, run):
    _, plain, _, _ = run(KNOWN)
    _, _, raw, mask = run(None, predict={"refine": True})
    _, report, probability, same = run(KNOWN, predict={"refine": True})
    np.testing.assert_array_equal(raw, probability)
    np.testing.assert_array_equal(mask, same)
    areas = ("area_expected_mm2", "area_low_mm2", "area_high_mm2")
    found, expected = ([told["classes"]["Tumor"][name] for name in areas] for told in (report, plain))
    assert found == pytest.approx(expected)
    assert "before it was refined" in report["calibration"]["area_interval"]
    assert "no probability" in raster_info(tmp_path / "masks" / "tissue.probability.tif").about


def test_a_calibration_is_stored_whole(run, tmp_path):
    run(KNOWN)
    assert load_checkpoint(tmp_path / "run" / "checkpoint.safetensors").provenance["calibration"] == asdict(KNOWN)

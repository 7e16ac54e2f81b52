"""Training on several classes: what is refused, what is resumed, and masks as truth."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from wsipipe.config import parse_recipe, updated
from wsipipe.errors import AnnotationError, CheckpointError
from wsipipe.numerics.metrics import dice
from wsipipe.pipeline.predict import trained_classes
from wsipipe.pipeline.scoring import decided, labelled_losses, mean_dice
from wsipipe.pipeline.train import train
from wsipipe.store.checkpoint import Checkpoint, load_checkpoint

HEIGHT, WIDTH = 36, 60
TINY = {
    "tile": {"mpp": None},
    "encoder": {"name": "none"},
    "network": {"width": 4, "depth": 1},
    "training": {"epochs": 3, "learning_rate": 0.03, "point_width": 3, "previews": 0, "classes": ["A", "B", "C"]},
}
COLORS = np.array([(150, 70, 160), (230, 170, 190), (200, 210, 90)])
POINTS = [(5, 8, "A"), (9, 30, "A"), (28, 6, "B"), (30, 30, "B"), (50, 9, "C"), (54, 28, "C")]


def recipe(**training):
    return updated(parse_recipe(TINY), {"training": training})


def write(folder, points=POINTS, *, name="a", classes=(1, 2, 3)):
    """Three stripes of three colours with noise, a mask and points; the manifest comes back."""
    truth = np.array(classes)[np.mgrid[:HEIGHT, :WIDTH][1] // 20]
    noise = np.random.default_rng(0).normal(0, 12, (HEIGHT, WIDTH, 3))
    picture = np.clip(COLORS[np.mgrid[:HEIGHT, :WIDTH][1] // 20] + noise, 0, 255)
    Image.fromarray(picture.astype(np.uint8)).save(folder / f"{name}.png")
    Image.fromarray(truth.astype(np.uint8)).save(folder / f"{name}_mask.png")
    lines = [f"{x},{y},{label}" for x, y, label in points]
    (folder / f"{name}.csv").write_text("\n".join(["x,y,label", *lines]))
    manifest = folder / "manifest.csv"
    manifest.write_text(f"slide,points,mask\n{name}.png,{name}.csv,{name}_mask.png")
    return manifest


def go(manifest, settings, run, **options):
    return train(manifest, settings, run, out=run.parent, device="cpu", **options)


@pytest.mark.parametrize(
    ("method", "floor"),
    [("full", 0.95), ("partial_ce", 0.8), ("contrast_map", 0.9), ("cvm", 0.9), ("direct_variational", 0.8)],
)
def test_learns_three_classes(tmp_path, method, floor):
    result = go(write(tmp_path), recipe(method=method, epochs=6, steps_per_epoch=6), tmp_path / "run")
    assert result.best_dice > floor


def test_a_pixel_of_value_0_is_not_known(tmp_path):
    """Where the mask of the third stripe says nothing, full supervision learns the two others alone."""
    manifest = write(tmp_path, classes=(1, 2, 0))
    go(manifest, recipe(method="full", epochs=4), tmp_path / "run")
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert float(list(csv.DictReader(file))[-1]["val_dice"]) > 0.6


def test_a_mask_of_more_classes_is_refused(tmp_path):
    with pytest.raises(AnnotationError, match=r"a_mask.png: holds the value 4, the 3 classes are 1 to 3"):
        go(write(tmp_path, classes=(1, 2, 4)), recipe(method="full"), tmp_path / "run")


def test_a_class_without_a_point_is_refused_and_what_was_left_out_is_told(tmp_path):
    points = [(x, y, "Fat" if label == "C" else label) for x, y, label in POINTS]
    expected = r"no point of class 'C' to train on, but of 'A', 'B'; a: left out, none of .*points of 'Fat' \(2\)"
    with pytest.raises(AnnotationError, match=expected):
        go(write(tmp_path, points), recipe(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_points_of_two_classes_on_one_cell_are_refused(tmp_path):
    with pytest.raises(AnnotationError, match="1 points lie on the spot of one of another class"):
        go(write(tmp_path, [*POINTS, (50, 9, "B")]), recipe(), tmp_path / "run")


def test_a_run_goes_on_with_the_same_classes_alone(tmp_path):
    manifest = write(tmp_path)
    go(manifest, recipe(method="partial_ce", epochs=1), tmp_path / "run")
    assert go(manifest, recipe(method="partial_ce", epochs=2), tmp_path / "run").epochs == 2
    with pytest.raises(CheckpointError, match=r"training.classes = .*now it is"):
        go(manifest, recipe(method="partial_ce", epochs=3, classes=["B", "A", "C"]), tmp_path / "run")


def test_colours_are_those_of_the_first_file_and_no_two_are_alike(tmp_path):
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "MultiPoint", "coordinates": [[x, y] for x, y, label in POINTS if label == name]},
            "properties": {"classification": {"name": name, "color": color}},
        }
        for name, color in (("A", [9, 9, 9]), ("B", [9, 9, 9]), ("C", [1, 2, 3]))
    ]
    manifest = write(tmp_path)
    (tmp_path / "a.geojson").write_text(json.dumps(features))
    manifest.write_text("slide,points\na.png,a.geojson")
    go(manifest, recipe(method="partial_ce", epochs=1), tmp_path / "run")
    told = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors").provenance["classes"]
    assert [told[0], told[2]] == [{"name": "A", "color": [9, 9, 9]}, {"name": "C", "color": [1, 2, 3]}]
    assert told[1]["name"] == "B"
    assert told[1]["color"] not in ([9, 9, 9], [1, 2, 3])


@pytest.mark.parametrize(
    ("classes", "told"),
    [([], "names 0 classes for 3 outputs"), (["A", "B", "C"], "has damaged classes: 'A' is no class"), (5, "damaged")],
)
def test_a_checkpoint_that_does_not_say_its_classes_is_refused(tmp_path, classes, told):
    with pytest.raises(CheckpointError, match=told):
        trained_classes(Checkpoint({}, parse_recipe(TINY), {"classes": classes}), tmp_path)
    assert trained_classes(Checkpoint({}, parse_recipe({}), {}), tmp_path) == ()


def test_scores_of_two_classes_are_those_of_one_logit():
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(2, 5, 6, generator=generator)
    labels = torch.randint(-1, 2, (5, 6), generator=generator, dtype=torch.int8)
    single = pair[1] - pair[0]
    np.testing.assert_allclose(labelled_losses(pair, labels), labelled_losses(single, labels), rtol=1e-5)
    np.testing.assert_array_equal(decided(pair), decided(single))


def test_the_mean_dice_is_over_the_classes_there_are():
    labels, truth = np.array([0, 0, 1, 2], np.int8), np.array([0, 1, 1, 2], np.int8)
    assert mean_dice(labels, truth, 4) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert mean_dice(labels, truth, 0) == dice(labels == 1, truth == 1)

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster

from wsipipe.annotations.classes import ClassMap
from wsipipe.config import load_recipe, updated
from wsipipe.errors import AnnotationError, CheckpointError
from wsipipe.models.segmentation import check_fits
from wsipipe.pipeline.extract import feature_path
from wsipipe.pipeline.manifest import read_manifest
from wsipipe.pipeline.preparation import Reading, prepare
from wsipipe.pipeline.samples import WindowCache
from wsipipe.pipeline.train import train
from wsipipe.progress import silent
from wsipipe.store.checkpoint import load_checkpoint
from wsipipe.store.feature_map import FeatureMap

RECIPE = load_recipe(Path(__file__).parents[2] / "configs" / "smoke.yaml")
POINTS = ["300,300,Tumor", "600,400,Tumor", "500,200,Stroma", "800,500,Stroma"]


@pytest.fixture(scope="module")
def project(slide_path, tmp_path_factory):
    """A folder with a slide, its points and a manifest; feature maps gather in it."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(slide_path, folder / "s.svs")
    write(folder, POINTS)
    return folder


def write(folder, points, name="s"):
    (folder / f"{name}.points.csv").write_text("\n".join(["x,y,label", *points]))
    (folder / f"{name}.csv").write_text(f"slide,points\ns.svs,{name}.points.csv")


def prepared(folder, *, name="s", recipe=RECIPE, **reading):
    rows = read_manifest(folder / f"{name}.csv")
    return prepare(rows, recipe, out=folder, reading=Reading(device="cpu", **reading), report=silent)


def test_windows_read_the_map_under_their_points(project):
    data = prepared(project, recipe=updated(RECIPE, {"training": {"window": 16}}))
    assert len(data.train) >= 2
    with FeatureMap.open(feature_path(project, RECIPE, "s")) as features:
        cells = features.info.grid.cells_of([[300, 300], [600, 400], [500, 200], [800, 500]])
        found = []
        for sample in data.train:
            held = WindowCache().get(sample)
            whole = features.read(sample.rows, sample.cols)
            np.testing.assert_array_equal(held.features.astype(np.float32), whole)
            np.testing.assert_array_equal(held.valid, features.read_valid(sample.rows, sample.cols))
            found += np.add(sample.points.cells, [sample.rows.start, sample.cols.start]).tolist()
        assert {tuple(cell) for cell in found} == {tuple(cell) for cell in cells.tolist()}


def test_facts_say_which_features_fit(project):
    run = project / "runs" / "fits"
    train(project / "s.csv", updated(RECIPE, {"training": {"previews": 0}}), run, out=project, device="cpu")
    checkpoint = load_checkpoint(run / "checkpoint.safetensors")
    with FeatureMap.open(feature_path(project, RECIPE, "s")) as features:
        check_fits(checkpoint, features.info)
    finer = updated(RECIPE, {"encoder": {"stride_px": 8}})
    prepared(project, recipe=finer)
    with FeatureMap.open(feature_path(project, finer, "s")) as features, pytest.raises(CheckpointError, match="stride"):
        check_fits(checkpoint, features.info)


def test_features_are_extracted_once(project):
    prepared(project)
    stages = []
    rows = read_manifest(project / "s.csv")
    reading = Reading(device="cpu")
    prepare(rows, RECIPE, out=project, reading=reading, report=lambda told: stages.append(told.stage))
    assert stages == []


def test_out_of_target_points_on_glass_are_left_out_with_a_note(project):
    write(project, [*POINTS, "10,10,Stroma"], name="glass")
    data = prepared(project, name="glass")
    assert "s: 1 out-of-target points lie off the tissue and are not needed" in data.notes
    assert sum(len(sample.points) for sample in data.train) == 4


def test_in_target_points_on_glass_are_refused(project):
    write(project, [*POINTS, "10,10,Tumor"], name="lost")
    with pytest.raises(AnnotationError, match=r"lost.points.csv: 1 in-target points lie off the tissue"):
        prepared(project, name="lost")


def test_two_classes_in_one_cell_are_refused(project):
    write(project, [*POINTS, "304,300,Stroma"], name="both")
    with pytest.raises(AnnotationError, match="lie on the spot of an out-of-target point"):
        prepared(project, name="both")


def geojson(points):
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [float(x), float(y)]},
            "properties": {"classification": {"name": name}},
        }
        for x, y, name in (point.split(",") for point in points)
    ]
    return json.dumps({"type": "FeatureCollection", "features": features})


def cells(data):
    return sorted(
        tuple(cell)
        for sample in data.train
        for cell in np.add(sample.points.cells, [sample.rows.start, sample.cols.start]).tolist()
    )


@pytest.mark.parametrize("suffix", ["geojson", "txt"])
def test_content_not_suffix_says_whether_points_count_from_the_bounds(project, monkeypatch, suffix):
    plain = cells(prepared(project))
    monkeypatch.setattr("wsipipe.pipeline.preparation.bounds_offset", lambda slide: (64.0, 32.0))
    moved = [f"{int(x) - 64},{int(y) - 32},{name}" for x, y, name in (point.split(",") for point in POINTS)]
    (project / f"qupath.{suffix}").write_text(geojson(moved))
    (project / "qupath.csv").write_text(f"slide,points\ns.svs,qupath.{suffix}")
    assert cells(prepared(project, name="qupath")) == plain
    assert cells(prepared(project, name="qupath", crop=False)) != plain
    assert cells(prepared(project)) == plain  # a plain table counts from the slide's corner


def test_what_checks_warn_of_is_told(project):
    shutil.copy(project / "s.svs", project / "other.svs")
    write(project, [*POINTS, POINTS[0]], name="of_other")
    write(project, POINTS, name="theirs")
    (project / "warned.csv").write_text("slide,points\ns.svs,of_other.points.csv\nother.svs,theirs.points.csv")
    notes = prepared(project, name="warned").notes
    warned = [note for note in notes if "by its name belongs to slide 'other', not to 's'" in note]
    assert len(warned) == 1
    assert warned[0].startswith("s: ")
    assert "rename it" in warned[0]
    assert [note for note in notes if "duplicate" in note or "repeat" in note] == ["s: left out: exact duplicates (1)"]


def test_validation_without_a_point_on_tissue_is_refused(project):
    shutil.copy(project / "s.svs", project / "v.svs")
    (project / "v.points.csv").write_text("x,y,label\n10,10,Stroma")
    (project / "empty.csv").write_text("slide,points,split\ns.svs,s.points.csv,train\nv.svs,v.points.csv,val")
    with pytest.raises(AnnotationError, match=r"no point to validate on .* the val slides: v \(click points"):
        prepared(project, name="empty")


def test_points_outside_the_slide_are_refused(project):
    write(project, [*POINTS, "3000,300,Stroma"], name="outside")
    with pytest.raises(AnnotationError, match="lie outside the slide of 1024 x 768 px"):
        prepared(project, name="outside")


def test_all_slides_with_unusable_points_are_named_at_once(project):
    lines = ["slide,points"]
    for index in range(7):
        shutil.copy(project / "s.svs", project / f"n{index}.svs")
        write(project, [*POINTS, "3000,300,Stroma"] if index else POINTS, name=f"n{index}")
        lines.append(f"n{index}.svs,n{index}.points.csv")
    (project / "many.csv").write_text("\n".join(lines))
    with pytest.raises(AnnotationError, match=r"^the points of 6 slides cannot be used: .*; \.\.\.$") as caught:
        prepared(project, name="many")
    named = [index for index in range(7) if f"n{index}.points.csv: 1 of 5 points lie outside" in str(caught.value)]
    assert named == [1, 2, 3, 4, 5]


def test_class_names_can_be_chosen(project):
    data = prepared(project, classes=ClassMap(positive=("Stroma",), negative=("Tumor",)))
    usual = prepared(project)
    labels = [one.train[0].points.label.tolist() for one in (data, usual)]
    assert labels[0] == [1 - label for label in labels[1]]
    assert data.digest != usual.digest


def test_digest_follows_content_not_place(project, tmp_path):
    before = prepared(project).digest
    shutil.copytree(project, tmp_path / "moved")
    assert prepared(tmp_path / "moved").digest == before
    write(tmp_path / "moved", [*POINTS, "400,400,Tumor"])
    assert prepared(tmp_path / "moved").digest != before


def test_pairs_limit_the_points_of_each_class(project):
    data = prepared(project, recipe=updated(RECIPE, {"training": {"pairs": 1}}))
    assert sorted(label for sample in data.train for label in sample.points.label.tolist()) == [0, 1]


@pytest.mark.filterwarnings("ignore")
def test_features_are_extracted_on_a_cluster(project):
    """The same training set, encoded by the workers of a running scheduler."""
    recipe = updated(RECIPE, {"tile": {"mpp": 1.5}})
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        there = prepared(project, recipe=recipe, scheduler=cluster.scheduler_address)
    assert feature_path(project, recipe, "s").is_file()
    assert there.digest == prepared(project, recipe=recipe).digest

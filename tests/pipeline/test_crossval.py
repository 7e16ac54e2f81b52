from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from comparemaker import tiny_recipe, write_cases
from slidemaker import tissue_picture, write_slide
from wsipipe.annotations.reading import read_points
from wsipipe.config import load_recipe, updated
from wsipipe.errors import AnnotationError, CheckpointError, ConfigError, StoreError
from wsipipe.geometry import CellGrid
from wsipipe.models.segmentation import restore_model
from wsipipe.pipeline.cases import Case, read_cases
from wsipipe.pipeline.crossval import compare, known_methods, method_variants
from wsipipe.pipeline.crossval_job import is_done, predicted, run_job, score_image, table_path
from wsipipe.pipeline.crossval_plan import HeldOut, Variant, make_plan
from wsipipe.pipeline.large_maps import Room
from wsipipe.pipeline.preparation import Reading
from wsipipe.pipeline.refine import refine
from wsipipe.pipeline.sources import ImageSource, image_source
from wsipipe.progress import silent
from wsipipe.slides import SlideEntry
from wsipipe.store.checkpoint import load_checkpoint
from wsipipe.store.lock import FileLock
from wsipipe.store.tables import read_csv

PATIENTS = {"a": "P1", "b": "P1", "c": "P2", "d": "P3"}
REPORT = ("table.md", "table.csv", "table.tex", "images.csv", "heatmaps.png")
METHODS = ("partial_ce", "full")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_cases(tmp_path_factory.mktemp("cases"), PATIENTS)


def go(manifest, run, *, recipe=None, methods=METHODS, **options):
    options = {"folds": 2, "baseline": "partial_ce", "reading": Reading(device="cpu")} | options
    return compare(manifest, recipe or tiny_recipe(), run, method_variants(methods), out=run.parent, **options)


@pytest.fixture(scope="module")
def finished(manifest, tmp_path_factory):
    """An undisturbed comparison."""
    run = tmp_path_factory.mktemp("whole") / "run"
    return run, go(manifest, run)


def jobs_of(manifest, run):
    """Jobs of a comparison as `compare` plans them."""
    return make_plan(
        read_cases(manifest), tiny_recipe(), run, method_variants(METHODS), folds=2, out=run.parent,
        reading=Reading(device="cpu"), force=False, report=silent,
    ).jobs  # fmt: skip


def statuses(result):
    return [outcome.status for outcome in result.outcomes]


def test_every_image_is_scored_once_by_every_method(finished):
    run, result = finished
    assert statuses(result) == ["done"] * 4
    assert [path.name for path in result.files] == list(REPORT)
    rows = read_csv(run / "images.csv")
    assert sorted((row["variant"], row["slide"]) for row in rows) == sorted(
        (method, key) for method in METHODS for key in PATIENTS
    )
    for row in rows:
        assert 0 <= float(row["dice"]) <= 1
        assert int(row["cells"]) == 40 * 48


def test_held_out_patients_take_no_part_in_training(finished):
    run, _ = finished
    folds = {row["slide"]: row["fold"] for row in read_csv(run / "folds.csv")}
    assert folds["a"] == folds["b"]
    for fold in ("1", "2"):
        trained = read_csv(run / f"fold-{fold}" / "train.csv")
        held = {key for key in PATIENTS if folds[key] == fold}
        assert held
        assert {row["slide"].split("/")[-1][0] for row in trained} == set(PATIENTS) - held
        assert not {row["patient"] for row in trained} & {PATIENTS[key] for key in held}


def test_all_methods_get_the_same_points_and_settings(finished):
    run, _ = finished
    assert sorted(path.stem for path in (run / "points").iterdir()) == sorted(PATIENTS)
    recipes = [load_recipe(run / "fold-1" / method / "recipe.yaml") for method in METHODS]
    assert [recipe.training.method for recipe in recipes] == list(METHODS)
    assert len({updated(recipe, {"training": {"method": "cvm"}}).digest() for recipe in recipes}) == 1


def test_scores_are_those_of_the_checkpoint(finished, manifest):
    run, _ = finished
    folds = {row["slide"]: row["fold"] for row in read_csv(run / "folds.csv")}
    network = restore_model(
        load_checkpoint(run / f"fold-{folds['d']}" / "full" / "checkpoint.safetensors"), device="cpu"
    )
    source = image_source(SlideEntry("d", manifest.parent / "d.png"), None, reader="auto")
    values, valid = predicted(network, source, tiny_recipe(), Room(run, "d"))
    truth = np.asarray(Image.open(manifest.parent / "masks" / "d.png")) > 0
    assert valid.all()
    dice = 2 * ((values >= 0.5) & truth).sum() / ((values >= 0.5).sum() + truth.sum())
    (row,) = [row for row in read_csv(run / "images.csv") if (row["slide"], row["variant"]) == ("d", "full")]
    assert float(row["dice"]) == pytest.approx(dice, abs=1e-6)
    with Image.open(run / f"fold-{folds['d']}" / "full" / "probability" / "d.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.rint(values * 255).astype(np.uint8))


class Interrupt:
    """Stops a comparison as Ctrl-C would, in the middle of one job's training."""

    def __call__(self, progress):
        if progress.item.endswith("/full") and progress.stage == "train" and progress.done == 4:
            raise KeyboardInterrupt


def test_an_interrupted_comparison_goes_on_and_ends_like_an_undisturbed_one(finished, manifest, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        go(manifest, run, report=Interrupt())
    assert not (run / "table.md").exists()
    assert (run / "fold-1" / "full" / "state.pt").is_file()
    before = (run / "fold-1" / "partial_ce" / "checkpoint.safetensors").stat().st_mtime_ns
    result = go(manifest, run)
    assert statuses(result) == ["skipped", "done", "done", "done"]
    assert (run / "fold-1" / "partial_ce" / "checkpoint.safetensors").stat().st_mtime_ns == before
    for name in REPORT:
        assert (run / name).read_bytes() == (finished[0] / name).read_bytes()


def test_finished_jobs_are_recognised_by_content(finished, manifest):
    run, _ = finished
    told = []
    assert statuses(go(manifest, run, tell=told.append)) == ["skipped"] * 4
    assert told[1] == "fold-1/partial_ce: skipped, finished before"
    mark = run / "fold-2" / "full" / "job.json"
    content = mark.read_text()
    mark.write_text(json.dumps(json.loads(content) | {"settings": "others"}))
    assert statuses(go(manifest, run)) == ["skipped"] * 3 + ["done"]
    assert mark.read_text() == content
    (job,) = [job for job in jobs_of(manifest, run) if job.folder == mark.parent]
    assert is_done(job)
    mark.write_text(content[:-9])
    assert not is_done(job)
    mark.write_text(content)


def test_methods_can_be_added_later(finished, manifest):
    run, _ = finished
    result = go(manifest, run, methods=("partial_ce", "cvm"), baseline="cvm")
    assert statuses(result) == ["skipped", "done"] * 2
    assert "Difference to `cvm`" in result.files[0].read_text()
    go(manifest, run)


def test_jobs_travel_to_workers(finished, manifest, tmp_path):
    """What a worker process gets is pickled; it does the same with it."""
    plan = make_plan(
        read_cases(manifest),
        tiny_recipe(),
        tmp_path / "run",
        method_variants(METHODS),
        folds=2,
        out=tmp_path,
        reading=Reading(device="cpu", workers=2),
        force=False,
        report=silent,
    )
    job = pickle.loads(pickle.dumps(plan.jobs[1]))
    assert (job.reading.workers, job.name) == (1, "fold-1/full")
    assert run_job(job, silent).status == "done"
    assert table_path(job).read_bytes() == (finished[0] / "fold-1" / "full" / "images.csv").read_bytes()


def test_one_job_that_fails_stops_no_other(manifest, tmp_path):
    run = tmp_path / "run"
    (run / "fold-1").mkdir(parents=True)
    (run / "fold-1" / "full").write_text("in the way")
    result = go(manifest, run)
    assert statuses(result) == ["done", "failed", "done", "done"]
    assert "fold-1/full" in result.outcomes[1].message
    assert "full (1 of 2 folds)" in result.files[0].read_text()


def test_other_settings_or_data_are_refused_until_forced(manifest, tmp_path):
    cases, run = write_cases(tmp_path, {"a": "P1", "c": "P2"}), tmp_path / "run"
    go(cases, run, methods=("partial_ce",))
    with pytest.raises(CheckpointError, match=r"training.epochs = 2, now it is 3 .*--force"):
        go(cases, run, methods=("partial_ce",), recipe=tiny_recipe(epochs=3))
    with pytest.raises(CheckpointError, match="pairs drawn = 3, now it is 2"):
        go(cases, run, methods=("partial_ce",), recipe=tiny_recipe(pairs=2))
    points = run / "points" / "a.geojson"
    points.write_text(points.read_text().replace("Positive", "Tumor"))
    with pytest.raises(CheckpointError, match="a has another points"):
        go(cases, run, methods=("partial_ce",))
    result = go(cases, run, methods=("partial_ce",), recipe=tiny_recipe(epochs=1, pairs=2), force=True)
    assert statuses(result) == ["done"] * 2
    assert "Tumor" not in points.read_text()
    assert len(read_points(points)) == 4
    assert load_recipe(run / "fold-1" / "partial_ce" / "recipe.yaml").training.pairs == 2


def test_settings_of_one_method_leave_the_jobs_of_others_alone(manifest, tmp_path):
    cases, run = write_cases(tmp_path, {"a": "P1", "c": "P2"}), tmp_path / "run"
    assert statuses(go(cases, run, methods=("partial_ce", "cvm"))) == ["done"] * 4
    other = updated(tiny_recipe(), {"cvm": {"eta": 0.1}, "mixmatch": {"views": 1}})
    result = go(cases, run, methods=("partial_ce", "cvm"), recipe=other)
    assert statuses(result) == ["skipped", "failed", "skipped", "failed"]
    assert "was trained with cvm.eta = 0.6, now it is 0.1" in result.outcomes[1].message


def test_cvm_plus_averages_views_and_refines_what_it_predicts(manifest, tmp_path):
    result = go(manifest, tmp_path / "run", methods=("cvm_plus",))
    assert statuses(result) == ["done"] * 2
    network = restore_model(
        load_checkpoint(tmp_path / "run" / "fold-1" / "cvm_plus" / "checkpoint.safetensors"), device="cpu"
    )
    source, room = image_source(SlideEntry("d", manifest.parent / "d.png"), None, reader="auto"), Room(tmp_path, "d")
    recipe = updated(tiny_recipe(), {"training": {"method": "cvm_plus"}})
    plain = updated(recipe, {"predict": {"views": 4, "refine": False}})
    values, valid = predicted(network, source, plain, room)
    expected = refine(values, valid, lam_rel=1.0, room=room)
    np.testing.assert_array_equal(predicted(network, source, recipe, room)[0], expected)


def test_a_comparison_in_use_is_left_alone(manifest, tmp_path):
    lock = FileLock(tmp_path / "run" / "crossval")
    lock.acquire()
    with pytest.raises(StoreError, match="is being written by process"):
        go(manifest, tmp_path / "run")
    lock.release()


def test_too_few_patients_leave_no_folder_behind(manifest, tmp_path):
    with pytest.raises(ConfigError, match="3 patients cannot be divided into 4 folds"):
        go(manifest, tmp_path / "run", folds=4)
    assert not (tmp_path / "run").exists()


def test_points_of_the_manifest_are_used(tmp_path):
    cases = write_cases(tmp_path, {"a": "P1", "c": "P2"})
    lines = cases.read_text().splitlines()
    for key in "ac":
        (tmp_path / f"{key}.csv").write_text("x,y,label\n5,5,1\n8,30,1\n44,8,0\n40,33,0\n")
    cases.write_text("\n".join([lines[0] + ",points", *(f"{line},{line[0]}.csv" for line in lines[1:])]))
    told = []
    go(cases, tmp_path / "run", methods=("partial_ce",), tell=told.append)
    assert told[0] == "2 images in 2 folds, points of the manifest"
    assert not (tmp_path / "run" / "points").exists()


def test_images_without_room_for_points_are_named_together(tmp_path):
    cases = write_cases(tmp_path, {"a": "P1", "b": "P2", "c": "P3"})
    for key in "ab":
        Image.fromarray(np.ones((40, 48), bool)).save(tmp_path / "masks" / f"{key}.png")
    with pytest.raises(AnnotationError, match=r"for 2 of 3 images: a: the mask has 0 out-of-target pixels.*; b: "):
        go(cases, tmp_path / "run")


def test_methods_are_those_of_the_settings():
    assert {"partial_ce", "cvm", "full", "contrast_map"} <= set(known_methods())
    assert [variant.name for variant in method_variants(known_methods())] == list(known_methods())
    for names, told in ((["unet"], "unknown method 'unet'"), ([], "none"), (["cvm", "cvm"], "cvm, cvm")):
        with pytest.raises(ConfigError, match=told):
            method_variants(names)


def test_cells_off_the_tissue_count_only_where_the_target_is(tmp_path):
    truth = np.zeros((4, 5), bool)
    truth[:2, :2] = True
    Image.fromarray(truth).save(tmp_path / "m.png")
    entry = SlideEntry("s", tmp_path / "m.png")
    source = ImageSource(entry, None, CellGrid(4, 5, 1.0), (5, 4), "auto")
    image = HeldOut(Case("s", entry.path, tmp_path / "m.png", "P1"), source, tmp_path / "p.csv", 1)
    valid = np.zeros((4, 5), bool)
    valid[0] = True  # 2 of 4 target cells, and 3 others
    values = np.where(valid, np.float32(0.25), np.float32(0))
    values[0, 0] = 0.75
    row = score_image(image, values, valid, threshold=0.5)
    assert (row["cells"], row["target_share"]) == (7, round(4 / 7, 6))
    assert row["dice"] == pytest.approx(2 * 1 / (1 + 4), abs=1e-6)
    assert row["precision"] == 1.0
    assert row["recall"] == 0.25


def test_figures_of_an_image_all_in_target_stay_empty(tmp_path):
    Image.fromarray(np.ones((4, 5), bool)).save(tmp_path / "m.png")
    entry = SlideEntry("s", tmp_path / "m.png")
    source = ImageSource(entry, None, CellGrid(4, 5, 1.0), (5, 4), "auto")
    image = HeldOut(Case("s", entry.path, tmp_path / "m.png", "P1"), source, tmp_path / "p.csv", 1)
    row = score_image(image, np.ones((4, 5), np.float32), np.ones((4, 5), bool), threshold=0.5)
    assert (row["auc"], row["kappa"], row["dice"]) == (None, None, 1.0)


def test_slides_go_through_their_feature_maps(tmp_path):
    lines = ["slide,mask,patient"]
    for index, key in enumerate(("one", "two")):
        picture = tissue_picture(384, 320, margin=48)
        write_slide(tmp_path / f"{key}.svs", np.roll(picture, 16 * index, axis=1), levels=1)
        mask = np.zeros((80, 96), bool)
        mask[:, :48] = True
        Image.fromarray(mask).save(tmp_path / f"{key}.png")
        lines.append(f"{key}.svs,{key}.png,{key}")
    cases = tmp_path / "slides.csv"
    cases.write_text("\n".join(lines))
    recipe = updated(load_recipe("smoke"), {"training": {"epochs": 1, "previews": 0}})
    recipe = updated(recipe, {"tile": {"tissue": {"min_area_um2": 0.0, "min_hole_um2": 0.0, "mpp": 4.0}}})
    result = go(cases, tmp_path / "run", recipe=recipe, methods=("partial_ce",))
    assert statuses(result) == ["done", "done"]
    rows = read_csv(tmp_path / "run" / "images.csv")
    assert [row["slide"] for row in rows] == ["one", "two"] or [row["slide"] for row in rows] == ["two", "one"]
    assert all(0 < int(row["cells"]) <= 12 * 10 for row in rows)
    assert statuses(go(cases, tmp_path / "run", recipe=recipe, methods=("partial_ce",))) == ["skipped"] * 2


def test_variants_may_change_any_section(manifest, tmp_path):
    variants = [Variant(f"eta-{eta}", {"training": {"method": "cvm"}, "cvm": {"eta": eta}}) for eta in (0.0, 0.6)]
    recipe = tiny_recipe(epochs=1)
    result = compare(
        manifest,
        recipe,
        tmp_path / "run",
        variants,
        folds=2,
        baseline="eta-0.6",
        varied="eta",
        out=tmp_path,
        reading=replace(Reading(), device="cpu"),
    )
    assert statuses(result) == ["done"] * 4
    assert load_recipe(tmp_path / "run" / "fold-2" / "eta-0.0" / "recipe.yaml").cvm.eta == 0.0
    assert result.files[-1].name == "ablation.png"

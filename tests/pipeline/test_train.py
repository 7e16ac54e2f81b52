from __future__ import annotations

import csv
import shutil
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from wsipipe.config import MethodName, Recipe, load_recipe, parse_recipe, updated
from wsipipe.errors import AnnotationError, CheckpointError, ConfigError, NumericsError, StoreError
from wsipipe.models.segmentation import restore_model
from wsipipe.pipeline.batches import training_progress
from wsipipe.pipeline.preparation import prepare
from wsipipe.pipeline.train import train
from wsipipe.pipeline.trainer import Scores, Trainer
from wsipipe.store.checkpoint import load_checkpoint, load_state
from wsipipe.store.run_folder import RunFolder

METHODS = get_args(MethodName)
TINY = {
    "tile": {"mpp": None},
    "encoder": {"name": "none"},
    "network": {"width": 4, "depth": 1},
    "training": {"epochs": 3, "learning_rate": 0.03, "point_width": 3, "method": "cvm", "previews": 0},
}


def recipe(**training) -> Recipe:
    return updated(parse_recipe(TINY), {"training": training})


def picture(seed, height=40, width=48):
    """Two tissues with a slanted border; the left one is the target."""
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[:height, :width]
    mask = col + row // 4 < width // 2 + 4
    colours = np.where(mask[..., None], (150, 70, 160), (230, 170, 190))
    return np.clip(colours + rng.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8), mask


def write_image(folder, name, seed, size=(40, 48)):
    image, mask = picture(seed, *size)
    Image.fromarray(image).save(folder / f"{name}.png")
    (folder / "masks").mkdir(exist_ok=True)
    Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    points = [(5, 8, "Tumor"), (8, 30, "Tumor"), (40, 8, "Stroma"), (42, 33, "Stroma")]
    lines = [f"{x},{y},{label}" for x, y, label in points]
    (folder / f"{name}.csv").write_text("\n".join(["x,y,label", *lines]))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Manifest of three small images with masks, one of them to validate on."""
    folder = tmp_path_factory.mktemp("images")
    lines = ["slide,points,mask,split"]
    for index, (name, split) in enumerate((("a", "train"), ("b", "train"), ("c", "val"))):
        write_image(folder, name, index, (40, 48) if name != "b" else (36, 52))
        lines.append(f"{name}.png,{name}.csv,masks/{name}.png,{split}")
    manifest = folder / "manifest.csv"
    manifest.write_text("\n".join(lines))
    return manifest


def go(manifest, settings, run, **options):
    return train(manifest, settings, run, out=run.parent, device="cpu", **options)


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """An uninterrupted run of six epochs."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    return go(images, recipe(epochs=6, previews=3), run)


def metrics(run):
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def without_time(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


class Interrupt:
    """Stops a run as Ctrl-C would, after so many optimiser steps."""

    def __init__(self, steps):
        self.steps = steps

    def __call__(self, progress):
        if progress.stage == "train" and progress.done == self.steps:
            raise KeyboardInterrupt


def test_learns_and_tells(finished):
    rows = metrics(finished.run)
    assert [int(row["epoch"]) for row in rows] == list(range(1, 7))
    assert float(rows[-1]["loss_points"]) < 0.6 * float(rows[0]["loss_points"])
    assert float(rows[-1]["loss_second"]) > 0
    assert finished.best_dice > 0.9
    assert finished.best_pce == min(float(row["val_pce"]) for row in rows)
    assert str(finished).startswith(f"{finished.run}: trained, best of 6 epochs is {finished.best_epoch} ")
    assert "2 slides train, 1 validate" in str(finished)


def test_run_folder_holds_all_it_should(finished):
    run = finished.run
    assert {path.name for path in run.iterdir()} == {
        *("checkpoint.safetensors", "state.pt", "recipe.yaml", "metrics.csv", "curves.png", "previews", "tensorboard")
    }
    assert load_recipe(run / "recipe.yaml") == recipe(epochs=6, previews=3)
    assert {path.name for path in (run / "previews").iterdir()} == {f"epoch_{i:04d}.png" for i in (1, 2, 4, 6)}
    for path in (run / "curves.png", *(run / "previews").iterdir()):
        with Image.open(path) as image:
            assert np.asarray(image).std() > 10


def test_tensorboard_reads_the_events(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished.run / "tensorboard")).Reload()
    logged = [round(item.value, 5) for item in events.Scalars("val_pce")]
    assert logged == [round(float(row["val_pce"]), 5) for row in metrics(finished.run)]


def test_checkpoint_is_the_best_epoch_and_says_what_it_fits(finished):
    checkpoint = load_checkpoint(finished.run / "checkpoint.safetensors")
    told = checkpoint.provenance
    assert (told["in_channels"], told["encoder"], told["mpp"], told["stride_px"]) == (3, "none", None, 1)
    assert told["epoch"] == finished.best_epoch
    model = restore_model(checkpoint, device="cpu")
    image, mask = picture(2)
    with torch.no_grad():
        logits, _ = model(torch.from_numpy(image / np.float32(255)).permute(2, 0, 1)[None])
    predicted = logits[0, 0].numpy() > 0
    overlap = 2 * (predicted & mask).sum() / (predicted.sum() + mask.sum())
    assert overlap == pytest.approx(finished.best_dice, abs=1e-9)


def test_checkpoint_is_calibrated_on_the_validation_points(images, finished, tmp_path):
    assert "only 2 in-target and 2 out-of-target points were held out" in finished.notes[-1]
    for line in (images.parent / "manifest.csv").read_text().splitlines()[1:]:
        name = line.split(".")[0]
        shutil.copy(images.parent / f"{name}.png", tmp_path)
        points = [
            f"{x},{y},{label}"
            for label, left in (("Tumor", 1), ("Stroma", 38))
            for x in (left, left + 6)
            for y in range(1, 36, 5)
        ]
        (tmp_path / f"{name}.csv").write_text("\n".join(["x,y,label", *points]))
    rows = [f"{name}.png,{name}.csv,{split}" for name, split in (("a", "train"), ("b", "train"), ("c", "val"))]
    (tmp_path / "many.csv").write_text("\n".join(["slide,points,split", *rows]))
    result = go(tmp_path / "many.csv", recipe(epochs=2), tmp_path / "run")
    told = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors").provenance["calibration"]
    assert (told["in_target"], told["out_of_target"]) == (14, 14)
    assert told["temperature"] >= 1
    assert told["shift"] > 0
    assert not any("calibrated" in note for note in result.notes)


def test_input_statistics_are_those_of_the_training_images(finished):
    stack = np.concatenate([picture(0)[0].reshape(-1, 3), picture(1, 36, 52)[0].reshape(-1, 3)]) / 255
    tensors = load_checkpoint(finished.run / "checkpoint.safetensors").tensors
    np.testing.assert_allclose(tensors["mean"], stack.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(tensors["std"], stack.std(axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("warmup", "asked"), [(0, [1, 1, 0, 0, 1, 0]), (1, [1, 1, 0, 0, 1, 0]), (3, [0, 0, 1, 1, 1, 0])]
)
def test_teacher_is_asked_at_new_minima_after_the_warmup_only(images, tmp_path, monkeypatch, warmup, asked):
    losses = iter([0.7, 0.5, 0.65, 0.6, 0.4, 0.4])
    monkeypatch.setattr(Trainer, "validate", lambda self: Scores(next(losses), None))
    go(images, recipe(epochs=6, warmup_epochs=warmup), tmp_path / "run")
    rows = metrics(tmp_path / "run")
    assert [int(row["refreshed"]) for row in rows] == asked
    assert [int(row["best"]) for row in rows] == [1, 1, 0, 0, 1, 0]
    first = asked.index(1) + 1
    assert [float(row["loss_second"]) > 0 for row in rows] == [epoch > first for epoch in range(1, 7)]


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_interrupted_run_ends_like_an_uninterrupted_one(images, finished, tmp_path, steps):
    run, settings = tmp_path / "run", recipe(epochs=6)
    with pytest.raises(KeyboardInterrupt):
        go(images, settings, run, report=Interrupt(steps))
    assert len(metrics(run)) == (steps - 1) // 2 if steps > 2 else not (run / "metrics.csv").exists()
    result = go(images, settings, run)
    assert without_time(metrics(run)) == without_time(metrics(finished.run))
    assert (result.best_epoch, result.best_pce) == (finished.best_epoch, finished.best_pce)
    one, other = (load_checkpoint(path / "checkpoint.safetensors").tensors for path in (run, finished.run))
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)


def test_interruption_leaves_whole_files_and_no_lock(images, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        go(images, recipe(), run, report=Interrupt(3))
    assert load_state(run / "state.pt")["memory"]["epoch"] == 1
    assert load_checkpoint(run / "checkpoint.safetensors").provenance["epoch"] == 1
    assert not [path for path in run.rglob("*") if path.name.startswith(".") or path.suffix == ".lock"]


def test_finished_run_is_recognised(images, finished):
    before = (finished.run / "checkpoint.safetensors").stat().st_mtime_ns
    again = go(images, recipe(epochs=6), finished.run)
    assert again.status == "skipped"
    assert "finished before" in str(again)
    assert (again.best_epoch, again.best_dice) == (finished.best_epoch, finished.best_dice)
    assert (finished.run / "checkpoint.safetensors").stat().st_mtime_ns == before


def test_more_epochs_continue_a_run(images, finished, tmp_path):
    run = tmp_path / "run"
    go(images, recipe(epochs=2), run)
    assert go(images, recipe(epochs=6), run).status == "done"
    assert without_time(metrics(run)) == without_time(metrics(finished.run))


def test_fewer_epochs_than_trained_are_refused_and_change_nothing(images, finished):
    before = (finished.run / "recipe.yaml").read_bytes()
    with pytest.raises(CheckpointError, match=r"trained for 6 epochs already, now training.epochs is 2 .*--force"):
        go(images, recipe(epochs=2, previews=3), finished.run)
    assert (finished.run / "recipe.yaml").read_bytes() == before


def test_skipped_run_keeps_its_recipe(images, finished):
    before = (finished.run / "recipe.yaml").read_bytes()
    assert go(images, recipe(epochs=6, previews=1), finished.run).status == "skipped"
    assert (finished.run / "recipe.yaml").read_bytes() == before


@pytest.mark.parametrize("place", ["run_epoch", "validate", "_ask_teacher"])
def test_device_out_of_memory_says_what_to_do(images, tmp_path, monkeypatch, place):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainer, place, exhausted)
    expected = r"too little memory for 2 windows of 32 cells a side .*training.window or training.batch_size"
    with pytest.raises(NumericsError, match=expected):
        go(images, recipe(batch_size=2, window=32), tmp_path / "run")


def test_workers_choose_their_device_themselves(images, tmp_path, monkeypatch):
    given = []

    def prepared(*arguments, reading, **options):
        given.append(reading.device)
        return prepare(*arguments, reading=reading, **options)

    monkeypatch.setattr("wsipipe.pipeline.train.prepare", prepared)
    train(images, recipe(epochs=1), tmp_path / "run", out=tmp_path, device="auto")
    assert given == ["auto"]


def test_other_settings_or_points_are_refused_unless_forced(images, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(images.parent, folder)
    manifest, run = folder / "manifest.csv", tmp_path / "run"
    go(manifest, recipe(epochs=1), run)
    with pytest.raises(CheckpointError, match=r"training.learning_rate = 0.03, now it is 0.02.*--force"):
        go(manifest, recipe(epochs=1, learning_rate=0.02), run)
    with (folder / "a.csv").open("a") as file:
        file.write("\n20,20,Tumor")
    with pytest.raises(CheckpointError, match="other slides, points, masks or features"):
        go(manifest, recipe(epochs=1), run)
    assert go(manifest, recipe(epochs=1), run, force=True).status == "done"
    assert len(metrics(run)) == 1


def test_cosine_schedule_depends_on_its_length(images, tmp_path):
    go(images, recipe(epochs=4, schedule="cosine"), tmp_path / "run")
    rates = [float(row["learning_rate"]) for row in metrics(tmp_path / "run")]
    np.testing.assert_allclose(rates, 0.03 * np.array([1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]))
    with pytest.raises(CheckpointError, match=r"training.epochs = 4, now it is 5"):
        go(images, recipe(epochs=5, schedule="cosine"), tmp_path / "run")


def test_same_seed_same_model_and_the_callers_random_numbers_are_left_alone(images, finished, tmp_path):
    before = torch.get_rng_state()
    go(images, recipe(epochs=6), tmp_path / "same")
    assert torch.equal(torch.get_rng_state(), before)
    go(images, recipe(epochs=6, seed=1), tmp_path / "other")
    whole = without_time(metrics(finished.run))
    assert without_time(metrics(tmp_path / "same")) == whole
    assert without_time(metrics(tmp_path / "other")) != whole


def test_loss_that_explodes_stops_the_run(images, tmp_path):
    with pytest.raises(NumericsError, match=r"the loss is (nan|inf) in epoch \d at a learning rate of 1e\+30"):
        go(images, recipe(epochs=9, learning_rate=1e30), tmp_path / "run")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_validation_loss_that_is_not_finite_stops_the_run(images, tmp_path, monkeypatch, value):
    monkeypatch.setattr(Trainer, "validate", lambda self: Scores(value, None))
    with pytest.raises(NumericsError, match=rf"the validation loss is {value} in epoch 1 at a learning rate of 0.03"):
        go(images, recipe(epochs=3), tmp_path / "run")
    assert not (tmp_path / "run" / "state.pt").exists()


def test_batches_of_windows_of_different_sizes_and_steps(images, tmp_path):
    seen = []
    settings = recipe(epochs=2, batch_size=2, steps_per_epoch=3)
    go(images, settings, tmp_path / "run", report=lambda progress: seen.append((progress.stage, progress.done)))
    assert [done for stage, done in seen if stage == "train"] == [1, 2, 3, 4, 5, 6]
    assert [done for stage, done in seen if stage == "teacher"][:3] == [0, 1, 2]


@pytest.mark.parametrize("method", [name for name in METHODS if name != "cvm"])
def test_other_methods_learn_too(images, tmp_path, method):
    result = go(images, recipe(epochs=14, method=method, warmup_epochs=6), tmp_path / "run")
    assert result.best_dice > 0.8, "all in target: 0.66"
    rows = metrics(tmp_path / "run")
    points = [float(row["loss_points"]) for row in rows]
    assert min(points) < 0.8 * points[0]
    second = [float(row["loss_second"]) for row in rows]
    assert any(second) is (method not in ("partial_ce", "full"))
    assert any(second[:6]) is (method == "cvm_plus"), "the warm-up is on points alone, of all but this one"
    told = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert told.provenance["method"] == method
    assert told.tensors.keys() == restore_model(told, device="cpu").state_dict().keys()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_on_where_it_was_interrupted(images, tmp_path, method):
    settings = recipe(epochs=4, method=method, batch_size=2, steps_per_epoch=2)
    go(images, settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(images, settings, tmp_path / "cut", report=Interrupt(5))
    assert len(metrics(tmp_path / "cut")) == 2
    go(images, settings, tmp_path / "cut")
    assert without_time(metrics(tmp_path / "cut")) == without_time(metrics(tmp_path / "whole"))
    one, other = (load_state(tmp_path / name / "state.pt") for name in ("cut", "whole"))
    for part in ("model", "method"):
        assert one[part].keys() == other[part].keys()
        for name in one[part]:
            torch.testing.assert_close(one[part][name], other[part][name], rtol=0, atol=0)


def test_methods_that_change_pace_depend_on_the_length(images, tmp_path):
    go(images, recipe(epochs=1, method="mean_teacher"), tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"training.epochs = 1, now it is 2"):
        go(images, recipe(epochs=2, method="mean_teacher"), tmp_path / "run")


def test_a_methods_own_settings_make_another_run_and_those_of_others_do_not(images, tmp_path):
    settings = recipe(epochs=1, method="crf")
    go(images, settings, tmp_path / "run")
    assert go(images, updated(settings, {"mixmatch": {"alpha": 0.5}}), tmp_path / "run").status == "skipped"
    with pytest.raises(CheckpointError, match=r"crf.weight = 8.66, now it is 2.0"):
        go(images, updated(settings, {"crf": {"weight": 2.0}}), tmp_path / "run")


@pytest.mark.parametrize(("warmup", "expected"), [(0, [0, 0.125, 0.25, 0.375]), (2, [0, 0, 0, 0]), (4, [0, 0, 0, 0])])
def test_progress_is_the_share_after_the_warmup(warmup, expected):
    settings = recipe(epochs=4, warmup_epochs=warmup).training
    assert [training_progress(settings, done) for done in (0, 0.5, 1, 1.5)] == expected
    later = [training_progress(settings, done) for done in (3, 3.5)]
    assert later == {0: [0.75, 0.875], 2: [0.5, 0.75], 4: [0, 0]}[warmup]


def test_weight_of_the_second_term_counts_for_every_method(images, tmp_path):
    go(images, recipe(epochs=2, method="dual_branch", kl_weight=0.0), tmp_path / "without")
    go(images, recipe(epochs=2, method="dual_branch"), tmp_path / "with")
    one, other = (without_time(metrics(tmp_path / name)) for name in ("without", "with"))
    assert one[0]["loss_points"] != other[0]["loss_points"]


def test_one_image_validates_on_points_held_out_or_on_all(images, tmp_path):
    (tmp_path / "one.csv").write_text(f"slide,points\n{images.parent}/a.png,{images.parent}/a.csv")
    result = go(tmp_path / "one.csv", recipe(epochs=1), tmp_path / "few")
    assert "same points train and validate" in result.notes[-2]
    assert "only 0 in-target and 0 out-of-target points were held out" in result.notes[-1]
    assert result.best_dice is None
    more = [f"{3 * i + 2},{5 + i},Tumor\n{45 - i},{5 * i},Stroma" for i in range(1, 4)]
    (tmp_path / "more.points.csv").write_text((images.parent / "a.csv").read_text() + "\n" + "\n".join(more))
    (tmp_path / "one.csv").write_text(f"slide,points\n{images.parent}/a.png,more.points.csv")
    assert "2 of 10 points validate" in go(tmp_path / "one.csv", recipe(epochs=1), tmp_path / "held").notes[-2]


def test_small_windows_cover_large_images(images, tmp_path):
    assert go(images, recipe(epochs=6, window=16), tmp_path / "run").best_pce < 0.6
    told = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors").provenance
    assert told["windows"] > 2


def test_full_supervision_needs_masks(images, tmp_path):
    (tmp_path / "m.csv").write_text(f"slide,points\n{images.parent}/a.png,{images.parent}/a.csv")
    with pytest.raises(ConfigError, match="method 'full' learns from masks, a has none"):
        go(tmp_path / "m.csv", recipe(method="full"), tmp_path / "run")


def test_one_class_alone_is_refused_even_over_several_slides(images, tmp_path):
    lines = ["slide,points"]
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("x,y,label\n5,8,Tumor\n9,9,Tumor")
        lines.append(f"{images.parent}/{name}.png,{name}.csv")
    (tmp_path / "m.csv").write_text("\n".join(lines))
    with pytest.raises(AnnotationError, match="no out-of-target points to train on"):
        go(tmp_path / "m.csv", recipe(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_points_file_of_another_slide_is_refused(images, tmp_path):
    (tmp_path / "m.csv").write_text(
        f"slide,points\n{images.parent}/a.png,{images.parent}/b.csv\n{images.parent}/b.png,{images.parent}/a.csv"
    )
    with pytest.raises(AnnotationError, match="belongs to slide 'b', not to 'a'"):
        go(tmp_path / "m.csv", recipe(), tmp_path / "run")


def test_two_runs_in_one_folder_are_refused(images, tmp_path):
    with RunFolder(tmp_path / "run"), pytest.raises(StoreError, match="is being written by"):
        go(images, recipe(), tmp_path / "run")


def test_damaged_state_is_named(images, tmp_path):
    go(images, recipe(epochs=1), tmp_path / "run")
    state = tmp_path / "run" / "state.pt"
    state.write_bytes(state.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"state.pt: is cut off"):
        go(images, recipe(epochs=1), tmp_path / "run")


def test_test_rows_take_no_part(images, tmp_path):
    folder = images.parent
    rows = [
        f"{folder}/{name}.png,{folder}/{name}.csv,{split}"
        for name, split in zip("abc", ("train", "val", "test"), strict=True)
    ]
    (tmp_path / "m.csv").write_text("\n".join(["slide,points,split", *rows]))
    with_test = go(tmp_path / "m.csv", recipe(epochs=1), tmp_path / "with")
    (tmp_path / "m.csv").write_text("\n".join(["slide,points,split", *rows[:2]]))
    without = go(tmp_path / "m.csv", recipe(epochs=1), tmp_path / "without")
    assert with_test.best_pce == without.best_pce

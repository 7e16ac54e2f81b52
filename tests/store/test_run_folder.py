from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from wsipipe.config import Recipe, load_recipe, updated
from wsipipe.errors import StoreError
from wsipipe.store.checkpoint import Checkpoint
from wsipipe.store.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    with RunFolder(tmp_path / "deep" / "run") as opened:
        yield opened


def test_lock_is_held_while_open_and_gone_afterwards(tmp_path):
    with (
        RunFolder(tmp_path / "run"),
        pytest.raises(StoreError, match="is being written by"),
        RunFolder(tmp_path / "run"),
    ):
        pass
    with RunFolder(tmp_path / "run") as folder:
        assert folder.load_state() is None
    assert not list((tmp_path / "run").iterdir())


def test_state_and_checkpoint_come_back(folder):
    folder.save_state({"epoch": 3, "weights": torch.arange(3)})
    assert folder.load_state()["weights"].tolist() == [0, 1, 2]
    folder.save_checkpoint(Checkpoint({"w": torch.ones(2)}, Recipe(), {"epoch": 3}))
    assert folder.load_checkpoint().provenance == {"epoch": 3}


def test_recipe_is_written_whole(folder):
    recipe = updated(Recipe(), {"training": {"seed": 7}})
    folder.write_recipe(recipe)
    assert load_recipe(folder.path / "recipe.yaml") == recipe
    assert (
        yaml.safe_load((folder.path / "recipe.yaml").read_text())["cvm"]["eta"] == 0.6
    )  # a default, told all the same


def test_metrics_and_pictures(folder):
    folder.write_metrics([{"epoch": 1, "val_dice": None}, {"epoch": 2, "val_dice": 0.5}])
    assert (folder.path / "metrics.csv").read_text() == "epoch,val_dice\n1,\n2,0.5\n"
    red = np.full((4, 6, 3), (255, 0, 0), np.uint8)
    folder.write_curves(red)
    folder.write_preview(12, red)
    for name in ("curves.png", "previews/epoch_0012.png"):
        assert np.array_equal(np.asarray(Image.open(folder.path / name)), red)


def test_events_of_a_resumed_run_supersede_what_came_after(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps, value in (((1, 2, 3), 1.0), ((3, 4), 2.0)):
        with RunFolder(tmp_path) as folder:
            for step in steps:
                folder.log_scalars(step, {"loss": value})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [(item.step, item.value) for item in events] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]


def test_clearing_forgets_the_run_but_not_what_else_lies_there(folder):
    folder.save_state({"epoch": 1})
    folder.save_checkpoint(Checkpoint({"w": torch.ones(1)}, Recipe()))
    folder.write_preview(1, np.zeros((2, 2, 3), np.uint8))
    folder.log_scalars(1, {"loss": 1.0})
    (folder.path / "notes.txt").write_text("mine")
    folder.clear()
    left = {path.name for path in folder.path.rglob("*") if path.is_file()}
    assert left == {"notes.txt", "run.lock"}


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(StoreError, match=r"run.*is a file|cannot be written"), RunFolder(tmp_path / "run"):
        pass

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from wsipipe.config import parse_recipe
from wsipipe.geometry import CellGrid
from wsipipe.pipeline.curves import draw_curves
from wsipipe.pipeline.preparation import TrainingSet
from wsipipe.pipeline.previews import draw_preview
from wsipipe.pipeline.samples import CellPoints, Sample
from wsipipe.pipeline.trainer import Trainer
from wsipipe.progress import silent
from wsipipe.slides import SlideEntry


@dataclass
class Grey:
    """A grey image, so that all colour in a preview is drawn."""

    entry: SlideEntry = field(default_factory=lambda: SlideEntry("grey", Path("grey.png")))
    grid: CellGrid = field(default_factory=lambda: CellGrid(rows=24, cols=32, cell_px=1.0))
    channels: int = 3
    slide_size: tuple[int, int] = (32, 24)

    def read(self, rows, cols):
        column = np.linspace(60, 200, 32, dtype=np.uint8)[cols]
        return np.tile(column[None, :, None], (rows.stop - rows.start, 1, 3))

    def read_valid(self, rows, cols):
        return np.ones((rows.stop - rows.start, cols.stop - cols.start), bool)

    def picture(self, rows, cols, *, long_side_px):
        return self.read(rows, cols)


def trainer(method, windows, label=(1, 0)):
    cells = CellPoints(np.array([[12, 5], [12, 27]]), np.array(label))
    samples = tuple(Sample(Grey(), slice(i, 24), slice(0, 32), cells) for i in range(windows))
    facts = {"in_channels": 3}
    recipe = parse_recipe(
        {
            "encoder": {"name": "none"},
            "network": {"width": 4, "depth": 1},
            "training": {"method": method, "learning_rate": 0.01},
        }
    )
    data = TrainingSet(samples, samples, facts, (), "digest")
    run = Trainer(data, recipe, device=torch.device("cpu"), item="run", report=silent)
    run.run_epoch()
    return run


def coloured(picture, channel):
    others = [other for other in range(3) if other != channel]
    strong = picture[..., channel].astype(int) - picture[..., others].max(axis=2) > 120
    return np.argwhere(strong)


def test_in_target_rings_are_red_and_lie_left_of_the_blue_ones():
    picture = draw_preview(trainer("partial_ce", 1))
    red, blue = coloured(picture, 0), coloured(picture, 2)
    assert len(red) > 20
    assert len(blue) > 20
    assert red[:, 1].max() < blue[:, 1].min()
    swapped = draw_preview(trainer("partial_ce", 1, label=(0, 1)))
    assert coloured(swapped, 0)[:, 1].min() > coloured(swapped, 2)[:, 1].max()


def test_teachers_show_two_more_columns_and_windows_one_row_each():
    plain, taught = draw_preview(trainer("partial_ce", 1)), draw_preview(trainer("cvm", 1))
    assert taught.shape[1] == 2 * plain.shape[1]
    three = draw_preview(trainer("partial_ce", 3))
    assert three.shape[0] > 2 * plain.shape[0]
    assert draw_preview(trainer("partial_ce", 9)).shape[0] < 5 * plain.shape[0]


def row(epoch, **figures):
    usual = {"loss_points": 1 / epoch, "loss_second": 0.0, "val_pce": 1.2 / epoch, "val_dice": None}
    return {"epoch": epoch, **usual, "refreshed": 0, "best": 1, **figures}


def test_curves_have_a_panel_for_dice_where_it_is_known():
    losses = draw_curves([row(1), row(2)])
    both = draw_curves([row(1, val_dice=0.1), row(2, val_dice=0.6)])
    assert losses.dtype == np.uint8
    assert both.shape[1] > 1.4 * losses.shape[1]


@pytest.mark.parametrize("figures", [{"loss_second": 0.4}, {"refreshed": 1}, {"best": 0}])
def test_curves_show_what_happened(figures):
    assert not np.array_equal(draw_curves([row(1), row(2), row(3)]), draw_curves([row(1), row(2), row(3, **figures)]))


def test_curves_of_one_epoch():
    assert draw_curves([row(1)]).std() > 10

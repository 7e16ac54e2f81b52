"""Suggested places are uncertain, apart, away from points, and in QuPath's frame."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from typer.testing import CliRunner

from wsipipe.annotations.reading import read_marks
from wsipipe.errors import ConfigError
from wsipipe.geometry import CellGrid
from wsipipe.numerics.suggestion import suggest_cells
from wsipipe.pipeline.point_suggestion import Suggesting, list_probabilities, suggest_many, suggest_slide
from wsipipe.store.raster import write_pyramid
from wsipipe_cli.main import app

NOWHERE = np.empty((0, 2))


@pytest.fixture
def raster(tmp_path):
    """Sure everywhere but in a field at the right, with a thin line of doubt at the left and glass above."""
    probability = np.full((300, 400), 250, np.uint8)
    probability[:, 40] = 128
    probability[100:260, 250:380] = 120
    probability[:60] = 0
    path = tmp_path / "masks" / "s.probability.tif"
    write_pyramid(path, [probability], grid=CellGrid(300, 400, 8.0), mpp=4.0)
    return path


def places(outcome):
    return np.array([point[:2] for point in read_marks(outcome.outputs[0]).points])


def test_the_most_uncertain_cells_come_first_and_keep_their_distance():
    uncertainty = np.random.default_rng(0).random((30, 40)).astype(np.float32)
    chosen = suggest_cells(uncertainty, NOWHERE, count=12, spacing=5)
    assert tuple(chosen[0]) == np.unravel_index(uncertainty.argmax(), uncertainty.shape)
    values = uncertainty[tuple(chosen.T)]
    assert (np.diff(values) <= 0).all()
    apart = cdist(chosen, chosen)
    assert apart[~np.eye(12, dtype=bool)].min() >= 5
    away = suggest_cells(uncertainty, chosen[:1] + 0.5, count=12, spacing=5)
    assert cdist(away, chosen[:1]).min() >= 5


def test_no_place_is_suggested_where_nobody_should_click():
    uncertainty = np.zeros((5, 5), np.float32)
    assert suggest_cells(uncertainty, NOWHERE, count=3, spacing=1).shape == (0, 2)
    uncertainty[2, 2] = 0.1
    assert suggest_cells(uncertainty, NOWHERE, count=3, spacing=1).tolist() == [[2, 2]]


def test_a_field_in_doubt_goes_before_a_thin_border(raster, tmp_path):
    outcome = suggest_slide(raster, tmp_path, Suggesting(count=4, spacing_um=160))
    xy = places(outcome)
    assert len(xy) == 4
    assert ((xy > np.array([250, 100]) * 8) & (xy < np.array([380, 260]) * 8)).all()
    assert cdist(xy, xy)[~np.eye(4, dtype=bool)].min() >= 160 / 0.5
    assert {point.class_name for point in read_marks(outcome.outputs[0]).points} == {"Suggested"}


def test_points_there_are_and_the_frame_are_known_from_the_report(raster, tmp_path):
    first = places(suggest_slide(raster, tmp_path, Suggesting(count=1, spacing_um=160)))[0]
    report = {"provenance": {"points": [[*first.tolist(), 1]]}, "geojson_frame": {"origin": [100.0, 40.0]}}
    (raster.parent / "s.report.json").write_text(json.dumps(report))
    outcome = suggest_slide(raster, tmp_path, Suggesting(count=3, spacing_um=160))
    assert cdist(places(outcome), [first]).min() >= 320 - 1e-6
    told = json.loads(outcome.outputs[0].read_text())["wsipipe"]
    assert (told["frame"], told["offset_px"]) == ("bounds", [100.0, 40.0])
    (tmp_path / "s.csv").write_text("x,y,label\n" + "".join(f"{x},{y},Tumor\n" for x, y in places(outcome)))
    more = suggest_slide(raster, tmp_path, Suggesting(count=3, spacing_um=160, points=tmp_path / "s.csv"))
    old = np.array([point[:2] for point in read_marks(tmp_path / "s.csv").points])
    assert cdist(places(more), old).min() >= 320 - 1e-6


def test_the_command_and_what_it_refuses(raster, tmp_path):
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["points", "suggest", str(raster.parent), "-o", str(out), "--count", "2"])
    assert result.exit_code == 0, result.output
    assert "2 places" in result.output
    assert (out / "points" / "s.suggested.geojson").is_file()
    for bad in (tmp_path, tmp_path / "s.mask.tif"):
        with pytest.raises(ConfigError, match=r"no \*.probability.tif"):
            list_probabilities([bad])
    (outcome,) = suggest_many([tmp_path / "gone.probability.tif"], tmp_path, Suggesting())
    assert (outcome.status, outcome.key) == ("failed", "gone")

"""Suggested places are uncertain, unlike what is marked, apart, away from points, and in QuPath's frame."""

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
from wsipipe.pipeline.point_suggestion import Suggesting, clickable, list_probabilities, suggest_many, suggest_slide
from wsipipe.pipeline.suggestion_looks import map_beside, pooled_looks
from wsipipe.store.feature_info import FeatureMapInfo
from wsipipe.store.feature_map import FeatureMap, FeatureMapWriter
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


def greedy(uncertainty, taken, looks, count, spacing):
    """One cell after the other, every cell compared with everything."""
    chosen, marked = [], [tuple(np.floor(place).astype(int)) for place in taken]
    for _ in range(count):
        best, place = 0.0, None
        for cell in np.ndindex(uncertainty.shape):
            near = any(np.hypot(cell[0] + 0.5 - r, cell[1] + 0.5 - c) < spacing for r, c in taken)
            near = near or any(np.hypot(cell[0] - r, cell[1] - c) < spacing for r, c in chosen)
            apart = min([((looks[cell] - looks[other]) ** 2).sum() for other in marked], default=1.0)
            if not near and uncertainty[cell] * apart > best:
                best, place = uncertainty[cell] * apart, cell
        chosen.append(place)
        marked.append(place)
    return chosen


@pytest.mark.parametrize("marks", [0, 3])
def test_doubt_counts_by_how_unlike_the_marked_cells_look(marks):
    rng = np.random.default_rng(3)
    uncertainty, looks = rng.random((12, 15)).astype(np.float32), rng.normal(size=(12, 15, 4)).astype(np.float32)
    taken = rng.random((marks, 2)) * (12, 15)
    chosen = suggest_cells(uncertainty, taken, count=6, spacing=2.5, looks=looks)
    assert [tuple(place) for place in chosen.tolist()] == greedy(uncertainty, taken, looks, 6, 2.5)
    assert chosen.tolist() != suggest_cells(uncertainty, taken, count=6, spacing=2.5).tolist()


def test_points_off_the_raster_have_no_looks_and_like_cells_are_not_asked_for_twice():
    looks = np.zeros((4, 6, 1), np.float32)
    looks[:, 3:] = 1
    doubt = np.ones((4, 6), np.float32)
    looks[0, 0] = 40
    chosen = suggest_cells(doubt, np.array([[-3.0, 50.0]]), count=5, spacing=0.5, looks=looks)
    assert looks[tuple(chosen.T)].ravel().tolist() == [40, 0, 1]


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


@pytest.mark.parametrize("told", [True, False])
def test_places_lie_on_the_slide_also_in_cells_that_end_past_its_edge(tmp_path, told):
    """Doubt in the last row and column of the raster, of which 10 of 32 level-0 px are on the slide."""
    probability = np.zeros((33, 33), np.uint8)
    probability[:, 32] = probability[32] = 100
    probability[5, 32] = 128
    path = tmp_path / "s.probability.tif"
    write_pyramid(path, [probability], grid=CellGrid(33, 33, 32.0), mpp=16.0)
    if told:
        (tmp_path / "s.report.json").write_text(json.dumps({"size_px": [1034, 1034]}))
    for spacing in (16, 320, 400):  # cells of 1, 5 and 6 px
        xy = places(suggest_slide(path, tmp_path, Suggesting(count=8, spacing_um=spacing)))
        assert len(xy) >= 2
        assert (xy < 1034).all()
        assert (probability[tuple((xy[:, ::-1] // 32).astype(int).T)] > 0).all()
        assert cdist(xy, xy)[~np.eye(len(xy), dtype=bool)].min() >= spacing * 2


def test_of_the_pixels_of_a_cell_the_most_doubtful_that_keeps_its_distance_is_given(tmp_path):
    probability = np.zeros((12, 12), np.uint8)
    probability[1, 2], probability[4, 5] = 128, 100
    path = tmp_path / "s.probability.tif"
    write_pyramid(path, [probability], grid=CellGrid(12, 12, 8.0), mpp=None)
    cell, size = np.array([0, 0]), (96.0, 96.0)
    assert clickable(path, cell, 6, size, NOWHERE, 16.0) == (20.0, 12.0)
    assert clickable(path, cell, 6, size, np.array([[20.0, 14.0]]), 16.0) == (44.0, 36.0)
    assert clickable(path, cell, 6, size, np.array([[20.0, 14.0]]), 99.0) == (20.0, 12.0)
    probability[3, 3] = 10
    write_pyramid(path, [probability], grid=CellGrid(12, 12, 8.0), mpp=None)
    assert clickable(path, cell, 6, size, NOWHERE, 16.0) == (24.0, 24.0)
    assert clickable(path, cell, 6, (22.0, 22.0), NOWHERE, 16.0) == (19.0, 12.0)


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


def write_map(folder, values, valid, *, name="s", **facts):
    """A feature map of cells of 16 level-0 px in the project folder of a raster."""
    told = {"slide_identity": "content", "settings": {"of": "map"}, "settings_digest": "digest"} | facts
    info = FeatureMapInfo(
        CellGrid(*valid.shape, 16.0), values.shape[2], "dense", "e", "w", 1.0, 16, "s", slide_mpp=0.5,
        slide_size=(3200, 2400), **told,
    )  # fmt: skip
    path = folder / "features" / "map" / f"{name}.h5"
    with FeatureMapWriter.open(path, info, block=64) as writer:
        for i, j in writer.blocks:
            window = writer.block_slices(i, j)
            writer.write_block(i, j, values[window], valid[window])
        writer.finish()
    return path


def test_kinds_of_tissue_without_a_point_come_first(raster, tmp_path):
    """The field in doubt has two halves; one looks like the point there is."""
    values, valid = np.zeros((150, 200, 3), np.float16), np.ones((150, 200), bool)
    values[..., 0] = np.random.default_rng(0).normal(0, 0.01, valid.shape)
    values[90:, :, 1] = 1
    valid[60:80] = False
    path = write_map(tmp_path, values, valid)
    (raster.parent / "s.report.json").write_text(
        json.dumps({"provenance": {"points": [[400, 1200, 1]], "slide": "content", "features": "digest"}})
    )
    outcome = suggest_slide(raster, tmp_path, Suggesting(count=3, spacing_um=80))
    assert "3 places by doubt and features" in outcome.message
    xy = places(outcome)
    assert (xy[0, 1] >= 90 * 16).all()
    row, col = (xy[:, ::-1] // 16).astype(int).T
    assert valid[row, col].all()
    path.unlink()
    alone = suggest_slide(raster, tmp_path, Suggesting(count=3, spacing_um=80))
    assert "no feature map beside the raster" in alone.message


def test_means_of_larger_cells_are_those_of_the_cells_in_them(tmp_path):
    rng = np.random.default_rng(0)
    values, valid = rng.normal(size=(300, 290, 6)).astype(np.float16), rng.random((300, 290)) < 0.7
    valid[:32] = False
    cells = CellGrid(19, 19, 16.0 * 16)
    with FeatureMap.open(write_map(tmp_path, values, valid)) as features:
        looks, known = pooled_looks(features, cells)
    assert not known[:2].any()
    assert known[2:].all()
    at = [values[r * 16 : r * 16 + 16, c * 16 : c * 16 + 16] for r, c in np.ndindex(19, 19)]
    on = [valid[r * 16 : r * 16 + 16, c * 16 : c * 16 + 16] for r, c in np.ndindex(19, 19)]
    mean = np.array(
        [
            part[keep].astype(np.float64).mean(axis=0) if keep.any() else np.zeros(6)
            for part, keep in zip(at, on, strict=True)
        ]
    )
    chosen = known.ravel()
    # Standardised axes turn the features and stretch them by next to nothing: distances are those of the means.
    scale = values[valid].astype(np.float64).std(axis=0).mean()
    np.testing.assert_allclose(
        cdist(looks.reshape(361, -1)[chosen], looks.reshape(361, -1)[chosen]),
        cdist(mean[chosen], mean[chosen]) / scale,
        atol=0.05,
    )


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({"slide": "content", "features": "digest"}, True),
        ({"slide": "content", "features": {"of": "map"}}, True),
        ({"slide": "other", "features": "digest"}, False),
        ({"slide": "content", "features": "other"}, False),
        ({}, False),
    ],
)
def test_the_map_of_the_report_is_looked_for(raster, tmp_path, told, found):
    path = write_map(tmp_path, np.zeros((150, 200, 3), np.float16), np.ones((150, 200), bool))
    assert map_beside(raster, "s", {"provenance": told}) == (path if found else None)
    assert map_beside(raster, "other", {"provenance": told}) is None


def test_a_damaged_map_of_another_encoder_is_passed_over(raster, tmp_path):
    path = write_map(tmp_path, np.zeros((150, 200, 3), np.float16), np.ones((150, 200), bool))
    other = tmp_path / "features" / "a" / "s.h5"
    other.parent.mkdir()
    other.write_bytes(path.read_bytes()[:700])
    assert map_beside(raster, "s", {"provenance": {"slide": "content", "features": "digest"}}) == path


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

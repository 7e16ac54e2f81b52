"""Points to mask on a stored feature map: the numbers of the model in memory, the files of `segment`."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from slidemaker import write_slide
from wsipipe.annotations.classes import choose_classes
from wsipipe.annotations.reading import read_regions
from wsipipe.config import CvmSettings
from wsipipe.errors import AnnotationError, ConfigError, StoreError, WsipipeError
from wsipipe.geometry import CellGrid
from wsipipe.numerics.metrics import dice
from wsipipe.numerics.variational import variational_segmentation
from wsipipe.pipeline import cvm
from wsipipe.pipeline.cvm import CvmOptions, segment_stored_map
from wsipipe.pipeline.results import SUFFIXES
from wsipipe.pipeline.stored_maps import list_maps
from wsipipe.slides import slide_identity
from wsipipe.store.feature_map import FeatureMapInfo, FeatureMapWriter
from wsipipe_cli.main import app, run

GRID = CellGrid(64, 80, 16.0)
MARKED = {"Tumor": ((400, 512), (340, 460)), "Stroma": ((200, 200), (1000, 300), (640, 900), (8, 8))}
OPTIONS = CvmOptions(CvmSettings())


def scene():
    """Features (rows, cols, 4) of two discs of target on a field, valid cells, and the discs."""
    rng = np.random.default_rng(0)
    rows, cols = np.mgrid[:64, :80]
    left, right = ((rows - 32) ** 2 + (cols - c) ** 2 < 12**2 for c in (24, 60))
    truth = left | right
    valid = (rows > 3) & (rows < 60) & (cols > 3) & (cols < 76)
    features = np.where(truth[..., None], (1.0, 0.4, 0.2, 0.1), (0.3, 1.0, 0.2, 0.6)) + rng.normal(0, 0.15, (64, 80, 4))
    return np.where(valid[..., None], features, 0).astype(np.float16), valid, (left, right)


def write_map(path, features, valid, identity="none", grid=GRID):
    info = FeatureMapInfo(
        grid=grid,
        dim=features.shape[2],
        kind="dense",
        encoder="made",
        weights_digest="0",
        mpp=1.0,
        stride_px=16,
        slide="discs",
        slide_identity=identity,
        slide_mpp=1.0,
        slide_size=(1280, 1024),
        settings_digest="made",
    )
    with FeatureMapWriter.open(path, info, block=32) as writer:
        for i, j in list(writer.blocks):
            window = writer.block_slices(i, j)
            writer.write_block(i, j, features[window].astype(np.float32), valid[window])
        writer.finish()
    return path


@pytest.fixture
def project(tmp_path):
    """(entry, points, folder for results, slide) of a map with its slide."""
    slide = write_slide(tmp_path / "discs.svs", np.full((1024, 1280, 3), 200, np.uint8), mpp=1.0, levels=1)
    features, valid, _ = scene()
    stored = write_map(tmp_path / "maps" / "discs.h5", features, valid, slide_identity(slide))
    points = tmp_path / "discs.csv"
    write_points(points, MARKED)
    return list_maps([stored])[0], points, tmp_path / "out", slide


def write_points(path, marked):
    path.write_text("x,y,label\n" + "".join(f"{x},{y},{name}\n" for name, xy in marked.items() for x, y in xy))


def go(project, **changes):
    entry, points, out, _ = project
    with pytest.warns(UserWarning, match="without features|glass"):
        return segment_stored_map(entry, **{"points": points, "out": out, "options": OPTIONS} | changes)


def mask_of(outcome):
    return tifffile.imread(outcome.outputs[0]) > 0


def on_raster(cells):
    return cells.repeat(2, axis=0).repeat(2, axis=1)


def report_of(outcome):
    return json.loads(outcome.outputs[-1].read_text())


def test_points_in_the_margin_of_overlapping_patches_are_used(tmp_path):
    """Their map begins within the slide; a point before it belongs to its first column, as in training."""
    features, valid, _ = scene()
    features[~valid] = (0.3, 1.0, 0.2, 0.6)
    features[12:25, :12] = (1.0, 0.4, 0.2, 0.1)
    grid = replace(GRID, origin=(40.0, 40.0))  # two and a half cells
    stored = write_map(tmp_path / "discs.h5", features, np.ones(GRID.shape, bool), grid=grid)
    marked = {"Tumor": ((400, 512), (5, 300)), "Stroma": ((3, 600), (1279, 1023))}
    write_points(tmp_path / "discs.csv", marked)
    (entry,) = list_maps([stored])
    out = tmp_path / "out"
    outcome = segment_stored_map(entry, points=tmp_path / "discs.csv", out=out, options=OPTIONS)
    assert [told["xy"] for told in report_of(outcome)["cvm"]["in_target"]] == [[400, 512], [5, 300]]


# --- what it finds ---------------------------------------------------------------------------------------------------


def test_marked_and_alike_regions_are_found_without_the_slide(project):
    outcome = go(project)
    _, _, (left, right) = scene()
    assert outcome.status == "done"
    assert dice(mask_of(outcome), on_raster(left | right)) > 0.95
    wanted = {f"discs{suffix}" for suffix in SUFFIXES} - {"discs.overlay.png"}
    assert {path.name for path in outcome.outputs} == {path.name for path in (project[2] / "masks").iterdir()} == wanted


def test_numbers_are_those_of_the_model_in_memory(project):
    """The report tells c1, c2, lambda, gap, iterations and status of every in-target point."""
    report = report_of(go(project))["cvm"]
    told = report["in_target"]
    features, valid, _ = scene()
    cells = {name: GRID.cells_of(xy) for name, xy in MARKED.items()}
    found = variational_segmentation(
        features.astype(np.float32), cells["Tumor"], cells["Stroma"][:-1], valid=valid, tol=OPTIONS.model.tol
    )
    assert [point["xy"] for point in told] == [list(xy) for xy in MARKED["Tumor"]]
    for name, values in (("c1", found.cvm.c1), ("c2", found.cvm.c2), ("lambda", found.cvm.lam)):
        np.testing.assert_allclose([point[name] for point in told], values, rtol=1e-4)
    assert [point["status"] for point in told] == ["converged", "converged"]
    assert report["mean_range"] == pytest.approx([found.u_mean[valid].min(), found.u_mean.max()], abs=1e-3)
    assert all(0 <= point["gap"] <= OPTIONS.model.tol and point["iterations"] > 0 for point in told)


def test_with_the_slide_the_same_mask_and_an_overlay(project, tmp_path):
    bare = go(project)
    seen = go(project, slide=project[3], out=tmp_path / "seen")
    folder = go(project, slide=tmp_path, out=tmp_path / "folder")
    np.testing.assert_array_equal(mask_of(bare), mask_of(seen))
    assert {path.name for path in seen.outputs} - {path.name for path in bare.outputs} == {"discs.overlay.png"}
    assert all(path.is_file() for path in (*seen.outputs, *folder.outputs))


def test_geojson_is_relative_to_the_bounds_of_the_slide(project, tmp_path, monkeypatch):
    """As QuPath shows it: points that it wrote are moved in, outlines are moved back."""
    whole = go(project, slide=project[3])
    monkeypatch.setattr("wsipipe.pipeline.cvm.bounds_offset", lambda slide: (64.0, 32.0))
    shifted = tmp_path / "discs.geojson"
    points = [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [x - 64, y - 32]},
            "properties": {"classification": {"name": name}},
        }
        for name, xy in MARKED.items()
        for x, y in xy
    ]
    shifted.write_text(json.dumps({"type": "FeatureCollection", "features": points}))
    cropped = go(project, slide=project[3], points=shifted, out=tmp_path / "cropped")
    np.testing.assert_array_equal(mask_of(whole), mask_of(cropped))
    frames = [report_of(outcome)["geojson_frame"]["origin"] for outcome in (whole, cropped)]
    assert frames == [[0.0, 0.0], [64.0, 32.0]]


def test_maps_larger_than_memory_give_the_same_to_the_bit(project, tmp_path, monkeypatch):
    whole = go(project)
    told = []
    monkeypatch.setattr(cvm, "Room", functools.partial(cvm.Room, memory=100_000))
    pieces = go(project, out=tmp_path / "pieces", report=told.append)
    assert {progress.stage.split(",")[0] for progress in told} == {"cvm", "solve"}
    assert report_of(pieces)["cvm"] == report_of(whole)["cvm"]
    np.testing.assert_array_equal(mask_of(pieces), mask_of(whole))
    assert not list(pieces.outputs[0].parent.glob(".*"))


def test_both_schemes_find_nearly_the_same(project, tmp_path):
    ours = go(project)
    theirs = go(project, options=CvmOptions.of(CvmSettings(tol=1e-3), scheme="aos"), out=tmp_path / "aos")
    assert dice(mask_of(ours), mask_of(theirs)) > 0.98
    assert report_of(theirs)["cvm"]["neighbourhood"] == "isotropic"


@pytest.mark.parametrize("distance", ["euclidean", "geodesic"])
def test_a_distance_keeps_the_mask_near_the_points(project, distance):
    left, right = (on_raster(disc) for disc in scene()[2])
    mask = mask_of(go(project, options=CvmOptions(CvmSettings(), distance=distance, theta=1.5)))
    assert dice(mask & left, left) > 0.9
    assert (mask & right).sum() < 0.05 * right.sum()


def test_no_theta_is_no_distance(project, tmp_path):
    found = [
        mask_of(go(project, options=CvmOptions(CvmSettings(), distance=name, theta=0), out=tmp_path / name))
        for name in ("none", "euclidean")
    ]
    np.testing.assert_array_equal(*found)


def test_what_is_segmented_is_called_by_the_class_of_its_points(project):
    named = {"Gland" if name == "Tumor" else name: xy for name, xy in MARKED.items()}
    tumor = go(project)
    assert "class" not in report_of(tumor)["provenance"], "results of before stay finished"
    write_points(project[1], named)
    outcome = go(project, classes=choose_classes(["Gland"]))
    assert outcome.status == "done", "the same points of another class"
    assert list(report_of(outcome)["classes"]) == ["Gland"]
    regions = read_regions(next(path for path in outcome.outputs if path.suffix == ".geojson"))
    assert {region.class_name for region in regions} == {"Gland"}
    assert go(project, classes=choose_classes(["Gland"])).status == "skipped"


# --- doing it again --------------------------------------------------------------------------------------------------


def test_work_is_recognised_by_points_settings_and_slide(project):
    run_with = lambda **changes: go(project, **changes).status  # noqa: E731
    assert [run_with(), run_with(), run_with(force=True)] == ["done", "skipped", "done"]
    assert run_with(options=replace(OPTIONS, model=CvmSettings(eta=0.7))) == "done"
    assert run_with(options=replace(OPTIONS, model=CvmSettings(eta=0.7)), slide=project[3]) == "done"
    write_points(project[1], MARKED | {"Stroma": MARKED["Stroma"][::-1][:3]})
    assert run_with() == "done"


# --- what cannot be meant --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("marked", "told"),
    [
        ({"Tumor": MARKED["Tumor"]}, "out-of-target"),
        ({"Stroma": MARKED["Stroma"]}, "in-target"),
        ({"Tumor": ((8, 8),), "Stroma": ((200, 200),)}, "off the tissue"),
        ({"Tumor": ((400, 512),), "Stroma": ((9999, 9),)}, "outside the slide of 1280 x 1024"),
        ({"Tumor": ((400, 512),), "Stroma": ((404, 514),)}, "on the spot of"),
    ],
)
def test_points_that_cannot_be_meant_are_refused(project, marked, told):
    entry, points, out, _ = project
    write_points(points, marked)
    with pytest.raises(AnnotationError, match=told):
        segment_stored_map(entry, points=points, out=out, options=OPTIONS)
    assert not out.exists()


def test_out_of_target_points_on_glass_alone_are_refused(project):
    write_points(project[1], MARKED | {"Stroma": ((8, 8),)})
    with pytest.raises(AnnotationError, match="no out-of-target point lies on a cell with features"):
        go(project)


def test_another_slide_is_refused(project, tmp_path):
    entry, points, out, _ = project
    other = write_slide(tmp_path / "other.svs", np.full((1024, 1280, 3), 100, np.uint8), mpp=1.0, levels=1)
    arguments = {"points": points, "out": out, "options": OPTIONS}
    with pytest.raises(StoreError, match=r"other\.svs.*is not the slide that"):
        segment_stored_map(entry, **arguments, slide=other)
    (tmp_path / "else").mkdir()
    with pytest.raises(WsipipeError, match="else"):
        segment_stored_map(entry, **arguments, slide=tmp_path / "else")


def test_a_map_without_contrast_is_told(project, tmp_path, recwarn):
    features, valid, _ = scene()
    features[valid] = (1.0, 0.5, 0.2, 0.1)
    (entry,) = list_maps([write_map(tmp_path / "flat" / "discs.h5", features, valid)])
    outcome = segment_stored_map(entry, points=project[1], out=project[2], options=OPTIONS)
    told = [str(warning.message) for warning in recwarn]
    assert (
        "discs: in-target points at (400, 512), (340, 460): the contrast map is constant: nothing is segmented" in told
    )
    assert not mask_of(outcome).any()
    assert [point["lambda"] for point in report_of(outcome)["cvm"]["in_target"]] == [None, None]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"scheme": "aos", "neighbourhood": "crofton"}, r"rows and columns.*crofton"),
        ({"scheme": "newton"}, "no scheme 'newton' .*primal_dual or aos"),
        ({"distance": "far"}, "no distance 'far' .*none, euclidean or geodesic"),
        ({"neighbourhood": "hexagonal"}, "no neighbourhood 'hexagonal'"),
        ({"theta": -1.0}, "theta is 0 or more, got -1"),
        ({"theta": float("nan")}, "theta is 0 or more, got nan"),
    ],
)
def test_impossible_options_are_refused(words, told):
    with pytest.raises(ConfigError, match=told):
        CvmOptions.of(CvmSettings(), **words)


def test_maps_are_listed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = tmp_path / "a" / "one.h5", tmp_path / "b" / "two.h5"
    one.touch()
    two.touch()
    assert [(entry.key, entry.path) for entry in list_maps([tmp_path / "a", two, one])] == [("one", one), ("two", two)]
    with pytest.raises(StoreError, match="no feature maps in"):
        list_maps([tmp_path])
    (tmp_path / "b" / "one.h5").touch()
    with pytest.raises(StoreError, match=r"both write outputs called 'one'"):
        list_maps([tmp_path / "a", tmp_path / "b"])


# --- command line ----------------------------------------------------------------------------------------------------


def test_the_command_writes_masks_of_several_maps(project, tmp_path, recwarn):
    features, valid, _ = scene()
    write_map(tmp_path / "maps" / "again.h5", features, valid)
    points = tmp_path / "points"
    points.mkdir()
    project[1].rename(points / "discs.csv")
    options = ["--eta", "0.7", "--lam-rel", "1.2", "--distance", "none", "--neighbourhood", "isotropic"]
    result = CliRunner().invoke(
        app, ["cvm", str(tmp_path / "maps"), "-p", str(points), "-o", str(project[2]), *options]
    )
    assert result.exit_code == 0, result.output
    assert "2 done, 0 skipped as already done, 0 failed" in result.output
    told = json.loads((project[2] / "masks" / "again.report.json").read_text())["cvm"]
    assert (told["model"]["eta"], told["model"]["lam_rel"], told["neighbourhood"]) == (0.7, 1.2, "isotropic")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--scheme", "newton"], "there is no scheme 'newton'"),
        (["--eta", "3"], "cvm.eta"),
        (["--prototype", "2"], "cvm.prototype"),
        (["--scheme", "aos", "--neighbourhood", "crofton"], "rows and columns"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_bad_flags_are_one_line_and_an_exit_code(project, monkeypatch, capsys, flags, told, recwarn):
    entry, points, out, _ = project
    arguments = ["wsipipe", "cvm", str(entry.path), "-p", str(points), "-o", str(out), *flags]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as left:
        run()
    output = capsys.readouterr()
    assert left.value.code == 1
    assert told in output.out + output.err
    assert "Traceback" not in output.err


def test_a_file_that_is_no_map_fails_alone(project, tmp_path, recwarn):
    bad = tmp_path / "bad.h5"
    bad.write_bytes(b"nothing")
    table = tmp_path / "all.csv"
    header, *rows = project[1].read_text().splitlines()
    table.write_text("\n".join([f"slide,{header}", *(f"discs,{row}" for row in rows)]))
    result = CliRunner().invoke(app, ["cvm", str(bad), str(project[0].path), "-p", str(table), "-o", str(project[2])])
    assert result.exit_code == 1
    assert "1 done, 0 skipped as already done, 1 failed" in result.output
    assert "no HDF5 file" in result.output


def test_no_torch_is_loaded(project):
    entry, points, out, _ = project
    script = (
        "import sys; from wsipipe_cli.main import app; "
        f"app(['cvm', {str(entry.path)!r}, '-p', {str(points)!r}, '-o', {str(out)!r}], standalone_mode=False); "
        "sys.exit(int('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

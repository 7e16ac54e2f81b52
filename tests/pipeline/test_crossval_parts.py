"""Folds, cases, points and variants of comparisons."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comparemaker import write_cases
from slidemaker import write_slide
from wsipipe.annotations.audit import audit_points
from wsipipe.annotations.classes import TissueClass
from wsipipe.annotations.reading import read_marks, read_points
from wsipipe.config import Recipe, updated
from wsipipe.errors import AnnotationError, ConfigError
from wsipipe.geometry import CellGrid
from wsipipe.pipeline.ablation import eta_variants, pair_variants
from wsipipe.pipeline.cases import read_cases
from wsipipe.pipeline.folds import assign_folds
from wsipipe.pipeline.manifest import read_manifest
from wsipipe.pipeline.point_files import draw_points, write_points
from wsipipe.pipeline.point_sampling import Drawing, sample_many
from wsipipe.store.raster import write_pyramid
from wsipipe.store.tables import write_json

PATIENTS = [f"P{i}" for i, count in enumerate((18, 23, 16, 16, 20, 3, 3, 1, 20, 2, 1, 1)) for _ in range(count)]


def test_patients_stay_together_and_folds_are_about_equal():
    folds = assign_folds(PATIENTS, folds=4, seed=0)
    assert all(
        len({fold for fold, other in zip(folds, PATIENTS, strict=True) if other == name}) == 1 for name in set(PATIENTS)
    )
    sizes = Counter(folds)
    assert set(sizes) == {1, 2, 3, 4}
    assert max(sizes.values()) - min(sizes.values()) <= max(Counter(PATIENTS).values())


def test_folds_follow_the_seed_and_not_the_order():
    folds = dict(zip(PATIENTS, assign_folds(PATIENTS, folds=4, seed=0), strict=True))
    assert dict(zip(PATIENTS[::-1], assign_folds(PATIENTS[::-1], folds=4, seed=0), strict=True)) == folds
    assert len({assign_folds(PATIENTS, folds=4, seed=seed) for seed in range(5)}) == 5


def test_as_many_patients_as_folds_fill_each():
    assert sorted(assign_folds(["a", "b", "c", "a"], folds=3, seed=7)[:3]) == [1, 2, 3]


def test_fewer_patients_than_folds_are_refused():
    with pytest.raises(ConfigError, match=r"^3 patients cannot be divided into 4 folds .*--folds 3"):
        assign_folds(["a", "b", "c", "a"], folds=4, seed=0)
    with pytest.raises(ConfigError, match="into 1 fold"):
        assign_folds(["a", "b"], folds=1, seed=0)


def test_cases_need_masks_and_nothing_else(tmp_path):
    cases = read_cases(write_cases(tmp_path, {"a": "P1", "b": ""}))
    assert [(case.key, case.patient, case.points, case.mpp) for case in cases] == [
        ("a", "P1", None, None),
        ("b", "b", None, None),
    ]
    assert cases[0].mask == tmp_path / "masks" / "a.png"
    assert cases[0].entry(0.5).mpp == 0.5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("slide,points\na.png,p.csv\n", "lacks the column 'mask'"),
        ("slide,mask,grade\na.png,masks/a.png,2\n", "unknown column 'grade'"),
        ("slide,mask\n", "lists no slides"),
        ("slide,mask\na.png,\n", "line 2 has no mask"),
        ("slide,mask\na.png,masks/a.png\nz.png,masks/a.png\n", "line 3: no such file 'z.png'"),
        ("slide,mask\n\na.png,masks/a.png\n\nz.png,masks/a.png\n", "line 5: no such file 'z.png'"),
        ("slide,mask\na.png,masks\n", "line 2: 'masks' is a folder"),
        ("slide,mask,mpp\na.png,masks/a.png,fine\n", "line 2: mpp 'fine' is no resolution"),
        ("slide,mask\na.png,masks/a.png\na.png,masks/a.png\n", "two slides share the name 'a'"),
        ("slide,mask,points\na.png,masks/a.png,p.csv\nb.png,masks/b.png,\n", "b has no points but others have"),
    ],
)
def test_what_is_wrong_with_cases_is_named(tmp_path, text, told):
    path = write_cases(tmp_path, {"a": "P1", "b": "P2"})
    (tmp_path / "p.csv").touch()
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as caught:
        read_cases(path)
    assert str(path) in str(caught.value)


def half(height=30, width=40):
    mask = np.zeros((height, width), bool)
    mask[:, : width // 2] = True
    return mask


def test_points_depend_on_seed_and_slide_alone():
    first, again = (draw_points(half(), pairs=5, seed=1, key="a") for _ in range(2))
    np.testing.assert_array_equal(first.xy, again.xy)
    assert (first.xy != draw_points(half(), pairs=5, seed=1, key="b").xy).any()
    assert (first.xy != draw_points(half(), pairs=5, seed=2, key="a").xy).any()


def test_points_keep_the_margin_and_never_contradict():
    for seed in range(20):
        points = draw_points(half(), pairs=8, seed=seed, key="a", margin=6)
        assert points.in_target[:, 0].max() <= 20 - 6
        assert points.out_of_target[:, 0].min() >= 20 + 6
    checkered = np.kron(np.indices((8, 8)).sum(axis=0) % 2, np.ones((3, 3))) > 0
    points = draw_points(checkered, pairs=30, seed=0, key="a")
    assert not [of for of in audit_points(points, width=24, height=24) if of.kind == "contradiction"]
    with pytest.raises(AnnotationError, match="0 in-target pixels"):
        draw_points(checkered, pairs=1, seed=0, key="a", margin=4)


@pytest.mark.parametrize("name", ["a.geojson", "a.csv"])
def test_readers_read_back_what_was_written(tmp_path, name):
    points = draw_points(half(), pairs=4, seed=0, key="a")
    write_points(tmp_path / name, points, slide="a", offset=(100.0, 50.0))
    read = read_points(tmp_path / name, offset=(100.0, 50.0), slide="a")
    np.testing.assert_allclose(read.xy, points.xy)
    np.testing.assert_array_equal(read.label, points.label)
    assert read.slides == ("a",)


def test_geojson_is_in_the_frame_it_names(tmp_path):
    points = draw_points(half(), pairs=4, seed=0, key="a")
    write_points(tmp_path / "a.geojson", points, slide="a", offset=(-100.0, -50.0))
    again = tmp_path / "b.geojson"
    write_points(again, points, slide="a", offset=(-100.0, -50.0))
    assert again.read_bytes() == (tmp_path / "a.geojson").read_bytes()
    marks = read_marks(tmp_path / "a.geojson")
    assert {(mark.x, mark.y) for mark in marks.points} == {tuple(xy) for xy in points.xy.tolist()}


def test_points_of_a_manifest_are_in_level_0_px_of_the_slides(tmp_path):
    write_slide(tmp_path / "s.svs", np.full((120, 160, 3), 200, np.uint8), levels=1)
    Image.fromarray(half(30, 40)).save(tmp_path / "s_mask.png")  # a quarter of the slide's resolution
    manifest = tmp_path / "cases.csv"
    manifest.write_text("slide,mask,patient\ns.svs,s_mask.png,P7\n")
    (outcome,) = sample_many([manifest], tmp_path / "points", Drawing(pairs=6, margin_px=12))
    assert outcome.status == "done"
    (row,) = read_manifest(tmp_path / "points" / "cases.csv")
    assert (row.patient, row.points.name) == ("P7", "s.geojson")
    points = read_points(row.points, slide="s")
    assert len(points) == 12
    assert points.in_target[:, 0].max() < 80 - 12 + 4
    assert points.out_of_target[:, 0].min() > 80 + 12 - 4
    assert points.xy[:, 1].max() < 120


@pytest.mark.parametrize("form", ["geojson", "csv"])
def test_points_that_somebody_made_are_not_replaced(tmp_path, form):
    Image.fromarray(half()).save(tmp_path / "a.png")
    points, made = tmp_path / "points" / f"a.{form}", Drawing(form=form)
    own = {
        "csv": "x,y,label\n1,2,Tumor\n",
        "geojson": '{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {}}]}',
    }[form]

    def status(drawing):
        (outcome,) = sample_many([tmp_path / "a.png"], points.parent, drawing)
        if outcome.status == "failed":
            assert f"a.{form}: holds other points, or was changed since it was written (choose" in outcome.message
        return outcome.status

    assert [status(made), status(made)] == ["done", "done"]
    drawn = points.read_text()
    points.write_text(own)
    assert status(made) == "failed"
    assert points.read_text() == own
    assert status(replace(made, force=True)) == "done"
    assert points.read_text() == drawn
    # One point moved by hand, in a file of ours.
    first = str(read_points(points).xy[0, 0])
    points.write_text(drawn.replace(first, "0.25", 1))
    assert status(made) == "failed"


def test_other_points_of_ours_replace_ours(tmp_path):
    Image.fromarray(half()).save(tmp_path / "a.png")
    for seed in (0, 1):
        assert sample_many([tmp_path / "a.png"], tmp_path, Drawing(seed=seed))[0].status == "done"


def test_manifests_are_not_replaced_by_their_copies(tmp_path):
    manifest = write_cases(tmp_path, {"a": "P1", "b": "P2"})
    with pytest.raises(ConfigError, match=r"cases\.csv: would be replaced by its copy .*choose another --output"):
        sample_many([manifest], tmp_path, Drawing(force=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "cases.csv", "masks"]
    copy = tmp_path / "points" / "cases.csv"
    for _ in range(2):
        assert {outcome.status for outcome in sample_many([manifest], copy.parent, Drawing())} == {"done"}
    made = copy.read_text()
    edited = made.replace("P1", "P9")
    copy.write_text(edited)
    with pytest.raises(ConfigError, match=r"points/cases\.csv: is there already and says something else .*--force"):
        sample_many([manifest], copy.parent, Drawing())
    assert copy.read_text() == edited
    sample_many([manifest], copy.parent, Drawing(force=True))
    assert copy.read_text() == made
    (tmp_path / "other").mkdir()
    namesake = write_cases(tmp_path / "other", {"c": "P3"})
    with pytest.raises(ConfigError, match=r"two manifests are named cases\.csv"):
        sample_many([manifest, namesake], tmp_path / "new", Drawing())


def test_the_split_is_carried_over(tmp_path):
    manifest = write_cases(tmp_path, {"a": "P1", "b": "P2"})
    lines = manifest.read_text().splitlines()
    ends = ("split", "train", "val")
    manifest.write_text("\n".join(f"{line},{end}" for line, end in zip(lines, ends, strict=True)))
    sample_many([manifest], tmp_path / "points", Drawing())
    assert [row.split for row in read_manifest(tmp_path / "points" / "cases.csv")] == ["train", "val"]


def test_masks_alone_and_bad_ones(tmp_path):
    for name in ("a_mask", "b"):
        Image.fromarray(half()).save(tmp_path / f"{name}.png")
    Image.fromarray(np.ones((9, 9), bool)).save(tmp_path / "full.png")
    paths = [tmp_path / f"{name}.png" for name in ("a_mask", "full", "b")]
    outcomes = sample_many(paths, tmp_path / "points", Drawing(form="csv", downsample=4))
    assert [(of.key, of.status) for of in outcomes] == [("a", "done"), ("full", "failed"), ("b", "done")]
    assert "full.png: the mask has 0 out-of-target pixels" in outcomes[1].message
    assert read_points(tmp_path / "points" / "a.csv").xy[:, 0].max() > 80
    with pytest.raises(ConfigError, match="two masks are named 'b'"):
        sample_many([paths[2], Path("elsewhere/b.png")], tmp_path, Drawing())


def test_variants_of_ablations_are_settings():
    assert [variant.name for variant in eta_variants([0.6, 0, 0.3])] == ["eta-0", "eta-0.3", "eta-0.6"]
    variants = pair_variants([3, 2])
    assert [variant.name for variant in variants] == ["pairs-2", "pairs-3", "pairs-2-hard", "pairs-3-hard"]
    recipes = [updated(Recipe(), {name: dict(of) for name, of in variant.changes.items()}) for variant in variants]
    assert [recipe.training.pairs for recipe in recipes] == [2, 3, 2, 3]
    assert [recipe.cvm.hard_labels for recipe in recipes] == [False, False, True, True]
    assert {recipe.training.method for recipe in recipes} == {"cvm"}
    for build, values in ((eta_variants, [1.2]), (eta_variants, []), (pair_variants, [0]), (pair_variants, [2, 2])):
        with pytest.raises(ConfigError, match="cannot compare the"):
            build(values)


def test_points_of_our_own_masks_lie_where_the_mask_says(tmp_path):
    mask = np.zeros((40, 60), np.uint8)
    mask[:, 30:] = 255
    write_pyramid(tmp_path / "s.mask.tif", [mask], grid=CellGrid(40, 60, 8.0), mpp=None)
    assert sample_many([tmp_path / "s.mask.tif"], tmp_path / "points", Drawing(pairs=20))[0].status == "done"
    drawn = read_points(tmp_path / "points" / "s.geojson")
    assert ((drawn.xy[:, 0] >= 240) == (drawn.label == 1)).all()
    assert drawn.xy.max() > 60


@pytest.mark.parametrize("told", ["manifest", "report", "nothing"])
def test_no_point_lies_on_pixels_past_the_edge_of_the_slide(tmp_path, told):
    """The last row and column of the mask have their centres off the slide."""
    mask = np.zeros((33, 33), np.uint8)
    mask[:30, :30] = 255
    path = tmp_path / "s.mask.tif"
    write_pyramid(path, [mask], grid=CellGrid(33, 33, 32.0), mpp=None)
    if told == "manifest":
        Image.fromarray(np.zeros((1034, 1034, 3), np.uint8)).save(tmp_path / "s.png")
        path = tmp_path / "cases.csv"
        path.write_text("slide,mask,mpp\ns.png,s.mask.tif,0.5\n")
    if told == "report":
        write_json(tmp_path / "s.report.json", {"size_px": [1034, 1034]})
    (outcome,) = sample_many([path], tmp_path / "points", Drawing(pairs=30))
    assert outcome.status == "done", outcome.message
    assert read_points(tmp_path / "points" / "s.geojson").xy.max() == 31.5 * 32


def test_masks_of_several_classes_give_no_points(tmp_path):
    classes = [TissueClass("A", (1, 2, 3)), TissueClass("B", (4, 5, 6))]
    labels = np.tile(np.array([0, 1, 2], np.uint8), (30, 10))
    write_pyramid(tmp_path / "s.mask.tif", [labels], grid=CellGrid(30, 30, 8.0), mpp=None, classes=classes)
    outcome = sample_many([tmp_path / "s.mask.tif"], tmp_path / "points", Drawing())[0]
    assert outcome.status == "failed"
    assert "holds the classes A, B" in outcome.message

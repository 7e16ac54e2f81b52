"""The points in pictures of a comparison are those that were trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from comparemaker import tiny_recipe, write_cases
from wsipipe.annotations.classes import choose_classes
from wsipipe.pipeline.cases import read_cases
from wsipipe.pipeline.crossval import compare, method_variants
from wsipipe.pipeline.crossval_plan import HeldOut
from wsipipe.pipeline.heat_maps import _points_of
from wsipipe.pipeline.preparation import Reading
from wsipipe.pipeline.sources import image_source
from wsipipe.slides import SlideEntry


def glands(folder: Path) -> Path:
    """Cases whose points bear names that are no defaults."""
    manifest = write_cases(folder, {"a": "P1", "b": "P2"})
    for key in "ab":
        (folder / f"{key}.csv").write_text("x,y,label\n4,4,Gland\n6,30,Gland\n44,4,Lumen\n46,30,Lumen\n")
    lines = manifest.read_text().splitlines()
    rows = [f"{line},{line[0]}.csv" for line in lines[1:]]
    manifest.write_text("\n".join([f"{lines[0]},points", *rows]) + "\n")
    return manifest


def test_a_comparison_of_named_classes_ends_with_its_pictures(tmp_path: Path) -> None:
    reading = Reading(device="cpu", classes=choose_classes(["Gland"], ["Lumen"]))
    result = compare(
        glands(tmp_path),
        tiny_recipe(epochs=1),
        tmp_path / "run",
        method_variants(["partial_ce"]),
        out=tmp_path,
        folds=2,
        baseline="partial_ce",
        reading=reading,
    )
    assert [outcome.status for outcome in result.outcomes] == ["done", "done"]
    assert (tmp_path / "run" / "heatmaps.png").is_file()


@pytest.mark.parametrize(("crop", "shift"), [(True, (7.0, 3.0)), (False, (0.0, 0.0))])
def test_points_of_qupath_are_moved_as_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crop: bool, shift: tuple[float, float]
) -> None:
    case = read_cases(write_cases(tmp_path, {"a": "P1"}))[0]
    points = tmp_path / "a.geojson"
    points.write_text(
        '{"type": "Feature", "geometry": {"type": "Point", "coordinates": [4, 5]},'
        ' "properties": {"classification": {"name": "Gland"}}}'
    )
    source = image_source(SlideEntry("a", case.slide), None, reader="auto")
    monkeypatch.setattr("wsipipe.pipeline.heat_maps.bounds_offset", lambda slide: (7.0, 3.0))
    reading = Reading(crop=crop, classes=choose_classes(["Gland"], ["Lumen"]))
    found = _points_of(HeldOut(case, source, points, 1), reading)
    np.testing.assert_array_equal(found.xy, [[4 + shift[0], 5 + shift[1]]])

"""Where maps lie and what makes two of them the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wsipipe.config import Recipe, updated
from wsipipe.pipeline.feature_plan import feature_path, feature_tag, map_grid, plan_map
from wsipipe.slides import MppView, list_slides, open_slide
from wsipipe.store.feature_map import FeatureMapInfo


def recipe(tile: dict[str, Any] | None = None, encoder: dict[str, Any] | None = None) -> Recipe:
    return updated(Recipe(), {"tile": tile or {}, "encoder": encoder or {}})


def planned(path: Path, wanted: Recipe, *, digest: str = "d", slide_mpp: float | None = None) -> FeatureMapInfo:
    (entry,) = list_slides([path], slide_mpp=slide_mpp)
    with open_slide(path, mpp=slide_mpp) as slide:
        return plan_map(entry, MppView(slide, wanted.tile.mpp), wanted, dim=8, weights_digest=digest)


@pytest.mark.parametrize(
    ("tile", "encoder", "tag"),
    [
        ({}, {}, "resnet34-imagenet-patch-256px-0.5mpp"),
        ({"overlap_px": 64, "mpp": 1.0}, {}, "resnet34-imagenet-patch-256px-overlap64-1mpp"),
        ({}, {"kind": "dense", "stride_px": 32}, "resnet34-imagenet-dense-stride32-0.5mpp"),
        ({}, {"weights": "/some where/my weights.v2.pt"}, "resnet34-my_weights.v2-patch-256px-0.5mpp"),
        ({}, {"name": "filterbank", "kind": "dense", "stride_px": 4}, "filterbank-dense-stride4-0.5mpp"),
        ({}, {"name": "timm:vit_tiny?img_size=448"}, "timm_vit_tiny_img_size_448-imagenet-patch-256px-0.5mpp"),
        ({}, {"name": "timm:hf-hub:a/b", "weights": "hub"}, "timm_hf_hub_a_b-hub-patch-256px-0.5mpp"),
        ({}, {"name": "python:mine.make"}, "python_mine.make-patch-256px-0.5mpp"),
        ({}, {"name": "python:mine.make", "weights": "/x/w.pt"}, "python_mine.make-w-patch-256px-0.5mpp"),
    ],
)
def test_maps_lie_under_what_they_are(tile: dict[str, Any], encoder: dict[str, Any], tag: str) -> None:
    assert feature_tag(recipe(tile, encoder)) == tag
    assert feature_path("out", recipe(tile, encoder), "a b") == Path("out/features") / tag / "a b.h5"


def test_native_resolution_has_a_name() -> None:
    native = Recipe.model_validate({"tile": {"mpp": None}})
    assert feature_tag(native).endswith("-native")


CHANGES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("patch", {"mpp": 1.0}, {}),
    ("patch", {"patch_size_px": 128}, {}),
    ("patch", {"overlap_px": 16}, {}),
    ("patch", {"min_tissue": 0.3}, {}),
    ("patch", {"tissue": {"mpp": 4.0}}, {}),
    ("patch", {}, {"name": "resnet18"}),
    ("dense", {"mpp": 1.0}, {}),
    ("dense", {"tissue": {"min_area_um2": 1.0}}, {}),
    ("dense", {}, {"stride_px": 32}),
]


@pytest.mark.parametrize(("kind", "tile", "encoder"), CHANGES)
def test_what_changes_values_changes_the_plan(
    kind: str, tile: dict[str, Any], encoder: dict[str, Any], slide_path: Path
) -> None:
    before = planned(slide_path, recipe({}, {"kind": kind}))
    after = planned(slide_path, recipe(tile, {"kind": kind} | encoder))
    assert not before.same_work(after)
    assert before.settings_digest != after.settings_digest


def test_other_weights_slides_and_resolutions_are_other_work(slide_path: Path, tmp_path: Path) -> None:
    before = planned(slide_path, Recipe())
    changed = tmp_path / slide_path.name
    changed.write_bytes(slide_path.read_bytes() + b"\0")
    others = [
        planned(slide_path, Recipe(), digest="e"),
        planned(slide_path, Recipe(), slide_mpp=0.25),
        planned(changed, Recipe()),
    ]
    assert [before.same_work(other) for other in others] == [False, False, False]
    assert before.same_work(planned(slide_path, Recipe()))


@pytest.mark.parametrize(
    ("kind", "tile", "encoder"),
    [
        ("patch", {}, {"stride_px": 32}),
        ("patch", {}, {"weights": "same_weights_elsewhere.pt"}),
        ("dense", {"patch_size_px": 64, "min_tissue": 0.4}, {}),
    ],
)
def test_what_does_not_change_values_is_no_reason_to_compute_again(
    kind: str, tile: dict[str, Any], encoder: dict[str, Any], slide_path: Path
) -> None:
    before = planned(slide_path, recipe({}, {"kind": kind}))
    assert before.same_work(planned(slide_path, recipe(tile, {"kind": kind} | encoder)))


def test_grids_lie_over_the_slide(slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        view = MppView(slide, 1.0)
        patch = map_grid(view, recipe({"mpp": 1.0, "patch_size_px": 64, "overlap_px": 16}))
        dense = map_grid(view, recipe({"mpp": 1.0}, {"kind": "dense"}))
    assert (patch.shape, patch.cell_px, patch.origin) == ((8, 11), 96.0, (16.0, 16.0))
    assert (dense.shape, dense.cell_px, dense.origin) == ((24, 32), 32.0, (0.0, 0.0))


def test_planning_needs_no_torch() -> None:
    code = "import sys, wsipipe.pipeline.feature_plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

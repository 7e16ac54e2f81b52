"""Contact sheets: every point's surroundings at their place, framed by class, doubtful ones first."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from wsipipe.annotations.classes import class_color
from wsipipe.pipeline import contact_sheet
from wsipipe.pipeline.contact_sheet import Patch, draw_contact_sheet
from wsipipe.slides import open_slide

BLUE, GREEN = (20, 40, 230), (30, 200, 60)


@pytest.fixture
def slide(tmp_path):
    """A slide blue on the left and green on the right."""
    picture = np.zeros((400, 600, 3), np.uint8)
    picture[:, :300], picture[:, 300:] = BLUE, GREEN
    Image.fromarray(picture).save(tmp_path / "halves.png")
    with open_slide(tmp_path / "halves.png", mpp=0.5) as opened:
        yield opened


def patch(x, y, name, *doubts):
    return Patch(x, y, name, "in target" if name == "Tumor" else "out of target", f"({x}, {y})", doubts)


def share_of(sheet, color, tolerance=12):
    return (np.abs(sheet.astype(int) - color).max(axis=-1) <= tolerance).mean()


def test_patches_show_what_lies_under_the_points(slide):
    sheet = draw_contact_sheet(slide, [patch(100, 200, "Tumor")], patch_px=64, title="s")
    assert sheet.dtype == np.uint8
    assert share_of(sheet, BLUE) > 0.05
    assert share_of(sheet, GREEN) == 0
    sheet = draw_contact_sheet(slide, [patch(300, 200, "Tumor")], patch_px=64, title="s")
    assert share_of(sheet, BLUE) == pytest.approx(share_of(sheet, GREEN), rel=0.1)


def test_frames_and_headings_have_the_colours_of_the_classes(slide):
    sheet = draw_contact_sheet(slide, [patch(100, 200, "Tumor"), patch(400, 200, "Stroma")], patch_px=64, title="s")
    assert share_of(sheet, class_color("Tumor"), 0) > 0.03
    assert share_of(sheet, class_color("Stroma"), 0) > 0.03
    rows = [np.flatnonzero((sheet == class_color(name)).all(axis=-1).any(axis=1)).min() for name in ("Tumor", "Stroma")]
    assert rows[0] < rows[1], "in target comes first"


def test_doubtful_points_come_first_in_their_class_and_are_framed(slide):
    plain = [patch(100, 200, "Tumor"), patch(100, 210, "Tumor"), patch(400, 200, "Tumor")]
    doubted = [*plain[:2], patch(400, 200, "Tumor", "contradicted")]
    before, after = (draw_contact_sheet(slide, some, patch_px=64, title="s") for some in (plain, doubted))
    column = slice(0, contact_sheet._PATCH_PX)
    assert share_of(before[:, column], GREEN) == 0
    assert share_of(after[:, column], GREEN) > 0.1
    assert share_of(before, contact_sheet._DOUBT, 0) == 0
    assert share_of(after, contact_sheet._DOUBT, 0) > 0.005


def test_points_off_the_slide_are_shown_grey(slide):
    sheet = draw_contact_sheet(slide, [patch(-5, 9000, "Tumor", "outside")], patch_px=64, title="s")
    assert share_of(sheet, (120, 120, 120), 0) > 0.05


def test_of_very_many_points_the_doubtful_ones_are_shown(slide, monkeypatch):
    monkeypatch.setattr(contact_sheet, "MAX_PATCHES", 3)
    many = [patch(100, 200, "Tumor")] * 5 + [patch(400, 200, "Tumor", "contradicted")]
    sheet = draw_contact_sheet(slide, many, patch_px=64, title="s")
    assert share_of(sheet, GREEN) > 0.02
    assert sheet.shape == draw_contact_sheet(slide, many[:3], patch_px=64, title="s").shape

"""Auditing points: one file that has all faults, a good one, one with a wrong click."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from slidemaker import write_slide
from wsipipe.config import parse_recipe
from wsipipe.pipeline import point_audit
from wsipipe.pipeline.point_audit import Auditing, audit_many, audit_slide
from wsipipe.slides import list_slides
from wsipipe_cli.main import app

RECIPE = {"segment": {"mpp": 1.0, "stride_px": 8, "landmarks": 300, "draws": 1}}
HOW = Auditing(parse_recipe(RECIPE))
GOOD = {
    "Tumor": ((640, 512), (560, 460), (700, 600), (620, 640)),
    "Stroma": ((200, 200), (1050, 300), (300, 820), (640, 250), (140, 500)),
}


@pytest.fixture(scope="module")
def disc():
    """Glass with a disc of dark speckle on a field of pale speckle."""
    rng = np.random.default_rng(0)
    rows, cols = np.mgrid[:1024, :1280]
    inside = (rows - 512) ** 2 + (cols - 640) ** 2 < 220**2
    field = (abs(rows - 512) < 400) & (abs(cols - 640) < 520)
    grain = rng.normal(0, 18, (1024, 1280, 1))
    color = np.where(inside[..., None], (110, 60, 140), np.where(field[..., None], (215, 150, 190), (243, 243, 243)))
    return np.clip(color + grain * field[..., None], 0, 255).astype(np.uint8)


@pytest.fixture
def entry(tmp_path, disc):
    return list_slides([write_slide(tmp_path / "disc.svs", disc)])[0]


def write_csv(path, marked, *more):
    rows = [f"{x},{y},{name}" for name, places in marked.items() for x, y in places]
    path.write_text("x,y,label\n" + "\n".join([*rows, *more]) + "\n")
    return path


def kinds(audit):
    return {(finding.kind, finding.severity): finding.indices for finding in audit.findings}


def test_good_points_are_judged_by_the_others(entry, tmp_path):
    audit = audit_slide(entry, write_csv(tmp_path / "disc.csv", GOOD), tmp_path / "out", HOW)
    assert audit.usable
    assert audit.findings == ()
    assert audit.counts == {"Stroma": 5, "Tumor": 4}
    assert all((point.others >= 0.5) == point.in_target for point in audit.points)
    assert {point.model for point in audit.points} == {None}
    with Image.open(audit.sheet) as sheet:
        assert sheet.width > 1000


def test_a_wrong_click_is_named_by_the_others(entry, tmp_path):
    audit = audit_slide(entry, write_csv(tmp_path / "disc.csv", GOOD, "600,400,Stroma"), tmp_path / "out", HOW)
    assert audit.usable, "a doubt is for people to look at, not an error"
    assert kinds(audit)["contradicted", "warning"] == (9,)
    (finding,) = audit.findings
    assert "#10 'Stroma' at (600, 400)" in finding.message
    assert [point.number for point in audit.points if point.doubts] == [10]


def test_one_file_with_all_faults(entry, tmp_path):
    """The slide's neighbour has the file's name; points outside, off the tissue, contradictory, repeated."""
    write_slide(tmp_path / "other.svs", np.full((64, 64, 3), 240, np.uint8), levels=1)
    faults = ("99999,5,Stroma", "5,5,Tumor", "640,512,Stroma", "200,200,Stroma", "20,30,Ignore", "9,9,Banana")
    audit = audit_slide(entry, write_csv(tmp_path / "other.csv", GOOD, *faults), tmp_path / "out", HOW)
    assert not audit.usable
    found = kinds(audit)
    assert found["other slide", "error"] == ()
    assert found["outside", "error"] == (9,)
    assert found["off tissue", "error"] == (10,)
    assert found["contradiction", "error"] == (0, 11)
    assert found["duplicate", "note"] == (12,)
    assert found["off tissue", "note"] == (9, 13)
    assert "'Banana' (1)" in next(finding.message for finding in audit.findings if finding.kind == "left out")
    assert {point.others for point in audit.points} == {None}, "nothing is computed for points that cannot be used"
    assert not (tmp_path / "out" / "features").exists()
    assert [point.number for point in audit.points if point.doubts] == [1, 10, 11, 12, 13]
    assert audit.sheet.is_file(), "the picture helps most where something is wrong"


def test_one_class_only(entry, tmp_path):
    audit = audit_slide(entry, write_csv(tmp_path / "disc.csv", {"Tumor": GOOD["Tumor"]}), tmp_path / "out", HOW)
    assert ("one class", "error") in kinds(audit)
    assert not audit.usable


def test_points_of_a_class_on_glass_alone_are_told(entry, tmp_path):
    marked = {"Tumor": GOOD["Tumor"], "Ignore": ((10, 10), (30, 900))}
    audit = audit_slide(entry, write_csv(tmp_path / "disc.csv", marked), tmp_path / "out", HOW)
    assert not audit.usable
    assert any("out-of-target points lies on tissue" in finding.message for finding in audit.findings)


def test_what_cannot_be_read_is_a_finding_of_its_slide(entry, tmp_path):
    (tmp_path / "disc.csv").write_text("x,y,label\n1,2,Banana\n")
    bad = list_slides([tmp_path / "gone.svs"])
    (tmp_path / "gone.csv").write_text("x,y,label\n1,2,Tumor\n")
    audits = audit_many([entry, *bad], tmp_path, tmp_path / "out", HOW)
    assert [[finding.kind for finding in audit.findings] for audit in audits] == [["unreadable"], ["slide"]]
    assert "'Banana' (1)" in audits[0].findings[0].message
    told = json.loads((tmp_path / "out" / "audit" / "audit.json").read_text())
    assert (told["type"], [slide["usable"] for slide in told["slides"]]) == ("wsipipe.points_audit", [False, False])


def test_a_model_judges_points_too(entry, tmp_path, monkeypatch):
    says = np.array([0.9, 0.8, 0.2, 0.9, 0.1, 0.1, np.nan, 0.7, 0.3])
    monkeypatch.setattr(point_audit, "predict_points", lambda entry, xy, **_: says)
    how = Auditing(HOW.recipe, agreement=False, model=tmp_path / "run")
    audit = audit_slide(entry, write_csv(tmp_path / "disc.csv", GOOD), tmp_path / "out", how)
    assert kinds(audit) == {("model disagrees", "warning"): (2, 7)}
    assert [point.model for point in audit.points] == [0.9, 0.8, 0.2, 0.9, 0.1, 0.1, None, 0.7, 0.3]
    assert not (tmp_path / "out" / "features").exists()


def test_the_command_tells_everything_and_exits_as_it_should(entry, tmp_path):
    points = write_csv(tmp_path / "disc.csv", GOOD, "600,400,Stroma")
    out = tmp_path / "out"
    (tmp_path / "quick.yaml").write_text(json.dumps(RECIPE))
    arguments = [str(entry.path), "--points", str(points), "-o", str(out), "--recipe", str(tmp_path / "quick.yaml")]
    result = CliRunner().invoke(app, ["points", "audit", *arguments])
    assert result.exit_code == 0, result.output
    assert "contradicted" in result.output
    assert "#10" in result.output
    assert "1 usable, 0 not" in result.output
    (slide,) = json.loads((out / "audit" / "audit.json").read_text())["slides"]
    assert (slide["in_target"], slide["out_of_target"], slide["classes"]) == (4, 6, {"Stroma": 6, "Tumor": 4})
    assert slide["findings"][0]["points"] == [10]
    assert slide["points"][9]["doubts"] == ["contradicted"]
    assert slide["contact_sheet"] == str(out / "audit" / "disc.png")
    write_csv(points, {"Tumor": ((640, 512),)})
    result = CliRunner().invoke(app, ["points", "audit", *arguments, "--no-agreement"])
    assert result.exit_code == 1
    assert "one class" in result.output


def test_a_model_that_is_none_is_told(entry, tmp_path):
    how = Auditing(HOW.recipe, agreement=False, model=tmp_path / "no-run")
    audit = audit_slide(entry, write_csv(tmp_path / "disc.csv", GOOD), tmp_path / "out", how)
    assert [finding.kind for finding in audit.findings] == ["slide"]
    assert "no-run" in audit.findings[0].message


def test_real_points(shared, tmp_path):
    (slide,) = list_slides([shared / "slides" / "TCGA-CR-7395.svs"], slide_mpp=1.0)
    points = shared / "annotations" / "points_TCGA-CR-7395.geojson"
    audit = audit_slide(slide, points, tmp_path, Auditing(HOW.recipe, agreement=False))
    assert audit.counts == {"Tumor": 7, "Stroma": 6, "Ignore*": 3}
    assert kinds(audit) == {("off tissue", "note"): (13, 14, 15)}

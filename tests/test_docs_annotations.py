"""Every command that docs/annotations.md shows runs, in the order in which it is shown."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deskmaker import lay_desk
from wsipipe.pipeline.export import FORMATS
from wsipipe_cli.main import app

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "annotations.md"


def commands():
    blocks = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with the files that the guide speaks of."""
    lay_desk(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_of_the_guide_run(desk):
    shown = commands()
    assert len(shown) >= 8
    for line in shown:
        program, *arguments = shlex.split(line, comments=True)
        assert program == "wsipipe"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception}"
        assert "points suggest" not in line or "doubt and features" in result.output
    exports = {file.name for file in (desk / "wsipipe-out" / "exports").iterdir()}
    assert exports == {"slide.xml", "slide.gpkg", "slide.geojson.gz", "slide.geojson"}
    (judged,) = json.loads((desk / "wsipipe-out" / "audit" / "audit.json").read_text())["slides"]
    assert {"others", "model"} <= judged["points"][0].keys()
    assert all(point["model"] is not None for point in judged["points"])
    (row,) = json.loads((desk / "wsipipe-out" / "evaluation.json").read_text())["rows"]
    assert row["slide"] == "slide"
    assert row["dice"] > 0


def test_the_guide_names_every_format():
    text = GUIDE.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in FORMATS)

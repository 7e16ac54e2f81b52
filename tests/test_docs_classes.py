"""Every command that docs/classes.md shows runs, in the order in which it is shown, and its recipe is one."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import yaml
from typer.testing import CliRunner

from classmaker import write_three_classes
from wsipipe.config import MANY_CLASSES, parse_recipe
from wsipipe_cli.main import app

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "classes.md"
RECIPE = """
tile: {mpp: 1.0}
encoder: {name: filterbank, kind: dense, stride_px: 16}
network: {width: 4, depth: 1}
training: {epochs: 2, steps_per_epoch: 3, learning_rate: 1.0e-2, window: 64, previews: 0}
"""


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_commands_of_the_guide_run(tmp_path, monkeypatch):
    write_three_classes(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    shown = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]
    assert len(shown) == 4
    for line in shown:
        program, *arguments = shlex.split(line, comments=True)
        assert program == "wsipipe"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception}"
    report = json.loads((tmp_path / "wsipipe-out" / "masks" / "slide.report.json").read_text())
    assert list(report["classes"]) == ["Tumor", "Stroma", "Fat"]
    assert {file.name for file in (tmp_path / "wsipipe-out" / "exports").iterdir()} == {"slide.xml", "slide.gpkg"}


def test_the_recipe_of_the_guide_is_one():
    (text,) = blocks("yaml")
    classes = parse_recipe(yaml.safe_load(text)).training.classes
    assert [of.name for of in classes] == ["Tumor", "Stroma", "Fat"]
    assert [len(of.patterns) for of in classes] == [2, 0, 1]


def test_the_guide_names_every_method_that_can():
    text = GUIDE.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in MANY_CLASSES)

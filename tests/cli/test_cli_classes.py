"""`wsipipe train --classes`: what it is taken for, and what it does not go with."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from wsipipe.config import Recipe, updated
from wsipipe.errors import ConfigError
from wsipipe_cli.main import app
from wsipipe_cli.recipes import classes_from


def test_names_and_patterns():
    told = classes_from("Tumor, Stroma = S*,Background=Ignore*,Background=re:gla.s")
    assert told == [
        {"name": "Tumor", "patterns": []},
        {"name": "Stroma", "patterns": ["S*"]},
        {"name": "Background", "patterns": ["Ignore*", "re:gla.s"]},
    ]
    assert classes_from(None) is None
    assert updated(Recipe(), {"training": {"classes": told}}).training.logits == 3


@pytest.mark.parametrize("text", ["", "Tumor", "Tumor,,Stroma"])
def test_what_is_no_list_of_classes_is_refused(text):
    with pytest.raises(ConfigError, match=r"training\.classes"):
        updated(Recipe(), {"training": {"classes": classes_from(text)}})


@pytest.mark.parametrize("flag", ["--positive", "--negative"])
def test_two_classes_and_several_do_not_go_together(tmp_path, flag):
    (tmp_path / "m.csv").write_text("slide,points\na.svs,a.geojson\n")
    arguments = ["train", str(tmp_path / "m.csv"), "--recipe", "smoke", "--classes", "A,B,C", flag, "A"]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, ConfigError)
    assert "part two classes, the recipe has A, B, C" in str(result.exception)

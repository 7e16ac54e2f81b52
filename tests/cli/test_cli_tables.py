"""The commands that compare: crossval, ablate, evaluate, points."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from comparemaker import TINY, write_cases
from wsipipe_cli.main import app, run


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def command_line(monkeypatch, *arguments):
    """Run as a user does, errors turned into lines and exit codes."""
    monkeypatch.setattr(sys, "argv", ["wsipipe", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        run()
    return left.value.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cases")
    write_cases(path, {"a": "P1", "b": "P2", "c": "P2"})
    (path / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"training": TINY["training"] | {"epochs": 1}}))
    return path


@pytest.mark.parametrize(
    "command", [["crossval"], ["evaluate"], ["points", "sample"], ["ablate", "pairs"], ["ablate", "eta"]]
)
def test_every_command_has_help(command):
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert "--output" in result.output


def test_crossval_prints_its_table_and_goes_on(folder, tmp_path):
    options = ("--recipe", folder / "tiny.yaml", "--methods", "partial_ce, full", "--baseline", "full", "--folds", 2)
    options = (*options, "--pairs", 5, "--device", "cpu", "-o", tmp_path)
    first = invoke("crossval", folder / "cases.csv", *options)
    assert first.exit_code == 0
    assert "3 images in 2 folds, 5 pairs of points per image, drawn from the masks" in first.output
    assert "4 done, 0 skipped as already done, 0 failed" in first.output
    table = (tmp_path / "crossval" / "cases" / "table.md").read_text()
    assert table in first.output
    assert "Difference to `full`" in table
    again = invoke("crossval", folder / "cases.csv", *options)
    assert "0 done, 4 skipped as already done, 0 failed" in again.output


def test_a_failed_job_shows_in_the_exit_code(folder, tmp_path):
    (tmp_path / "run" / "fold-2").mkdir(parents=True)
    (tmp_path / "run" / "fold-2" / "partial_ce").touch()
    options = ("--recipe", folder / "tiny.yaml", "--methods", "partial_ce", "--folds", 2, "--device", "cpu")
    result = invoke("crossval", folder / "cases.csv", *options, "--run", tmp_path / "run", "-o", tmp_path)
    assert result.exit_code == 1
    assert "1 done, 0 skipped as already done, 1 failed" in result.output
    assert "fold-2/partial_ce: failed, " in result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("crossval", "cases.csv", "--methods", "unet"), "unknown method 'unet' (known methods: partial_ce, "),
        (("crossval", "cases.csv", "--baseline", "cmv"), "unknown method 'cmv'"),
        (("crossval", "cases.csv", "--folds", "3"), "2 patients cannot be divided into 3 folds"),
        (("crossval", "none.csv"), "cannot be read: No such file"),
        (("ablate", "eta", "cases.csv", "--values", "0,2"), "cannot compare the values of eta 0, 2"),
        (("evaluate", "none", "masks"), "does not exist (give a mask, or a folder of them)"),
        (("points", "sample", "none.csv"), "cannot be read: No such file"),
    ],
)
def test_what_is_wrong_is_one_line(folder, tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(folder)
    assert command_line(monkeypatch, *arguments, "-o", tmp_path) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert told in error
    assert error.count("\n") == 1


def test_numbers_that_are_none_are_a_usage_error(folder, tmp_path):
    result = invoke("ablate", "pairs", folder / "cases.csv", "--values", "two", "-o", tmp_path)
    assert result.exit_code == 2
    assert "give numbers with commas" in result.output


def test_ablation_of_eta(folder, tmp_path):
    options = ("--recipe", folder / "tiny.yaml", "--values", "0,0.6", "--folds", 2, "--device", "cpu", "-o", tmp_path)
    result = invoke("ablate", "eta", folder / "cases.csv", *options)
    assert result.exit_code == 0
    assert "Difference to `eta-0.6`" in result.output
    with Image.open(tmp_path / "ablation" / "cases-eta" / "ablation.png") as picture:
        assert np.asarray(picture).std() > 10


def test_ablation_of_pairs_draws_the_fewer_among_the_more(folder, tmp_path):
    options = ("--recipe", folder / "tiny.yaml", "--values", "2,4", "--folds", 2, "--device", "cpu", "-o", tmp_path)
    result = invoke("ablate", "pairs", folder / "cases.csv", *options)
    assert result.exit_code == 0
    assert "4 pairs of points per image" in result.output
    assert "fold-2/pairs-4: done" in result.output
    assert "fold-2/pairs-2-hard: done" in result.output


def test_evaluate_prints_its_table(folder, tmp_path):
    result = invoke("evaluate", folder / "masks", folder / "masks", "-o", tmp_path)
    assert result.exit_code == 0
    rows = [line for line in result.output.splitlines() if line.startswith("| pooled")]
    assert [cell.strip() for cell in rows[0].split("|")][2:7] == ["1.000"] * 5
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.png").write_bytes(b"nothing")
    bad = invoke("evaluate", tmp_path / "p", folder / "masks", "-o", tmp_path / "bad")
    assert bad.exit_code == 1
    assert "a: failed, " in bad.output


def test_points_of_a_manifest_train_a_model(folder, tmp_path):
    result = invoke("points", "sample", folder / "cases.csv", "--pairs", 4, "--margin", 2, "-o", tmp_path)
    assert result.exit_code == 0
    assert "3 done, 0 skipped as already done, 0 failed" in result.output
    manifest = tmp_path / "points" / "cases.csv"
    trained = invoke("train", manifest, "--recipe", folder / "tiny.yaml", "--device", "cpu", "-o", tmp_path)
    assert trained.exit_code == 0, trained.output
    refused = invoke("points", "sample", folder / "masks" / "a.png", "--pairs", 100_000, "-o", tmp_path)
    assert refused.exit_code == 1


def test_clicked_points_are_replaced_on_demand_alone(folder, tmp_path):
    clicked = tmp_path / "points" / "a.geojson"
    clicked.parent.mkdir()
    clicked.write_text("[]")
    words = ("points", "sample", folder / "masks" / "a.png", "-o", tmp_path)
    refused = invoke(*words)
    assert refused.exit_code == 1
    assert "--force to replace it" in " ".join(refused.output.split())
    assert clicked.read_text() == "[]"
    assert invoke(*words, "--force").exit_code == 0
    assert clicked.read_text() != "[]"

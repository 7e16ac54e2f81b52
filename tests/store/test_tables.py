from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from wsipipe.errors import StoreError
from wsipipe.store.tables import read_json, write_csv, write_json


def test_json_takes_what_reports_hold_and_keeps_the_order(tmp_path: Path) -> None:
    data = {
        "z": np.float32(0.5),
        "a": [np.int64(3), np.bool_(True), None],
        "path": Path("a") / "b.tif",
        "array": np.arange(4, dtype=np.uint8).reshape(2, 2),
        "text": "µm",
        "pair": (1, 2.25),
    }
    write_json(tmp_path / "x.json", data)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert "µm" in text
    read = json.loads(text)
    assert list(read) == list(data)
    assert read == {
        "z": 0.5,
        "a": [3, True, None],
        "path": "a/b.tif",
        "array": [[0, 1], [2, 3]],
        "text": "µm",
        "pair": [1, 2.25],
    }
    assert read_json(tmp_path / "x.json") == read


@pytest.mark.parametrize("number", [float("nan"), float("inf"), np.float32("nan"), np.array([1.0, -np.inf])])
def test_json_refuses_what_is_not_finite_and_names_it(tmp_path: Path, number: object) -> None:
    with pytest.raises(StoreError, match=r"x\.json: cannot hold classes\[1\]\.area_mm2.* = -?(nan|inf)"):
        write_json(tmp_path / "x.json", {"classes": [{}, {"area_mm2": number}]})
    assert not (tmp_path / "x.json").exists()


def test_json_refuses_other_values_and_keys(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot hold it = "):
        write_json(tmp_path / "x.json", {"it": object()})
    with pytest.raises(StoreError, match="cannot hold the key 1"):
        write_json(tmp_path / "x.json", {1: 2})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file"),
        (b'{"a": ', "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[1]", "holds list"),
    ],
)
def test_broken_json_is_told(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=problem):
        read_json(path)


def test_csv_collects_columns_and_quotes(tmp_path: Path) -> None:
    rows = [{"slide": "a, b", "dice": np.float64(0.5)}, {"slide": 'the "one"', "note": None, "path": Path("x")}]
    write_csv(tmp_path / "x.csv", rows, columns=["epoch"])
    content = (tmp_path / "x.csv").read_bytes()
    assert b"\r" not in content
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == ["epoch", "slide", "dice", "note", "path"]
    assert [row["slide"] for row in read] == ["a, b", 'the "one"']
    assert [row["dice"] for row in read] == ["0.5", ""]
    assert [row["note"] for row in read] == ["", ""]
    assert read[1]["path"] == "x"


def test_csv_without_rows_has_its_header(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", [], columns=["slide", "dice"])
    assert (tmp_path / "x.csv").read_text() == "slide,dice\n"
    with pytest.raises(StoreError, match="neither rows nor columns"):
        write_csv(tmp_path / "y.csv", [])

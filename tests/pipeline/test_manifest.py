from __future__ import annotations

import pytest

from wsipipe.errors import ConfigError
from wsipipe.pipeline.manifest import read_manifest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "slides").mkdir()
    for name in ("slides/a.svs", "slides/b.svs", "a.geojson", "b.geojson", "a.png"):
        (tmp_path / name).touch()
    return tmp_path


def write(folder, text, encoding="utf-8"):
    path = folder / "manifest.csv"
    path.write_text(text, encoding=encoding)
    return path


def test_rows_in_order_with_paths_relative_to_the_file(folder):
    rows = read_manifest(
        write(
            folder,
            "slide,points,mask,patient,split,mpp\n"
            "slides/b.svs,b.geojson,,P1,train,\n"
            f"{folder}/slides/a.svs, a.geojson ,a.png,P2,val,0.25\n",
        )
    )
    assert [row.key for row in rows] == ["b", "a"]
    assert rows[0].slide == folder / "slides/b.svs"
    assert (rows[0].mask, rows[0].mpp, rows[0].split, rows[0].patient) == (None, None, "train", "P1")
    assert rows[1].points == folder / "a.geojson"
    assert (rows[1].mask, rows[1].mpp, rows[1].split) == (folder / "a.png", 0.25, "val")


def test_short_manifest_of_a_spreadsheet(folder):
    rows = read_manifest(write(folder, "slide,points\nslides/a.svs,a.geojson\n", "utf-8-sig"))
    assert (rows[0].key, rows[0].patient, rows[0].split) == ("a", "a", None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("slide\nslides/a.svs\n", "lacks the column 'points', has slide"),
        ("", "lacks the column 'slide', has none"),
        ("slide,points,label\n", "unknown column 'label'"),
        ("slide,points,points\n", "has a column twice"),
        ("slide,points\n", "lists no slides"),
        ("slide,points\nslides/a.svs,\n", "line 2 has no points"),
        ("slide,points\nslides/a.svs,a.geojson,x\n", "line 2 has more cells than the header"),
        ("slide,points\nslides/a.svs,a.geojson\nslides/c.svs,a.geojson\n", "line 3: no such file 'slides/c.svs'"),
        ("slide,points\n\nslides/a.svs,a.geojson\n\n\nslides/b.svs,\n", "line 6 has no points"),
        ("slide,points\nslides/a.svs,c.geojson\n", "line 2: no such file 'c.geojson'"),
        ("slide,points,mask\nslides/a.svs,a.geojson,c.png\n", "line 2: no such file 'c.png'"),
        ("slide,points,split\nslides/a.svs,a.geojson,training\n", "line 2: unknown split 'training'"),
        ("slide,points,split\nslides/a.svs,a.geojson,val\n", "holds only val"),
        ("slide,points,split\nslides/a.svs,a.geojson,train\nslides/b.svs,b.geojson,\n", "b has no split but others"),
        ("slide,points,mpp\nslides/a.svs,a.geojson,x40\n", "line 2: mpp 'x40' is no resolution"),
        ("slide,points,mpp\nslides/a.svs,a.geojson,-1\n", "line 2: mpp '-1' is no resolution"),
        ("slide,points\nslides/a.svs,a.geojson\nslides/a.svs,b.geojson\n", "two slides share the name 'a'"),
    ],
)
def test_what_is_wrong_is_named(folder, text, told):
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        read_manifest(path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_and_binary_manifests(folder):
    with pytest.raises(ConfigError, match="No such file"):
        read_manifest(folder / "none.csv")
    (folder / "binary.csv").write_bytes(b"\xff\xfe\x00slide")
    with pytest.raises(ConfigError, match="is no CSV"):
        read_manifest(folder / "binary.csv")

"""Tables of points."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsipipe.annotations.reading import read_marks, read_points
from wsipipe.annotations.table import parse_table
from wsipipe.errors import AnnotationError

PATH = Path("some.csv")


def parse(text):
    return parse_table(text, path=PATH)


@pytest.mark.parametrize(
    "text",
    [
        "x,y,label\n1,2,Tumor\n3.5,4,Stroma\n",
        "x,y,label\r\n1,2,Tumor\r\n\r\n3.5,4,Stroma",
        "X, Y, Class\n1, 2, Tumor\n3.5, 4, Stroma\n",
        'classification;"X px";"Y_px"\nTumor;1;2\nStroma;3,5;4\n',
        "x\ty\tclass\n1\t2\tTumor\n3,5\t4\tStroma\n",
        "# clicked on Monday\nx,y,label\n1,2,Tumor\n# more\n3.5,4,Stroma\n",
        "1,2,Tumor\n3.5,4,Stroma\n",
        "Centroid X px,Centroid Y px,Name\n1,2,Tumor\n3.5,4,Stroma\n",
    ],
)
def test_headers_and_delimiters(text):
    assert parse(text).points == ((1, 2, "Tumor", None), (3.5, 4, "Stroma", None))


def test_numeric_labels(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("x,y,label\n1,2,1\n3,4,0\n5,6,1.0\n7,8,0.0\n9,9,2\n")
    points = read_points(path)
    assert points.label.tolist() == [1, 0, 1, 0]
    assert points.notes == ("left out, neither in-target nor out-of-target: points of '2' (1)",)


def test_qupath_point_tables_use_the_name_without_a_class_and_qupaths_frame(tmp_path):
    path = tmp_path / "points.tsv"
    path.write_text("x\ty\tclass\tname\tcolor\n1\t2\tTumor\tmine\t-1\n3\t4\t\tStroma\t-1\n")
    assert read_marks(path, offset=(100, 200)).points == ((101, 202, "Tumor", None), (103, 204, "Stroma", None))


def test_other_tables_are_in_level_0_px(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("x,y,label\n1,2,1\n")
    assert read_marks(path, offset=(100, 200)).points == ((1, 2, "1", None),)


def test_slides_of_a_table():
    marks = parse("slide,x,y,label\na.svs,1,2,Tumor\nb.svs,3,4,Tumor\n,5,6,Tumor\n")
    assert marks.slides == ("a.svs", "b.svs")
    assert [point.slide for point in marks.points] == ["a.svs", "b.svs", None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y,label\n1,2,Tumor\nfar,4,Tumor\n", "line 3: 'far' is no coordinate"),
        ("x,y,label\n\n1,,Tumor\n", "line 3: '' is no coordinate"),
        ("x,y,label\n1\n", "line 2: '' is no coordinate"),
        ("x,y,label\nnan,2,Tumor\n", "line 2: 'nan' is no coordinate"),
        ("x,y,label\n1e20,2,Tumor\n", "line 2: .* is no pixel of a slide"),
        ('x,y,label\n"1,5",2,Tumor\n', "line 2: '1,5' is no coordinate"),
        ("x,label\n1,Tumor\n", "has the columns x, label"),
        ("x,y\n1,2\n", "has the columns x, y"),
        ("Centroid X \u00b5m,Centroid Y \u00b5m,Class\n1,2,Tumor\n", "has coordinates in um"),
        ("1,2\n3,4\n", "has 2 columns and no names"),
        ("# nothing\n", "holds no rows"),
        ('x,y,label\n1,2,"Tumor\n', "line 2: is no CSV"),
        ("hello\n", "has the columns hello"),
        ("x,y,label\n1,2," + "T" * 200_000, "line 2: is no CSV: field larger"),
    ],
)
def test_broken_tables(text, message):
    with pytest.raises(AnnotationError, match=message) as caught:
        parse(text)
    assert caught.value.path == PATH


def test_latin_1_and_byte_order_mark(tmp_path):
    path = tmp_path / "points.csv"
    for encoding in ("latin-1", "utf-8-sig", "utf-16"):
        path.write_bytes("x,y,label\n1,2,T\u00fcmor\n".encode(encoding))
        assert read_marks(path).points == ((1, 2, "T\u00fcmor", None),)

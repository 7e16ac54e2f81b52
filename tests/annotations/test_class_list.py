"""Several classes: which names belong to which, what files say of their colours, and what is told when nothing fits."""

from __future__ import annotations

import json

import numpy as np
import pytest

from wsipipe.annotations.audit import audit_points
from wsipipe.annotations.classes import ClassList, TissueClass
from wsipipe.annotations.masks import read_class_mask
from wsipipe.annotations.reading import read_points
from wsipipe.errors import AnnotationError
from wsipipe.geometry import CellGrid

LISTED = ClassList(("Tumor", "Stroma", "Fat"), (("Tumor", "re:carc.*"), ("Stroma",), ("Fat*", "Adipose")))


def feature(name, *places, color=None):
    told = {"name": name} | ({} if color is None else {"color": color})
    geometry = {"type": "MultiPoint", "coordinates": [list(place) for place in places]}
    return {"type": "Feature", "geometry": geometry, "properties": {"classification": told}}


def write(path, *features):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Tumor", 0),
        (" tumor ", 0),
        ("Carcinoma in situ", 0),
        ("Stroma: dense", 1),
        ("Fat cells", 2),
        ("adipose", 2),
        ("Necrosis", None),
        ("", None),
        (None, None),
        ("1", None),
    ],
)
def test_a_label_is_the_place_in_the_list(name, label):
    assert LISTED.label_of(name) == label


def test_the_full_name_counts_before_the_base_class():
    listed = ClassList(("Tumor", "Positive"), (("Tumor",), ("Tumor: Positive",)))
    assert listed.label_of("Tumor: Positive") == 1
    assert listed.label_of("Tumor: Negative") == 0


@pytest.mark.parametrize(
    ("names", "patterns", "told"),
    [
        (("A",), (("A",),), "not two or more of different names"),
        (("A", "a"), (("A",), ("B",)), "not two or more of different names"),
        (("A", "B"), (("A",), ("a",)), "'a' stands for 'A', 'B'"),
        (("A", "B"), (("re:(",), ("b",)), "is no regular expression"),
        (("A", "B"), (("A",), (" ",)), "names no class"),
    ],
)
def test_impossible_lists_are_told(names, patterns, told):
    with pytest.raises(AnnotationError, match=told):
        ClassList(names, patterns)


def test_points_get_the_labels_and_the_colours_of_their_classes(tmp_path):
    path = write(
        tmp_path / "a.geojson",
        feature("Fat cells", (5, 5), color=[0, 80, 255]),
        feature("Tumor", (1, 2), (3, 4), color=[200, 0, 0]),
        feature("Carcinoma", (9, 9), color=[1, 2, 3]),
        feature("Stroma", (7, 7)),
        feature("Pen", (8, 8), color=[9, 9, 9]),
    )
    points = read_points(path, classes=LISTED)
    assert points.label.tolist() == [2, 0, 0, 0, 1]
    assert points.classes == ("Tumor", "Stroma", "Fat")
    assert points.labels == (0, 1, 2)
    assert points.colors == {2: (0, 80, 255), 0: (200, 0, 0)}
    assert points.notes == ("left out, none of 'Tumor', 'Stroma', 'Fat': points of 'Pen' (1)",)
    assert points.subset(np.array([0])).classes == points.classes


def test_two_classes_stay_without_names_and_colours(tmp_path):
    points = read_points(write(tmp_path / "a.geojson", feature("Tumor", (1, 2), color=[200, 0, 0])))
    assert (points.classes, points.colors, points.labels) == ((), {}, (1, 0))


def test_where_nothing_fits_the_classes_found_are_listed(tmp_path):
    path = write(tmp_path / "a.geojson", feature("Nerve", (1, 2), (3, 4)), feature("Pen", (5, 6)))
    expected = r"no point is of one of the classes 'Tumor', 'Stroma', 'Fat'; classes found: 'Nerve' \(2\), 'Pen' \(1\)"
    with pytest.raises(AnnotationError, match=expected + r" \(name them with --classes NAME,NAME=PATTERN\)"):
        read_points(path, classes=LISTED)


def test_a_name_of_two_classes_is_told(tmp_path):
    listed = ClassList(("A", "B"), (("x*",), ("*y",)))
    with pytest.raises(AnnotationError, match=r"class 'xy' is of 'A', 'B' \(make their patterns narrower\)"):
        read_points(write(tmp_path / "a.geojson", feature("xy", (1, 2))), classes=listed)


@pytest.mark.parametrize(("names", "close"), [(("Tumor", "Stroma"), 1), (("Fat", "Stroma"), 1), (("Fat", "Fat"), 0)])
def test_points_of_any_two_classes_on_one_spot_contradict_each_other(tmp_path, names, close):
    path = write(tmp_path / "a.geojson", feature(names[0], (10, 10)), feature(names[1], (14, 14)))
    points = read_points(path, classes=LISTED)
    findings = audit_points(points, width=99, height=99, allow_one_class=True, grid=CellGrid(5, 5, 20.0))
    assert [one.message for one in findings if one.kind == "contradiction"] == close * [
        findings[0].message if findings else ""
    ]
    if close:
        assert findings[0].message.startswith("1 points lie on the spot of one of another class")


def test_a_class_comes_back_from_what_files_keep():
    assert TissueClass.of({"name": "Fat", "color": [1, 2, 3]}) == TissueClass("Fat", (1, 2, 3))
    for damaged in ({"name": "Fat"}, {"name": 1, "color": [1, 2, 3]}, {"name": "Fat", "color": [1, 2]}, "Fat", None):
        with pytest.raises(ValueError, match="is no class"):
            TissueClass.of(damaged)


def test_masks_of_classes(tmp_path):
    from PIL import Image

    labels = np.array([[0, 1], [2, 3]], np.uint8)
    Image.fromarray(labels).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_class_mask(tmp_path / "m.png", classes=3), [[-1, 0], [1, 2]])
    with pytest.raises(AnnotationError, match=r"holds the value 3, the 2 classes are 1 to 2"):
        read_class_mask(tmp_path / "m.png", classes=2)
    Image.fromarray(labels.astype(np.int32) - 1).save(tmp_path / "m.tif")
    with pytest.raises(AnnotationError, match=r"holds the value -1, the 3 classes are 1 to 3"):
        read_class_mask(tmp_path / "m.tif", classes=3)

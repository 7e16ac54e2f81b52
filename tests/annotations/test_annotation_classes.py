"""Classes: which are in-target, and their colours."""

from __future__ import annotations

import pytest

from wsipipe.annotations.classes import ClassMap, choose_classes, class_color, describe_classes
from wsipipe.errors import AnnotationError


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Tumor", 1),
        (" tumor ", 1),
        ("Foreground", 1),
        ("POSITIVE", 1),
        ("Other", 0),
        ("Stroma", 0),
        ("Background", 0),
        ("Negative", 0),
        ("Ignore*", 0),
        ("Ignore", 0),
        ("Necrosis", None),
        ("Tumors", None),
        ("", None),
        (None, None),
        ("1", 1),
        ("0", 0),
        ("2", None),
    ],
)
def test_default_classes(name, label):
    assert ClassMap().label_of(name) == label


def test_derived_classes_go_by_full_name_then_by_base():
    classes = ClassMap(positive=("Tumor",), negative=("Tumor: Necrotic", "Stroma"))
    assert classes.label_of("Tumor: Positive") == 1
    assert classes.label_of("Tumor: Necrotic") == 0
    assert classes.label_of("Immune cells: Tumor") is None


def test_wildcards_are_not_regular_expressions_but_re_is():
    classes = ClassMap(positive=("Gland (benign)?",), negative=("re:str.+|fat",))
    assert classes.label_of("gland (benign)2") == 1
    assert classes.label_of("Gland benign2") is None
    assert classes.label_of("Stroma") == 0
    assert classes.label_of("Fat tissue") is None


def test_numeric_labels_give_way_to_patterns():
    assert ClassMap(positive=("0",), negative=("1",)).label_of("0") == 1


def test_a_class_on_both_sides_is_refused():
    with pytest.raises(AnnotationError, match=r"'tumor'.*both.*--positive"):
        ClassMap(positive=("Tumor",), negative=("tumor ",))
    with pytest.raises(AnnotationError, match=r"'Tumor edge' is in-target by 'Tumor\*' and out-of-target by '\*edge'"):
        ClassMap(positive=("Tumor*",), negative=("*edge",)).label_of("Tumor edge")


@pytest.mark.parametrize("pattern", ["", "  ", "re:", "re:("])
def test_a_pattern_that_says_nothing_is_refused(pattern):
    with pytest.raises(AnnotationError, match=r"names no class|no regular expression"):
        ClassMap(positive=(pattern,))


def test_a_default_gives_way_to_what_the_user_named():
    classes = choose_classes(positive=("stroma",))
    assert classes.label_of("Stroma") == 1
    assert classes.label_of("Other") == 0
    assert classes.label_of("Tumor") is None
    assert choose_classes() == ClassMap()
    assert choose_classes(negative=("Tumor",)).positive == ("Foreground", "Positive")


def test_known_colours_are_those_of_qupath():
    known = {
        "Tumor": (200, 0, 0),
        "Stroma": (150, 200, 150),
        "Immune cells": (160, 90, 160),
        "Necrosis": (50, 50, 50),
        "Other": (255, 200, 0),
        "Ignore*": (180, 180, 180),
    }
    assert {name: class_color(name) for name in known} == known
    assert class_color("tumor") == known["Tumor"]
    assert class_color(None) == class_color("")


def test_unknown_colours_depend_on_the_name_alone():
    names = [f"Class {i}" for i in range(50)]
    colors = [class_color(name) for name in names]
    assert colors == [class_color(name.upper()) for name in names]
    assert len(set(colors)) > 45
    assert all(0 <= value <= 255 for color in colors for value in color)
    # The value itself is pinned: a mask written today and one written next year must agree.
    assert class_color("Gland") == (26, 196, 77)


def test_description_lists_classes_with_counts():
    assert describe_classes(["b", "a", None, "b", "a", "b"]) == "'b' (3), 'a' (2), no class (1)"

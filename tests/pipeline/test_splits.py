from __future__ import annotations

from pathlib import Path

import numpy as np

from wsipipe.pipeline.manifest import ManifestRow
from wsipipe.pipeline.samples import CellPoints
from wsipipe.pipeline.splits import PointedSlide, split_slides


def slide(key, labels, *, patient=None, split=None):
    row = ManifestRow(key, Path(key), Path(key), None, patient or key, split, None)
    label = np.array(labels, np.int64)
    cells = np.stack([np.arange(len(label)), np.full(len(label), ord(key[0]))], axis=1)
    return PointedSlide(row, None, CellPoints(cells, label))


def keys(slides):
    return {one.row.key for one in slides}


def test_split_column_decides():
    slides = [slide("a", [0, 1], split="train"), slide("b", [0, 1], split="val"), slide("c", [0, 1], split="test")]
    split = split_slides(slides, fraction=0.2, seed=0)
    assert (keys(split.train), keys(split.validation)) == ({"a"}, {"b"})
    assert "1 slides train, 1 validate" in split.note


def test_patients_stay_on_one_side():
    slides = [slide(f"{patient}{i}", [0, 1], patient=f"P{patient}") for patient in range(10) for i in range(3)]
    split = split_slides(slides, fraction=0.2, seed=3)
    train, validation = ({one.row.patient for one in side} for side in (split.train, split.validation))
    assert len(validation) == 2
    assert train | validation == {f"P{i}" for i in range(10)}
    assert not train & validation
    assert len(split.train) + len(split.validation) == 30


def test_draw_follows_the_seed():
    slides = [slide(str(i), [0, 1]) for i in range(20)]
    first, again, other = (keys(split_slides(slides, fraction=0.2, seed=seed).validation) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len(first) == 4


def test_few_slides_hold_out_points_of_both_classes():
    slides = [slide("a", [1] * 7 + [0] * 9), slide("b", [1, 1, 0, 0, 0])]
    split = split_slides(slides, fraction=0.2, seed=0)
    held = {one.row.key: one.points for one in split.validation}
    kept = {one.row.key: one.points for one in split.train}
    assert sorted(held["a"].label.tolist()) == [0, 0, 1]  # 20% of 9 and of 7, rounded
    assert held["b"].label.tolist() == [0]  # two in-target points are too few to give one away
    for one in slides:
        key = one.row.key
        both = np.concatenate([held[key].cells, kept[key].cells])
        assert sorted(both.tolist()) == sorted(one.points.cells.tolist())
    assert "4 of 21 points validate" in split.note


def test_very_few_points_serve_both_ends():
    slides = [slide("a", [1, 1, 0, 0, 0, 0])]
    split = split_slides(slides, fraction=0.2, seed=0)
    assert split.train == split.validation == tuple(slides)
    assert "same points train and validate" in split.note

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsipipe.annotations.classes import TissueClass
from wsipipe.annotations.masks import read_class_mask, read_mask
from wsipipe.annotations.points import PointSet
from wsipipe.errors import AnnotationError
from wsipipe.geometry import CellGrid
from wsipipe.pipeline.samples import (
    CellPoints,
    Sample,
    WindowCache,
    cells_of_points,
    cut_windows,
    draw_pairs,
    label_map,
    truth_of,
)
from wsipipe.slides import SlideEntry
from wsipipe.store.raster import as_mask, write_pyramid


@dataclass
class Fake:
    """A source in memory that counts how often it is read."""

    grid: CellGrid = field(default_factory=lambda: CellGrid(rows=6, cols=8, cell_px=10.0))
    invalid: tuple[tuple[int, int], ...] = ()
    entry: SlideEntry = field(default_factory=lambda: SlideEntry("slide", Path("slide.svs")))
    channels: int = 2
    slide_size: tuple[int, int] = (80, 60)
    reads: int = 0

    def read(self, rows, cols):
        self.reads += 1
        whole = np.arange(6 * 8 * 2, dtype=np.float16).reshape(6, 8, 2)
        return whole[rows, cols]

    def read_valid(self, rows, cols):
        whole = np.ones(self.grid.shape, bool)
        for cell in self.invalid:
            whole[cell] = False
        return whole[rows, cols]


def points(*items):
    xy = np.array([item[:2] for item in items], float)
    label = np.array([item[2] for item in items], np.int64)
    return PointSet(xy, label, tuple("Tumor" if one else "Stroma" for one in label))


def sample(source, cells, label, **options):
    whole = (slice(0, source.grid.rows), slice(0, source.grid.cols))
    return Sample(source, *whole, CellPoints(np.array(cells), np.array(label)), **options)


def test_points_become_cells_and_those_past_the_last_cell_join_it():
    source = Fake(grid=CellGrid(rows=6, cols=7, cell_px=10.0))
    cells, dropped = cells_of_points(points((5, 25, 1), (79.9, 59.9, 0)), source)
    assert cells.cells.tolist() == [[2, 0], [5, 6]]
    assert cells.label.tolist() == [1, 0]
    assert dropped == 0


def test_out_of_target_points_on_glass_are_dropped_and_counted():
    cells, dropped = cells_of_points(points((5, 5, 1), (15, 5, 0), (35, 5, 0)), Fake(invalid=((0, 1),)))
    assert cells.cells.tolist() == [[0, 0], [0, 3]]
    assert dropped == 1


def test_in_target_points_on_glass_are_refused():
    with pytest.raises(AnnotationError, match=r"1 in-target points lie off the tissue, the first at \(15, 5\) px"):
        cells_of_points(points((5, 5, 1), (15, 5, 1), (35, 5, 0)), Fake(invalid=((0, 1),)))


def test_labels_are_squares_cut_at_the_edge():
    labels = label_map(sample(Fake(), [[0, 0], [4, 5]], [1, 0], point_width=3), np.ones((6, 8), bool))
    expected = np.full((6, 8), -1)
    expected[0:2, 0:2] = 1
    expected[3:6, 4:7] = 0
    assert labels.dtype == np.int8
    np.testing.assert_array_equal(labels, expected)


def test_contested_cells_stay_unlabelled_except_the_points_themselves():
    labels = label_map(sample(Fake(), [[2, 2], [2, 3]], [1, 0], point_width=3), np.ones((6, 8), bool))
    expected = np.full((6, 8), -1)
    expected[1:4, 1], expected[1:4, 4] = 1, 0
    expected[2, 2], expected[2, 3] = 1, 0
    np.testing.assert_array_equal(labels, expected)


def test_no_label_on_cells_without_content():
    valid = np.ones((6, 8), bool)
    valid[3] = False
    labels = label_map(sample(Fake(), [[2, 2]], [1], point_width=3), valid)
    assert (labels[3] == -1).all()
    assert (labels == 1).sum() == 6


def test_pairs_are_drawn_by_seed_and_slide():
    many = points(*[(i, i, i % 2) for i in range(40)])
    drawn = draw_pairs(many, 3, seed=1, key="a")
    assert (len(drawn.in_target), len(drawn.out_of_target)) == (3, 3)
    np.testing.assert_array_equal(drawn.xy, draw_pairs(many, 3, seed=1, key="a").xy)
    assert drawn.xy.tolist() != draw_pairs(many, 3, seed=2, key="a").xy.tolist()
    assert drawn.xy.tolist() != draw_pairs(many, 3, seed=1, key="b").xy.tolist()
    assert draw_pairs(many, None, seed=1, key="a") is many
    assert len(draw_pairs(many, 50, seed=1, key="a")) == 40


def test_windows_hold_their_points_in_their_own_cells():
    source = Fake()
    cells = CellPoints(np.array([[0, 0], [5, 7]]), np.array([1, 0]))
    samples = cut_windows(source, cells, window=4, point_width=1, mask=None)
    assert len(samples) == 2
    for one in samples:
        corner = np.array([one.rows.start, one.cols.start])
        assert ((one.points.cells + corner)[0] == cells.cells[cells.label == one.points.label[0]][0]).all()
    assert len({one.name for one in samples}) == 2


def test_cache_reads_once_and_forgets_the_longest_unused():
    source = Fake()
    a, b, c = (Sample(source, slice(i, i + 2), slice(0, 8), CellPoints(np.zeros((0, 2), int), np.zeros(0, int)))
               for i in (0, 2, 4))  # fmt: skip
    one = WindowCache().get(a).nbytes
    cache = WindowCache(max_bytes=2 * one)
    source.reads = 0
    cache.get(a), cache.get(b), cache.get(a)
    assert source.reads == 2
    cache.get(c)  # b goes
    cache.get(a)
    assert source.reads == 3
    cache.get(b)
    assert source.reads == 4
    assert cache.nbytes <= 2 * one
    assert WindowCache(max_bytes=0).get(a).nbytes == one


def test_inputs_are_channels_first_and_images_lie_in_0_1():
    data = WindowCache().get(sample(Fake(), [[0, 0]], [1]))
    inputs = data.inputs()
    assert inputs.shape == (2, 6, 8)
    assert inputs.dtype == np.float32
    assert inputs[1, 0, 3] == 7.0
    picture = type(data)(np.full((2, 3, 3), 255, np.uint8), np.ones((2, 3), bool), None)
    np.testing.assert_array_equal(picture.inputs(), np.ones((3, 2, 3), np.float32))


def write_mask(path, values):
    Image.fromarray(values).save(path)
    return path


def test_truth_is_the_mask_at_the_centre_of_each_cell():
    mask = np.zeros((60, 80), np.uint8)
    mask[25, 35] = 7  # the centre of cell (2, 3), any value but zero
    mask[0:5, 0:5] = 1  # not the centre of cell (0, 0), which is px (5, 5)
    truth = truth_of(mask > 0, Fake(), slice(1, 6), slice(2, 8))
    assert np.argwhere(truth).tolist() == [[1, 1]]


def test_coarser_mask_is_enlarged():
    mask = np.array([[0, 255, 0, 0], [0, 0, 0, 255], [0, 0, 0, 0]], np.uint8)
    truth = truth_of(mask > 0, Fake(), slice(0, 6), slice(0, 8))
    np.testing.assert_array_equal(truth, np.kron(mask > 0, np.ones((2, 2), bool)))


def test_mask_of_another_slide_is_refused():
    with pytest.raises(AnnotationError, match="is 60 x 80 px, its slide 80 x 60 px"):
        truth_of(np.zeros((80, 60), bool), Fake(), slice(0, 6), slice(0, 8))


def test_a_mask_of_ours_that_reaches_past_the_slide_keeps_its_scale(tmp_path):
    grid = CellGrid.covering(1026, 1026, 32.0)
    mask = np.random.default_rng(0).random(grid.shape) < 0.5
    write_pyramid(tmp_path / "s.mask.tif", [as_mask(mask)], grid=grid, mpp=None)
    source, whole = Fake(grid=grid, slide_size=(1026, 1026)), slice(0, 33)
    truth = truth_of(read_mask(tmp_path / "s.mask.tif"), source, whole, whole, path=tmp_path / "s.mask.tif")
    np.testing.assert_array_equal(truth, mask)


def test_several_classes_are_not_taken_for_one_target(tmp_path):
    path, whole = tmp_path / "s.mask.tif", (slice(0, 6), slice(0, 8))
    labels, classes = np.full((6, 8), 2, np.uint8), [TissueClass("A", (1, 2, 3)), TissueClass("B", (4, 5, 6))]
    write_pyramid(path, [labels], grid=Fake().grid, mpp=None, classes=classes)
    with pytest.raises(AnnotationError, match="holds the classes A, B, not one target and the rest"):
        truth_of(read_mask(path), Fake(), *whole, path=path)
    assert (truth_of(read_class_mask(path, classes=2), Fake(), *whole, path=path) == 1).all()


def test_a_mask_is_decoded_once_for_all_windows_of_a_slide(tmp_path, monkeypatch):
    decoded = []

    def counted(path):
        decoded.append(path.name)
        return read_mask(path)

    monkeypatch.setattr("wsipipe.pipeline.samples.read_mask", counted)
    masks = [np.random.default_rng(seed).integers(0, 2, (6, 8), np.uint8) for seed in range(2)]
    none = CellPoints(np.zeros((0, 2), int), np.zeros(0, int))
    samples = [
        Sample(
            Fake(entry=SlideEntry(f"s{i}", Path(f"s{i}.svs"))), slice(row, row + 3), slice(1, 8), none,
            mask=write_mask(tmp_path / f"m{i}.png", mask),
        )
        for i, mask in enumerate(masks)
        for row in (0, 3)
    ]  # fmt: skip
    cache = WindowCache(max_bytes=0)  # holds one window only
    for one in [*samples, *samples[::-1], samples[2], samples[0]]:
        row, whole = one.rows.start, masks[int(one.source.entry.key[1])]
        np.testing.assert_array_equal(cache.get(one).truth, whole[row : row + 3, 1:8] == 1)
    assert decoded == ["m0.png", "m1.png"]


def test_labels_of_several_classes_are_those_that_one_class_alone_claims():
    cells, label = [[1, 1], [1, 3], [4, 6]], [0, 2, 1]
    found = label_map(sample(Fake(), cells, label, point_width=3, classes=3), np.ones((6, 8), bool))
    expected = np.full((6, 8), -1)
    expected[0:3, 0:2] = 0
    expected[0:3, 3:5] = 2
    expected[3:6, 5:8] = 1
    np.testing.assert_array_equal(found, expected)
    wider = label_map(sample(Fake(), [[1, 1], [1, 2]], [0, 2], point_width=3, classes=3), np.ones((6, 8), bool))
    assert wider[0].tolist() == [0, -1, -1, 2, -1, -1, -1, -1]
    assert wider[1].tolist() == [0, 0, 2, 2, -1, -1, -1, -1]

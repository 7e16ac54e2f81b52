from __future__ import annotations

import numpy as np

from wsipipe.annotations.classes import TissueClass
from wsipipe.geometry import CellGrid
from wsipipe.numerics.polygons import rasterize
from wsipipe.pipeline.class_bands import BAND_ROWS, ClassBands, OneClass, class_regions, label_bands
from wsipipe.store.raster import write_pyramid

CLASSES = (TissueClass("A", (200, 0, 0)), TissueClass("B", (0, 200, 0)), TissueClass("C", (0, 0, 200)))


def test_the_most_probable_class_counts_and_of_equals_the_first():
    band = np.array([[[10, 200, 45], [85, 85, 85], [0, 0, 0], [0, 0, 1]]], np.uint8)
    (labels,) = label_bands([band])
    assert labels.tolist() == [[2, 1, 0, 3]]


def test_regions_over_several_bands_are_those_of_the_labels(tmp_path):
    """Blocks of random probabilities, over more than one band."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (13, 6, 3)) * (rng.random((13, 6, 1)) > 0.2)
    probability = np.repeat(np.repeat(blocks, 50, axis=0), 50, axis=1).astype(np.uint8)
    assert len(probability) > BAND_ROWS
    grid = CellGrid(*probability.shape[:2], 2.0)
    path = tmp_path / "p.tif"
    write_pyramid(path, [probability], grid=grid, mpp=1.0, reduce="mean", classes=CLASSES)
    bands = ClassBands(path, CLASSES)
    labels = np.concatenate(list(bands))
    regions = bands.regions(grid, 0.5)
    for value, of in enumerate(CLASSES, start=1):
        own = [region for region in regions if region.class_name == of.name]
        assert {region.color for region in own} == {of.color}
        np.testing.assert_array_equal(rasterize([region.geometry for region in own], grid), labels == value)
        told = bands.figures(regions)[of.name]
        assert told == {
            "value": value,
            "color": list(of.color),
            "regions": len(own),
            "pixels": (labels == value).sum(),
        }
        total = sum(region.geometry.area * region.measurements["Mean probability"] for region in own) / 4
        assert np.isclose(total, probability[..., value - 1][labels == value].sum() / 255)
    plain = class_regions([labels], grid, CLASSES, mpp=None, probability=None)
    assert [region.geometry for region in plain] == [region.geometry for region in regions]
    assert list(plain[0].measurements) == ["Area px^2"]


def test_one_class_is_a_mask_that_can_be_read_again():
    mask = OneClass([np.array([[0, 1], [2, 1]])], 1)
    for _ in range(2):
        assert [band.tolist() for band in mask] == [[[False, True], [False, True]]]

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsipipe.errors import NumericsError, StoreError
from wsipipe.store.images import write_png


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7), (1, 1), (1, 1, 3)])
def test_pictures_come_back(tmp_path: Path, shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    write_png(tmp_path / "new" / "x.png", picture)
    with Image.open(tmp_path / "new" / "x.png") as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), picture)


def test_views_are_written_as_seen(tmp_path: Path) -> None:
    picture = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    write_png(tmp_path / "x.png", picture[::-1, ::2])
    with Image.open(tmp_path / "x.png") as image:
        np.testing.assert_array_equal(np.asarray(image), picture[::-1, ::2])


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8), np.zeros((0, 4), np.uint8)]
)
def test_other_arrays_are_refused(tmp_path: Path, wrong: np.ndarray) -> None:
    with pytest.raises(NumericsError, match=r"a picture is \(h, w, 3\) or \(h, w\) uint8, got"):
        write_png(tmp_path / "x.png", wrong)
    assert not any(tmp_path.iterdir())


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(StoreError, match="choose another output folder"):
        write_png(tmp_path / "out" / "x.png", np.zeros((2, 2), np.uint8))

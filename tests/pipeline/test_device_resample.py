"""Resampling on a device: what the CPU gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsipipe.pipeline.device_resample import resample_on_device
from wsipipe.slides.resample import linear_taps, resample


def compare(device: torch.device, ratio: float) -> None:
    rng = np.random.default_rng(0)
    starts = [(0, 0), (-7, 1000), (311, 12)]
    rows = [linear_taps(y, 37, ratio) for y, _ in starts]
    cols = [linear_taps(x, 23, ratio) for _, x in starts]
    shapes = [(y.stop - y.start, x.stop - x.start, 3) for y, x in zip(rows, cols, strict=True)]
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    source = np.full((3, *np.max(shapes, axis=0)), 77, np.uint8)
    for place, image in zip(source, images, strict=True):
        place[: image.shape[0], : image.shape[1]] = image
    ours = resample_on_device(torch.from_numpy(source).to(device), rows, cols)
    assert ours.is_contiguous()
    for got, image, y, x in zip(ours.cpu().numpy(), images, rows, cols, strict=True):
        assert np.array_equal(got, resample(image, y, x))


@pytest.mark.parametrize("ratio", [0.4, 0.99, 1.37, 2.0, 3.3])
def test_all_images_come_out_as_one_by_one_in_numpy(ratio: float) -> None:
    compare(torch.device("cpu"), ratio)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("ratio", [0.4, 1.37, 3.3])
def test_cuda_agrees_to_the_last_bit(ratio: float) -> None:
    compare(torch.device("cuda:0"), ratio)

"""JPEG streams decoded on a device."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import simplejpeg
import torch
from numpy.typing import NDArray

from tilemaker import jpeg, tiles_of
from wsipipe.models.jpeg_decoding import UndecodableError, decode_jpegs

# torchvision 0.29 announces that its decoder will go.
pytestmark = pytest.mark.filterwarnings("ignore:.*TorchVision are deprecated:DeprecationWarning")
CPU = torch.device("cpu")


@pytest.mark.parametrize(("space", "subsampling"), [("ycbcr", "444"), ("ycbcr", "420"), ("rgb", "444"), ("gray", "")])
def test_pixels_are_those_of_the_slides_decoder(picture: NDArray[np.uint8], space: str, subsampling: str) -> None:
    streams = [jpeg(tile, space, subsampling) for tile in tiles_of(picture[200:400, 200:400], 96, 80)]
    for got, stream in zip(decode_jpegs(streams, CPU), streams, strict=True):
        assert np.array_equal(got.numpy(), simplejpeg.decode_jpeg(stream, "RGB"))


def test_no_streams_no_images() -> None:
    assert decode_jpegs([], CPU) == []


def test_damage_is_told(picture: NDArray[np.uint8]) -> None:
    with pytest.raises(UndecodableError):
        decode_jpegs([jpeg(picture[:64, :64], "ycbcr"), b"no JPEG at all"], CPU)


def test_a_torchvision_without_the_decoder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.io", None)
    with pytest.raises(UndecodableError, match=r"torchvision\.io"):
        decode_jpegs([b"anything"], CPU)

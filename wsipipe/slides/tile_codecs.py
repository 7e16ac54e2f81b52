"""Decode single tiles of TIFF files: the only place that imports the JPEG decoder."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import imagecodecs
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from wsipipe.slides.jpeg_stream import JpegStream

JPEG, NONE, LZW, DEFLATE, OLD_DEFLATE, JPEG_2000, APERIO_JPEG_2000_RGB = 7, 1, 5, 8, 32946, 34712, 33005
MIN_IS_BLACK, RGB, YCBCR = 1, 2, 6
# What the decoders raise on damaged data; those of imagecodecs are RuntimeErrors.
_FAILURES = (ValueError, RuntimeError, TypeError, OSError, EOFError, zlib.error)
# By which the decoder of JPEG shrinks while it decodes.
FACTORS = (2, 4, 8)


class TileError(Exception):
    """A tile that cannot be decoded; says why, not where."""


@dataclass(frozen=True)
class TileFormat:
    """How the tiles of a page are stored: numbers as in the TIFF tags.

    Parameters
    ----------
    compression, photometric, predictor, samples : int
        Tags 259, 262, 317 and 277.
    width, height : int
        Size of a tile in px.
    tables : bytes
        Tag JPEGTables (347); empty where there is none.
    """

    compression: int
    photometric: int
    predictor: int
    samples: int
    width: int
    height: int
    tables: bytes = b""


Decoder = Callable[[bytes, NDArray[np.uint8]], None]
"""Decodes the bytes of a tile into a C-contiguous (height, width, 3) uint8 array; TileError where it cannot."""


def tile_decoder(form: TileFormat) -> Decoder | None:
    """Find the decoder of a format; None where there is none."""
    decode = _pick(form)
    return None if decode is None else _checked(decode)


def scaled_decoders(form: TileFormat) -> dict[int, Decoder]:
    """Find decoders that give tiles smaller by a factor, into smaller arrays: from fewer DCT coefficients of JPEG."""
    if form.compression != JPEG or _pick(form) is None:
        return {}
    fitting = [factor for factor in FACTORS if form.width % factor == form.height % factor == 0]
    return {factor: _checked(_jpeg(form, factor)) for factor in fitting}


def _checked(decode: Decoder) -> Decoder:
    def checked(data: bytes, out: NDArray[np.uint8]) -> None:
        try:
            decode(data, out)
        except _FAILURES as error:
            raise TileError(" ".join(str(error).split()) or type(error).__name__) from error

    return checked


def jpeg_stream(form: TileFormat) -> JpegStream | None:
    """Make what completes the tiles of a format; None where they are no JPEG."""
    return _stream(form) if form.compression == JPEG else None


def _stream(form: TileFormat) -> JpegStream:
    return JpegStream(form.tables, ycbcr=form.photometric == YCBCR)


def _pick(form: TileFormat) -> Decoder | None:
    known = {1: (MIN_IS_BLACK,), 3: (RGB, YCBCR) if form.compression == JPEG else (RGB,)}
    if form.photometric not in known.get(form.samples, ()):
        return None
    if form.compression == JPEG:
        return _jpeg(form)
    if form.compression in (JPEG_2000, APERIO_JPEG_2000_RGB):
        return _jpeg_2000
    return _lossless(form) if form.predictor in (1, 2) else None


def _jpeg(form: TileFormat, factor: int = 1) -> Decoder:
    stream = _stream(form)
    # simplejpeg takes the smallest size that is not below these.
    least = {"min_height": form.height // factor, "min_width": form.width // factor} if factor > 1 else {}

    def decode(data: bytes, out: NDArray[np.uint8]) -> None:
        # Strict by default: what libjpeg only warns of (a stream that ends early, lost bits) is an error.
        _check_shape(simplejpeg.decode_jpeg(stream.complete(data), "RGB", buffer=out, **least).shape, out.shape)

    return decode


def _jpeg_2000(data: bytes, out: NDArray[np.uint8]) -> None:
    pixels = imagecodecs.jpeg2k_decode(data)
    _check_shape(pixels.shape[:2], out.shape[:2])
    out[...] = pixels if pixels.ndim == 3 else pixels[..., np.newaxis]


def _lossless(form: TileFormat) -> Decoder | None:
    codecs: dict[int, Callable[[bytes], bytes | bytearray]] = {
        NONE: bytes,
        LZW: imagecodecs.lzw_decode,
        DEFLATE: imagecodecs.zlib_decode,
        OLD_DEFLATE: imagecodecs.zlib_decode,
    }
    unpack = codecs.get(form.compression)
    if unpack is None:
        return None
    shape = form.height, form.width, form.samples

    def decode(data: bytes, out: NDArray[np.uint8]) -> None:
        samples = np.frombuffer(unpack(data), np.uint8)
        if samples.size < np.prod(shape):
            raise ValueError(f"{samples.size} bytes for {form.width} x {form.height} px")
        pixels = samples[: np.prod(shape)].reshape(shape)
        # Horizontal differences (TIFF 6.0, section 14); sums of uint8 wrap around as they should.
        out[...] = np.cumsum(pixels, axis=1, dtype=np.uint8) if form.predictor == 2 else pixels

    return decode


def _check_shape(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise ValueError(f"it has {shape[1]} x {shape[0]} px, not {expected[1]} x {expected[0]}")

"""JPEG streams are completed with tables and with the colours that the TIFF tags tell."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg

from wsipipe.slides.jpeg_stream import JpegStream, without_colour_markers


@pytest.fixture(scope="module")
def stream(picture):
    """A JFIF stream of YCbCr samples."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(picture[200:264, 200:280]), quality=90, colorsubsampling="444")


def segments(stream):
    """(marker, segment) up to the start of scan, and the rest."""
    found, at = [], 2
    while stream[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4])
        found.append((stream[at + 1], stream[at:end]))
        at = end
    return found, stream[at:]


def test_colour_markers_go_and_nothing_else(stream):
    before, scan = segments(stream)
    after, kept_scan = segments(without_colour_markers(stream))
    assert [marker for marker, _ in before if marker in (0xE0, 0xEE)]
    assert after == [(marker, data) for marker, data in before if marker not in (0xE0, 0xEE)]
    assert kept_scan == scan


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"no JPEG at all", b"\xff\xd8\xff\xe0\xff\xff1"])
def test_what_is_no_stream_stays_broken(data):
    with pytest.raises(ValueError, match=r"\w"):
        simplejpeg.decode_jpeg(JpegStream(b"", ycbcr=True).complete(without_colour_markers(data)) or b"-")


def test_abbreviated_tiles_are_whole_with_their_tables(stream):
    parts, scan = segments(stream)
    tables = b"\xff\xd8" + b"".join(data for marker, data in parts if marker in (0xDB, 0xC4)) + b"\xff\xd9"
    tile = b"\xff\xd8" + b"".join(data for marker, data in parts if marker not in (0xDB, 0xC4)) + scan
    with pytest.raises(ValueError, match="table"):
        simplejpeg.decode_jpeg(tile)
    whole = JpegStream(tables, ycbcr=True).complete(tile)
    assert np.array_equal(simplejpeg.decode_jpeg(whole), simplejpeg.decode_jpeg(stream))


@pytest.mark.parametrize("marker", ["none", "jfif", "adobe 0", "adobe 1"])
@pytest.mark.parametrize("ycbcr", [False, True])
def test_the_tags_of_the_file_decide_on_colours(stream, marker, ycbcr):
    """Whatever the tile says: as YCbCr its colours are converted, as RGB its samples come as they are."""
    bare = without_colour_markers(stream)
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
    put = {"none": b"", "jfif": None, "adobe 0": adobe + b"\0", "adobe 1": adobe + b"\1"}[marker]
    tile = stream if put is None else bare[:2] + put + bare[2:]
    samples = simplejpeg.decode_jpeg(bare[:2] + adobe + b"\0" + bare[2:])
    converted = simplejpeg.decode_jpeg(stream)
    assert np.abs(samples.astype(int) - converted).max() > 50
    shown = simplejpeg.decode_jpeg(JpegStream(b"", ycbcr=ycbcr).complete(tile))
    assert np.array_equal(shown, converted if ycbcr else samples)

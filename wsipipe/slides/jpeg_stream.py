"""Make a JPEG tile of a TIFF file a stream that any decoder understands, in the colours that the file says.

A tile may come abbreviated: its quantisation and Huffman tables stand once in the tag JPEGTables of the page
(Technical Note 2 to TIFF 6.0). How its samples are to be understood stands in the tag PhotometricInterpretation; a
decoder that is given the tile alone goes by a JFIF marker (YCbCr), then by Adobe's marker, then guesses.
"""

from __future__ import annotations

_START, _SCAN, _END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_START_OF_SCAN, _JFIF, _ADOBE = 0xDA, 0xE0, 0xEE


class JpegStream:
    """Complete the tiles of one page.

    Parameters
    ----------
    tables : bytes
        Tag JPEGTables; empty where the page has none.
    ycbcr : bool
        Whether three samples are YCbCr (converted while decoding) or RGB (taken as they are).
    """

    def __init__(self, tables: bytes, *, ycbcr: bool) -> None:
        inner = without_colour_markers(tables)[len(_START) :].removesuffix(_END)
        self._head = _START + _adobe_marker(transform=int(ycbcr)) + inner
        # JFIF agrees with YCbCr and may stay; a marker of Adobe's behind ours would overrule it.
        self._overruling = (b"Adobe",) if ycbcr else (b"Adobe", b"JFIF\0")

    def complete(self, tile: bytes) -> bytes:
        """Stream with tables and the right colour marker of a tile as it stands in the file."""
        header = tile.find(_SCAN)
        for name in self._overruling:
            if tile.find(name, 0, header) >= 0:
                tile = without_colour_markers(tile)
        return self._head + tile[len(_START) :] if tile.startswith(_START) else tile


def without_colour_markers(stream: bytes) -> bytes:
    """Stream without its APP0 and APP14 segments; as it is where its segments cannot be followed."""
    kept, at = [_START], len(_START)
    while at + 4 <= len(stream) and stream[at] == 0xFF and stream[at + 1] != _START_OF_SCAN:
        marker, following = stream[at + 1], at + 2 + int.from_bytes(stream[at + 2 : at + 4])
        if marker not in (_JFIF, _ADOBE):
            kept.append(stream[at:following])
        at = following
    return b"".join(kept) + stream[at:] if stream.startswith(_START) else stream


def _adobe_marker(*, transform: int) -> bytes:
    """APP14 segment: version 100, no flags, and the colour transform (0: RGB, 1: YCbCr)."""
    return b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])

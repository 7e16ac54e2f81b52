"""Bytes and text of annotation files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from wsipipe.annotations.files import decode, read_content
from wsipipe.errors import AnnotationError


def test_gzip_is_known_by_content(tmp_path):
    path = tmp_path / "points.geojson"
    path.write_bytes(gzip.compress(b"[1]"))
    assert read_content(path) == b"[1]"
    path.write_bytes(b"[1]")
    assert read_content(path) == b"[1]"


def test_what_cannot_be_read_is_told(tmp_path):
    with pytest.raises(AnnotationError, match=r"gone.xml: cannot be read: No such file"):
        read_content(tmp_path / "gone.xml")
    with pytest.raises(AnnotationError, match="cannot be read: Is a directory"):
        read_content(tmp_path)


@pytest.mark.parametrize("content", [b"", b" \n", gzip.compress(b"")])
def test_empty_files(tmp_path, content):
    path = tmp_path / "empty"
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match="is empty"):
        read_content(path)


def test_damaged_gzip(tmp_path):
    whole = gzip.compress(bytes(range(256)) * 100)
    middle = len(whole) // 2
    for damaged in (whole[:-9], whole[:5], whole[:middle] + b"\xff\xff\xff" + whole[middle + 3 :]):
        path = tmp_path / "cut.gz"
        path.write_bytes(damaged)
        with pytest.raises(AnnotationError, match="damaged gzip"):
            read_content(path)


def test_a_gzip_bomb_stops_at_the_limit(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(8 << 20)))
    with pytest.raises(AnnotationError, match="more than 1 MiB"):
        read_content(path, max_bytes=1 << 20)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_encodings(encoding):
    assert decode("T\u00fcmor,1".encode(encoding), path=Path("x")) == "T\u00fcmor,1"


@pytest.mark.parametrize("data", [b"a\x00b", b"\xff\xfe\x00\xd8"])
def test_binary_is_no_text(data):
    with pytest.raises(AnnotationError, match="is no text file"):
        decode(data, path=Path("x"))

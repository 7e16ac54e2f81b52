"""DICOM files with just enough in them to belong to a series."""

from __future__ import annotations

import struct


def write_dicom(path, uid, *, body=b""):
    element = b"\x20\x00\x0e\x00UI" + struct.pack("<H", len(uid) + len(uid) % 2) + uid.encode() + b"\0" * (len(uid) % 2)
    path.write_bytes(bytes(128) + b"DICM" + element + body)
    return path

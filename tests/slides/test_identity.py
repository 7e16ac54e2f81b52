"""A slide is recognised by its content."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from dicommaker import write_dicom
from wsipipe.errors import SlideError
from wsipipe.slides import slide_files, slide_identity


def test_moved_and_renamed_it_stays_the_same(slide_path, tmp_path):
    other = shutil.copy(slide_path, tmp_path / "other.svs")
    identity = slide_identity(slide_path)
    assert identity == slide_identity(other)
    assert len(identity) == 32
    assert int(identity, 16)


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_one_byte_changes_it(slide_path, tmp_path, place):
    data = bytearray(slide_path.read_bytes())
    data[place] ^= 1
    other = tmp_path / "other.svs"
    other.write_bytes(data)
    assert slide_identity(other) != slide_identity(slide_path)


def test_large_files_are_sampled_from_first_to_last_byte(tmp_path):
    data = np.random.default_rng(0).integers(0, 256, 9 << 20, dtype=np.uint8)
    path = tmp_path / "large.svs"
    data.tofile(path)
    identity = slide_identity(path)
    for place in (0, 70_000, -1):
        changed = data.copy()
        changed[place] ^= 1
        changed.tofile(path)
        assert (slide_identity(path) != identity) == (place != 70_000)
    data[:-1].tofile(path)
    assert slide_identity(path) != identity


def test_dicom_counts_the_whole_series(tmp_path):
    a, b = (write_dicom(tmp_path / f"{name}.dcm", "1.2", body=name.encode()) for name in "ab")
    assert slide_identity(a) == slide_identity(b) == slide_identity(tmp_path)
    write_dicom(b, "1.2", body=b"c")
    changed = slide_identity(a)
    write_dicom(b, "1.2", body=b"b")
    assert changed != slide_identity(a)


def test_mirax_counts_its_folder(tmp_path):
    main, folder = tmp_path / "s.mrxs", tmp_path / "s"
    main.write_bytes(b"x")
    alone = slide_identity(main)
    folder.mkdir()
    (folder / "Data0000.dat").write_bytes(b"1")
    assert slide_files(main) == [main, folder / "Data0000.dat"]
    assert slide_identity(main) != alone


def test_missing_file(tmp_path):
    with pytest.raises(SlideError, match=r"none\.svs: cannot be read: No such file"):
        slide_identity(tmp_path / "none.svs")

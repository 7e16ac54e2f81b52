"""Files of a DICOM series."""

from __future__ import annotations

import pytest

from dicommaker import write_dicom
from wsipipe.errors import SlideError
from wsipipe.slides.dicom import is_dicom, main_file, series_files, series_uid


def test_series_is_read_from_the_header(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", "1.2.345")
    assert series_uid(path) == "1.2.345"
    assert is_dicom(path)


def test_file_without_series(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(b"no dicom")
    assert series_uid(path) is None
    assert not is_dicom(path)


def test_one_file_stands_for_its_series(tmp_path):
    a, b = (write_dicom(tmp_path / name, "1.2") for name in ("b.dcm", "a.dcm"))
    other = write_dicom(tmp_path / "c.dcm", "9.9")
    (tmp_path / ".hidden.dcm").write_bytes(b"")
    assert series_files(a) == [b, a]
    assert series_files(other) == [other]


def test_folder_of_one_series(tmp_path):
    a, b = (write_dicom(tmp_path / name, "1.2") for name in ("a.dcm", "b.DCM"))
    assert series_files(tmp_path) == [a, b]
    assert main_file(tmp_path) == a
    assert main_file(b) == b


def test_folder_of_two_series_is_refused(tmp_path):
    write_dicom(tmp_path / "a.dcm", "1.2")
    write_dicom(tmp_path / "b.dcm", "1.3")
    with pytest.raises(SlideError, match=r"holds 2 DICOM series.*one file of the series"):
        series_files(tmp_path)


def test_folder_without_dicom_is_refused(tmp_path):
    with pytest.raises(SlideError, match="folder without DICOM files"):
        main_file(tmp_path)

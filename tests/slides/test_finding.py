"""The slide of a key, in a file or a folder."""

from __future__ import annotations

import pytest

from dicommaker import write_dicom
from wsipipe.errors import SlideError
from wsipipe.slides import find_slide


def test_a_file_is_the_slide_and_a_folder_is_searched(tmp_path):
    for name in ("a.svs", "b.svs"):
        (tmp_path / name).touch()
    assert find_slide(tmp_path / "b.svs", "a") == tmp_path / "b.svs"
    assert find_slide(tmp_path, "a") == tmp_path / "a.svs"
    with pytest.raises(SlideError, match="holds no slide c"):
        find_slide(tmp_path, "c")


def test_a_folder_of_dicom_files_is_a_slide_itself(tmp_path):
    write_dicom(tmp_path / "1.dcm", "1.2")
    assert find_slide(tmp_path, "whatever") == tmp_path

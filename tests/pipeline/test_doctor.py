"""What the doctor says of the project folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsipipe.pipeline.doctor import _disk


@pytest.mark.parametrize("place", ["file", "file/project", "file/a/b"])
def test_a_file_in_the_way_of_the_project_folder_is_bad(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (finding,) = _disk(tmp_path / place)
    assert finding.state == "bad"
    assert finding.message == f"{tmp_path / 'file'} is a file, not a folder (choose another --output)"


def test_a_folder_that_is_yet_to_be_made_is_fine(tmp_path: Path) -> None:
    (finding,) = _disk(tmp_path / "new" / "project")
    assert finding.state != "bad"
    assert str(tmp_path) in finding.message

"""Files that belong together appear together, or not at all."""

from __future__ import annotations

import pytest

from wsipipe.errors import StoreError
from wsipipe.store.staging import staged


def test_files_appear_together_at_the_end(tmp_path):
    with staged(tmp_path / "out") as stage:
        (stage / "a").write_text("new")
        assert not (tmp_path / "out" / "a").exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


def test_a_failure_leaves_the_former_files_and_nothing_else(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError, match="half-way"):
        _write_half(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def _write_half(folder):
    with staged(folder) as stage:
        (stage / "a").write_text("new")
        raise RuntimeError("half-way")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"), staged(tmp_path / "file"):
        pass


def test_a_file_that_cannot_be_put_in_place_is_told(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "inside").write_text("")
    with pytest.raises(StoreError, match=str(tmp_path)), staged(tmp_path) as stage:
        (stage / "a").write_text("new")

"""Files that belong together appear together, or not at all."""

from __future__ import annotations

from pathlib import Path

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


def test_stages_of_killed_runs_of_the_same_key_are_removed(tmp_path):
    kept = {".staged-a-b-12345678", ".staged-b-12345678", ".staged-12345678", ".staged-aa-12345678"}
    for name in (".staged-a-12345678", ".staged-a-abcd_f78", *kept):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("")
    with staged(tmp_path, key="a") as stage:
        assert {path.name for path in tmp_path.iterdir()} == kept | {stage.name}
        assert stage.name.startswith(".staged-a-")
    with staged(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_stage_that_a_later_run_removed_is_not_moved_in_part(tmp_path):
    with pytest.raises(StoreError, match=r"another run writes the same files .*one at a time"):
        _be_overtaken(tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "later")]


def _be_overtaken(folder):
    with staged(folder, key="s") as stage:
        with staged(folder, key="s") as later:
            (later / "a").write_text("later")
        stage.mkdir()
        (stage / "b").write_text("half")


def test_the_mark_moves_last(tmp_path, monkeypatch):
    moved, replace = [], Path.replace

    def watch(self, target):
        assert (tmp_path / "s.json").exists() == ("s.json" in moved)
        moved.append(self.name)
        return replace(self, target)

    (tmp_path / "s.json").write_text("old")
    monkeypatch.setattr(Path, "replace", watch)
    with staged(tmp_path, key="s", mark=".json") as stage:
        for name in ("s.tif", "s.json", "s.png"):
            (stage / name).write_text("new")
        assert (tmp_path / "s.json").read_text() == "old"
    assert moved == ["s.png", "s.tif", "s.json"]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(moved, "new")


def test_a_move_cut_short_leaves_no_mark(tmp_path):
    (tmp_path / "s.json").write_text("old")
    (tmp_path / "s.tif" / "inside").mkdir(parents=True)
    with pytest.raises(StoreError, match=str(tmp_path)):
        _write_marked(tmp_path, "s.png", "s.tif", "s.json")
    assert {path.name for path in tmp_path.iterdir()} == {"s.png", "s.tif"}


def test_a_mark_that_was_not_written_is_told_and_nothing_moves(tmp_path):
    (tmp_path / "s.json").write_text("old")
    with pytest.raises(StoreError, match=r"nothing named '\.json' was written"):
        _write_marked(tmp_path, "s.png")
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]


def _write_marked(folder, *names):
    with staged(folder, mark=".json") as stage:
        for name in names:
            (stage / name).write_text("new")

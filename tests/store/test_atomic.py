from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from wsipipe.errors import SlideError, StoreError
from wsipipe.store.atomic import atomic_path, write_bytes, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_then_fail(target: Path, error: BaseException) -> None:
    with atomic_path(target) as temporary:
        temporary.write_text("half of the n")
        raise error


def write_to_full_disk(target: Path) -> None:
    with atomic_path(target) as temporary:
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(b"content")


def test_a_file_appears_whole_in_new_folders(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "mask.ome.tif"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.name.startswith(".")
        assert temporary.name.endswith("mask.ome.tif")
        temporary.write_bytes(b"content")
        assert not target.exists()
    assert target.read_bytes() == b"content"
    assert names(target.parent) == ["mask.ome.tif"]


def test_a_failed_write_leaves_the_former_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    write_text(target, "former")
    with pytest.raises(SlideError, match="damaged"):
        write_then_fail(target, SlideError("damaged"))
    assert target.read_text() == "former"
    assert names(tmp_path) == ["report.json"]


def test_an_interrupt_cleans_up_too(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_then_fail(tmp_path / "x", KeyboardInterrupt())
    assert names(tmp_path) == []


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"), atomic_path(tmp_path / "x"):
        pass


def test_content_replaces_content_and_umask_holds(tmp_path: Path) -> None:
    former = os.umask(0o027)
    try:
        write_bytes(tmp_path / "x", b"one")
        write_bytes(tmp_path / "x", b"two")
    finally:
        os.umask(former)
    assert (tmp_path / "x").read_bytes() == b"two"
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_text_is_utf8_with_line_ends_as_given(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "µm\n2\n")
    assert (tmp_path / "x").read_bytes() == b"\xc2\xb5m\n2\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_told_with_remedy(tmp_path: Path) -> None:
    target = tmp_path / "mask.tif"
    target.write_text("former")
    with pytest.raises(StoreError, match=r"mask\.tif: .*No space left.*disk is full: free some space") as caught:
        write_to_full_disk(target)
    assert caught.value.path == target
    assert target.read_text() == "former"
    assert names(tmp_path) == ["mask.tif"]


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StoreError, match="choose another output folder"):
        write_text(tmp_path / "out" / "report.json", "{}")
    with pytest.raises(StoreError, match="choose another output folder"):
        write_text(tmp_path / "out" / "deeper" / "report.json", "{}")


def test_a_folder_in_place_of_the_file_is_told_and_kept(tmp_path: Path) -> None:
    (tmp_path / "x" / "inner").mkdir(parents=True)
    with pytest.raises(StoreError, match="a folder has the name of the output file"):
        write_text(tmp_path / "x", "text")
    assert names(tmp_path) == ["x"]
    assert names(tmp_path / "x") == ["inner"]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "no right to write there"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "takes no file that large"),
    ],
)
def test_system_errors_come_with_their_remedy(tmp_path: Path, number: int, remedy: str) -> None:
    with pytest.raises(StoreError, match=remedy) as caught, atomic_path(tmp_path / "x"):
        raise OSError(number, os.strerror(number))
    assert isinstance(caught.value.__cause__, OSError)
    assert os.strerror(number) in str(caught.value)

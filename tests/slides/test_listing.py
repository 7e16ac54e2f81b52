"""Slides among files, folders and tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsipipe.errors import SlideError
from wsipipe.slides import SlideEntry, list_slides
from wsipipe.slides.listing import slide_key


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


@pytest.mark.parametrize(
    ("name", "key"),
    [("a.svs", "a"), ("a.b.svs", "a.b"), ("a.ome.tif", "a"), ("a.OME.TIFF", "a"), ("TCGA-01.DX1.svs", "TCGA-01.DX1")],
)
def test_key_is_the_stem(name, key):
    assert slide_key(Path(name)) == key


def test_files_keep_their_order_and_take_the_resolution():
    entries = list_slides(["z.svs", Path("a.tif")], slide_mpp=0.5)
    assert entries == [SlideEntry("z", Path("z.svs"), 0.5), SlideEntry("a", Path("a.tif"), 0.5)]


def test_folder_gives_its_slides_sorted(tmp_path):
    touch(tmp_path, "b.svs", "a.ndpi", "c.JPG", ".hidden.svs", "notes.txt", "b.mask.tif", "b.probability.tif", "x.csv")
    touch(tmp_path / "dicom", "1.dcm", "2.dcm")
    touch(tmp_path / "empty")
    assert [entry.key for entry in list_slides([tmp_path])] == ["a", "b", "c", "dicom"]


def test_a_folder_of_dicom_is_one_slide(tmp_path):
    folder = touch(tmp_path / "patient.1", "1.dcm", "2.dcm")
    assert list_slides([folder]) == [SlideEntry("patient.1", folder)]


def test_table_with_resolutions(tmp_path):
    touch(tmp_path, "a.svs", "b.svs")
    table = tmp_path / "slides.csv"
    table.write_text("wsi,mpp\na.svs,0.25\nb.svs,\n/elsewhere/c.svs,1\n\n")
    assert list_slides([table], slide_mpp=0.5) == [
        SlideEntry("a", tmp_path / "a.svs", 0.25),
        SlideEntry("b", tmp_path / "b.svs", 0.5),
        SlideEntry("c", Path("/elsewhere/c.svs"), 1.0),
    ]


def test_table_of_clam(tmp_path):
    touch(tmp_path, "a.svs", "b.svs", "c.tif")
    table = tmp_path / "process_list.csv"
    table.write_text("slide_id,process\na.svs,1\nb.svs,0\nc,1\n", encoding="utf-8-sig")
    assert [entry.path.name for entry in list_slides([table])] == ["a.svs", "c.tif"]


def test_the_same_file_twice_is_one_slide(tmp_path):
    touch(tmp_path, "a.svs")
    assert len(list_slides([tmp_path, tmp_path / "a.svs", tmp_path / "." / "a.svs"])) == 1


def test_two_files_with_one_key_are_refused(tmp_path):
    touch(tmp_path, "a.svs", "a.tif")
    with pytest.raises(SlideError, match=r"a\.svs and .*a\.tif would both write outputs called 'a'.*rename"):
        list_slides([tmp_path])


def test_nothing_found_is_an_error(tmp_path):
    touch(tmp_path, "notes.txt")
    with pytest.raises(SlideError, match=r"no slides found in .*known suffixes: \.svs"):
        list_slides([tmp_path])
    with pytest.raises(SlideError, match="no slides found in nothing"):
        list_slides([])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide,mpp\na.svs,1\n", "has the columns slide, mpp.*needs a column wsi"),
        ("", "has the columns none"),
        ("wsi,mpp\na.svs,0.5\nb.svs,fine\n", "line 3: mpp is 'fine', not a number"),
        ("slide_id,process\na.svs,yes\n", "line 2: process is 'yes'"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, message):
    table = tmp_path / "slides.csv"
    table.write_text(text)
    with pytest.raises(SlideError, match=rf"slides\.csv: {message}"):
        list_slides([table])


def test_tables_that_cannot_be_read(tmp_path):
    with pytest.raises(SlideError, match=r"none\.csv: cannot be read"):
        list_slides([tmp_path / "none.csv"])
    table = tmp_path / "latin.csv"
    table.write_bytes(b"wsi\n\xe9.svs\n")
    with pytest.raises(SlideError, match=r"latin\.csv: cannot be read"):
        list_slides([table])


def test_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(SlideError, match=f"{tmp_path}: cannot be listed: Permission denied"):
        list_slides([tmp_path])


def test_a_name_that_is_not_text_is_refused():
    """From an archive made on another system: the bytes are no UTF-8."""
    with pytest.raises(SlideError, match="not UTF-8"):
        list_slides(["M\udcfcller.svs"])

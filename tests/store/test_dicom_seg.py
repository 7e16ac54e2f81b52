"""DICOM segmentations, read back by highdicom."""

from __future__ import annotations

import sys

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

from wsipipe.errors import StoreError
from wsipipe.geometry import CellGrid
from wsipipe.store.dicom_seg import write_dicom_seg


def slide_file(path, *, width=1000, height=700, spacing=0.0005):
    """A header of a whole-slide image with what a segmentation needs, and no pixels."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[str(width)])
    data = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    for number, name in enumerate(("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"), start=1):
        setattr(data, name, f"1.2.3.{number}")
    data.Modality, data.ImageType = "SM", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    data.Rows = data.Columns = 256
    data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows = width, height
    data.NumberOfFrames = (-(-width // 256)) * (-(-height // 256))
    data.DimensionOrganizationType = "TILED_FULL"
    data.SamplesPerPixel, data.PhotometricInterpretation = 3, "RGB"
    data.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    measures, groups = Dataset(), Dataset()
    measures.PixelSpacing = [spacing, spacing]
    groups.PixelMeasuresSequence = [measures]
    data.SharedFunctionalGroupsSequence = [groups]
    data.save_as(path)
    return path


def mask_of(rows, cols):
    mask = np.random.default_rng(0).random((rows, cols)) > 0.5
    mask[: rows // 2] = False
    return mask


@pytest.fixture
def series(tmp_path):
    """Two levels of one slide."""
    return [slide_file(tmp_path / "b.dcm", width=500, height=350), slide_file(tmp_path / "a.dcm")]


def test_the_mask_comes_back_with_its_place_and_meaning(tmp_path, series):
    grid = CellGrid.covering(1000, 700, 1.5)
    mask = mask_of(*grid.shape)
    path = tmp_path / "out" / "x.seg.dcm"
    write_dicom_seg(path, mask, grid, slide_files=series, class_name="Tumor")
    read = highdicom.seg.segread(path)
    np.testing.assert_array_equal(read.get_total_pixel_matrix(combine_segments=True), mask)
    finest = pydicom.dcmread(series[1])
    assert read.ReferencedSeriesSequence[0].SeriesInstanceUID == finest.SeriesInstanceUID
    assert read.SourceImageSequence[0].ReferencedSOPInstanceUID == finest.SOPInstanceUID
    assert read.FrameOfReferenceUID == finest.FrameOfReferenceUID
    assert list(read.ImageOrientationSlide) == [0, -1, 0, -1, 0, 0]
    spacing = read.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    assert [float(value) for value in spacing] == pytest.approx([0.00075, 0.00075])
    (segment,) = read.SegmentSequence
    assert (segment.SegmentLabel, segment.SegmentedPropertyTypeCodeSequence[0].CodeValue) == ("Tumor", "108369006")


def test_the_same_content_has_the_same_identifiers(tmp_path, series):
    grid = CellGrid.covering(1000, 700, 4)
    mask = mask_of(*grid.shape)
    uids = []
    for name, pixels in (("x", mask), ("y", mask), ("z", ~mask)):
        write_dicom_seg(tmp_path / name, pixels, grid, slide_files=series, class_name="Fat")
        uids.append(pydicom.dcmread(tmp_path / name).SOPInstanceUID)
    assert uids[0] == uids[1] != uids[2]


def test_an_empty_mask_is_written(tmp_path, series):
    grid = CellGrid.covering(1000, 700, 2)
    write_dicom_seg(tmp_path / "x", np.zeros(grid.shape, bool), grid, slide_files=series, class_name="Tumor")
    assert not highdicom.seg.segread(tmp_path / "x").get_total_pixel_matrix(combine_segments=True).any()


def test_what_does_not_fit_is_told(tmp_path, series):
    grid = CellGrid.covering(900, 700, 2)
    mask = np.zeros(grid.shape, bool)
    with pytest.raises(StoreError, match=r"450 x 350 px of 2 px, its slide 1000 x 700"):
        write_dicom_seg(tmp_path / "x", mask, grid, slide_files=series, class_name="Tumor")
    (tmp_path / "no.dcm").write_bytes(b"no DICOM at all")
    for files in ([], [tmp_path / "no.dcm"]):
        with pytest.raises(StoreError, match="DICOM"):
            write_dicom_seg(tmp_path / "x", mask, grid, slide_files=files, class_name="Tumor")
    assert not (tmp_path / "x").exists()


def test_a_missing_library_is_told(tmp_path, series, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(StoreError, match=r"needs highdicom.*wsipipe\[dicom\]"):
        write_dicom_seg(tmp_path / "x", np.zeros((1, 1), bool), CellGrid(1, 1, 1.0), slide_files=series, class_name="T")


def test_real_slide(shared, tmp_path):
    files = sorted((shared / "slides" / "dicom_cmu1").glob("*.dcm"))
    grid = CellGrid.covering(2220, 2967, 2.0)
    mask = mask_of(*grid.shape)
    write_dicom_seg(tmp_path / "x.dcm", mask, grid, slide_files=files, class_name="Stroma")
    read = highdicom.seg.segread(tmp_path / "x.dcm")
    np.testing.assert_array_equal(read.get_total_pixel_matrix(combine_segments=True), mask)

"""A mask as a DICOM segmentation that refers to the DICOM slide it was made on.

Source: DICOM PS3.3, A.51 (Segmentation IOD), written by highdicom (`pip install 'wsipipe[dicom]'`).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsipipe._version import __version__
from wsipipe.errors import StoreError
from wsipipe.geometry import CellGrid
from wsipipe.store.atomic import atomic_path

_TILE = 512
_WIDTH, _HEIGHT = "TotalPixelMatrixColumns", "TotalPixelMatrixRows"
# Of type 2 (PS3.3): present in every slide by the standard, if empty; anonymised slides lack them.
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
    "StudyID", "ReferringPhysicianName",
)  # fmt: skip
# SNOMED CT codes of the classes that QuPath knows; others are "tissue". Meanings as in CID 7150, 7151.
_TISSUE = ("85756007", "Tissue")
_CODES: Mapping[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "tumor": (("49755003", "Morphologically Abnormal Structure"), ("108369006", "Neoplasm")),
    "necrosis": (("49755003", "Morphologically Abnormal Structure"), ("6574001", "Necrosis")),
}


def write_dicom_seg(
    path: Path, mask: NDArray[np.bool_], grid: CellGrid, *, slide_files: Sequence[Path], class_name: str
) -> None:
    """Write a mask as a binary, tiled DICOM segmentation, whole or not at all.

    Parameters
    ----------
    path : Path
        ".dcm".
    mask : (rows, cols) bool array
        In target.
    grid : CellGrid
        Pixels of the mask over the slide, origin (0, 0).
    slide_files : sequence of Path
        DICOM files of the slide's series; the segmentation refers to the finest level and lies in its frame of
        reference, with larger pixels.
    class_name : str
        Label of the segment. Tumor and Necrosis get their SNOMED codes, others that of tissue.

    Raises
    ------
    StoreError
        highdicom is not installed, the files hold no whole-slide image in DICOM, the mask does not cover it, or the
        file cannot be written.

    Notes
    -----
    Identifiers follow from the content: the same mask of the same slide gives the same UIDs.
    """
    try:
        import highdicom
        import pydicom
    except ImportError as error:
        remedy = "pip install 'wsipipe[dicom]'"
        raise StoreError("DICOM needs highdicom, which is not installed", path=path, remedy=remedy) from error
    with warnings.catch_warnings():
        # What pydicom has to say of the values in a slide's header is none of the user's.
        warnings.simplefilter("ignore", UserWarning)
        try:
            source = _finest(pydicom, slide_files, path)
            _check_cover(source, grid, path)
            segmentation = highdicom.seg.Segmentation(
                source_images=[source],
                pixel_array=mask.astype(np.uint8),
                segmentation_type="BINARY",
                segment_descriptions=[_segment(highdicom, class_name)],
                pixel_measures=_measures(highdicom, source, grid.cell_px),
                tile_pixel_array=True,
                tile_size=(_TILE, _TILE),
                dimension_organization_type="TILED_FULL",
                omit_empty_frames=False,
                **_identity(pydicom, source, mask, class_name),
            )
        except (AttributeError, KeyError, IndexError, ValueError, TypeError, pydicom.errors.InvalidDicomError) as error:
            told = " ".join(str(error).split())
            raise StoreError(f"the slide's DICOM header does not do for a segmentation: {told}", path=path) from error
        with atomic_path(path) as temporary:
            segmentation.save_as(temporary)


def _finest(pydicom: Any, files: Sequence[Path], path: Path) -> Any:  # noqa: ANN401 (neither library is typed here)
    """Header of the largest image of a series, completed where it lacks what may be empty."""
    found = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    slides = [header for header in found if _WIDTH in header and "SharedFunctionalGroupsSequence" in header]
    if not slides:
        raise StoreError("needs a DICOM slide to refer to", path=path, remedy="give its folder with --slide")
    source = max(slides, key=lambda header: int(header[_WIDTH].value))
    for name in _MAY_BE_EMPTY:
        if name not in source:
            setattr(source, name, None)
    if "TotalPixelMatrixOriginSequence" not in source:
        origin = pydicom.Dataset()
        origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = 0
        source.TotalPixelMatrixOriginSequence = [origin]
    return source


def _check_cover(source: Any, grid: CellGrid, path: Path) -> None:  # noqa: ANN401
    width, height = int(source[_WIDTH].value), int(source[_HEIGHT].value)
    beyond = abs(grid.cols * grid.cell_px - width), abs(grid.rows * grid.cell_px - height)
    if max(beyond) >= grid.cell_px or grid.origin != (0.0, 0.0):
        raise StoreError(
            f"the mask is {grid.cols} x {grid.rows} px of {grid.cell_px:g} px, its slide {width} x {height}",
            path=path,
            remedy="give the slide that the mask was made on",
        )


def _measures(highdicom: Any, source: Any, cell_px: float) -> Any:  # noqa: ANN401
    """Size of the mask's pixels in mm."""
    own = source.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    spacing = [float(value) * cell_px for value in own.PixelSpacing]
    return highdicom.PixelMeasuresSequence(
        pixel_spacing=spacing, slice_thickness=float(own.get("SliceThickness", 0.001))
    )


def _segment(highdicom: Any, class_name: str) -> Any:  # noqa: ANN401
    code = highdicom.sr.CodedConcept
    category, kind = _CODES.get(class_name.strip().casefold(), (_TISSUE, _TISSUE))
    return highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label=class_name,
        segmented_property_category=code(category[0], "SCT", category[1]),
        segmented_property_type=code(kind[0], "SCT", kind[1]),
        algorithm_type="SEMIAUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="wsipipe", family=code("123110", "DCM", "Artificial Intelligence"), version=__version__
        ),
    )


def _identity(pydicom: Any, source: Any, mask: NDArray[np.bool_], class_name: str) -> dict[str, object]:  # noqa: ANN401
    digest = hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()
    seed = [str(source.SOPInstanceUID), str(mask.shape), digest, class_name]
    return {
        "series_instance_uid": pydicom.uid.generate_uid(entropy_srcs=[*seed, "series"]),
        "sop_instance_uid": pydicom.uid.generate_uid(entropy_srcs=[*seed, "instance"]),
        "series_number": 1,
        "instance_number": 1,
        "series_description": f"wsipipe: {class_name}"[:64],
        "manufacturer": "wsipipe",
        "manufacturer_model_name": "wsipipe",
        "software_versions": __version__,
        "device_serial_number": "none",
    }
